"""Clustered embeddings, and indexes saved as a release saves them."""

import numpy as np
import serving_fixtures

from serving.index import ad_index


def clustered(num_ads: int, num_clusters: int = 40, dimension: int = 32) -> np.ndarray:
    """Returns clustered unit vectors, like trained embeddings: [N, D] float32."""
    rng = np.random.default_rng(num_ads)
    centers = rng.normal(size=(num_clusters, dimension))
    points = centers[rng.integers(0, num_clusters, num_ads)]
    points = points + 0.4 * rng.normal(size=(num_ads, dimension))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def save(built: ad_index.BuiltIndex, directory, **changes):
    num_ads = built.searcher.num_ads
    parts = {
        "ad_features": serving_fixtures.ad_features(num_ads),
        "ads": serving_fixtures.ads_table(num_ads),
    }
    built.save(directory, **{**parts, **changes})
    return directory
