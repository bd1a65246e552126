"""Generates embeddings of ads and queries with the structure of a trained two-tower model.

Benchmarks of the index use them for any number of ads, in chunks, if there is no trained tower:

    hierarchy     an ad is the sum of its topic (of 64), its campaign (of 2,000 with power-law
                  sizes) and its own part, with shares 0.30 : 0.35 : 0.35 of the variance
    anisotropy    the variance of principal direction j is proportional to 1 / (1 + j); the
                  directions are a random rotation of the axes. The participation ratio
                  (Σλ)²/Σλ² is about 28 of 256
    length        unit length, as the towers normalize
    queries       the weighted mean of one to four ads (a user's tastes), plus noise of the same
                  spectrum with a quarter of the variance: cosines of about 0.7 to the best ad,
                  0.5 to the 500th of a million, 0 on average

Real towers differ. The structure is documented to help judge the results; the benchmark also
accepts embeddings of a trained tower.

Shapes: N ads, Q queries, D embedding size.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

_TOPICS, _CAMPAIGNS = 64, 2_000
_TOPIC, _CAMPAIGN, _OWN = 0.30, 0.35, 0.35
_SIZE_EXPONENT, _SIZE_OFFSET = 0.7, 10.0
_MAX_TASTES = 4
_NOISE = 0.5
CHUNK = 100_000


@dataclasses.dataclass(frozen=True)
class Space:
    """The distribution of ads and queries.

    Attributes:
        campaigns: Centers of the campaigns [campaigns, D] float32, before rotation.
        sizes: Share of ads [campaigns] of each campaign.
        scales: Standard deviation [D] float32 along each principal direction.
        rotation: Rotation [D, D] float32.
        seed: Random seed.
    """

    campaigns: np.ndarray
    sizes: np.ndarray
    scales: np.ndarray
    rotation: np.ndarray
    seed: int

    @classmethod
    def drawn(cls, dimension: int = 256, seed: int = 0) -> "Space":
        """Draws a space."""
        rng = np.random.default_rng(seed)
        variances = 1 / np.arange(1, dimension + 1)
        scales = np.sqrt(variances / variances.sum()).astype(np.float32)
        rotation = np.linalg.qr(rng.standard_normal((dimension, dimension)))[0]
        topics = rng.standard_normal((_TOPICS, dimension)) * scales
        campaigns = rng.standard_normal((_CAMPAIGNS, dimension)) * scales
        parents = topics[rng.integers(0, _TOPICS, _CAMPAIGNS)]
        centers = np.sqrt(_TOPIC) * parents + np.sqrt(_CAMPAIGN) * campaigns
        sizes = (np.arange(_CAMPAIGNS) + _SIZE_OFFSET) ** -_SIZE_EXPONENT
        return cls(
            centers.astype(np.float32),
            sizes / sizes.sum(),
            scales,
            rotation.astype(np.float32),
            seed,
        )

    def chunks(self, num_ads: int) -> Iterator[np.ndarray]:
        """Yields ad embeddings [rows, D] float32; more ads start with the same ones."""
        for start in range(0, num_ads, CHUNK):
            rng = np.random.default_rng([self.seed, 1, start])
            yield self._ads(rng, CHUNK)[: num_ads - start]

    def queries(self, num_queries: int) -> np.ndarray:
        """Draws query embeddings [Q, D] float32."""
        rng = np.random.default_rng([self.seed, 2, 0])
        ads = self._ads(rng, num_queries * _MAX_TASTES).reshape(num_queries, _MAX_TASTES, -1)
        tastes = rng.integers(1, _MAX_TASTES + 1, num_queries)
        weights = rng.exponential(size=(num_queries, _MAX_TASTES))
        weights *= np.arange(_MAX_TASTES) < tastes[:, None]
        centers = _unit((ads * weights[:, :, None]).sum(axis=1))
        noise = rng.standard_normal(centers.shape) * self.scales
        return _unit(centers + _NOISE * (noise @ self.rotation)).astype(np.float32)

    def _ads(self, rng: np.random.Generator, count: int) -> np.ndarray:
        vectors = rng.standard_normal((count, len(self.scales)), dtype=np.float32)
        vectors *= np.float32(np.sqrt(_OWN)) * self.scales
        vectors += self.campaigns[rng.choice(len(self.sizes), count, p=self.sizes)]
        return _unit(vectors @ self.rotation)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
