"""The ads that were added or changed since the index was built.

Storage is append-only: an ad that changes again gets a new position, and older positions keep
their content. A snapshot is therefore a few references and a mask of the positions that are alive,
and later updates do not affect it.

Shapes: M positions, D embedding size, F columns of ad features.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from serving import index, requests


@dataclasses.dataclass(frozen=True)
class Segment:
    """The ads at a range of positions, with their filter index.

    Attributes:
        start: First position.
        ads: Ad ids and raw fields.
        eligibility: Resolves filters over `ads`.
    """

    start: int
    ads: pa.Table
    eligibility: index.Eligibility

    @classmethod
    def of(cls, start: int, ads: pa.Table) -> "Segment":
        """Creates a segment from a table of ads."""
        # An ad that changed is in several rows; the snapshot knows which one is alive.
        return cls(start, ads, index.Eligibility(ads, index.AD_ID, unique_ids=False))


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """An immutable view of the added ads.

    Attributes:
        embeddings: [M, D] float32.
        features: [M, F] int32.
        segments: Segments that cover the M positions in order.
        alive: [M] bool, whether the ad was neither removed nor changed later.
    """

    embeddings: np.ndarray
    features: np.ndarray
    segments: tuple[Segment, ...]
    alive: np.ndarray

    def eligible(self, filters: requests.Filters) -> np.ndarray:
        """Returns which positions are alive and match the filters: [M] bool."""
        mask = np.zeros(len(self.alive), bool)
        for segment in self.segments:
            mask[segment.start + segment.eligibility.eligible(filters).rows] = True
        return mask & self.alive

    def take(self, positions: np.ndarray) -> pa.Table:
        """Returns the ad ids and raw fields at positions [C]."""
        return pa.concat_tables(segment.ads for segment in self.segments).take(pa.array(positions))


class Delta:
    """Collects added ads and returns snapshots of them. Changes need external locking.

    Args:
        dimension: Embedding size D.
        num_columns: Number of columns F of the ad features.
    """

    def __init__(self, dimension: int, num_columns: int) -> None:
        self._embeddings = np.empty((0, dimension), np.float32)
        self._features = np.empty((0, num_columns), np.int32)
        self._segments: tuple[Segment, ...] = ()
        self._position_of: dict[str, int] = {}
        self._alive = np.zeros(0, bool)

    def snapshot(self) -> Snapshot:
        """Returns the current state."""
        count = len(self._alive)
        return Snapshot(
            self._embeddings[:count], self._features[:count], self._segments, self._alive
        )

    def holds(self, ad_id: str) -> bool:
        """Returns whether an ad was added and not removed later."""
        return ad_id in self._position_of

    def remove(self, ad_ids: Sequence[str]) -> None:
        """Removes ads; ids that were never added are ignored."""
        positions = [self._position_of.pop(ad) for ad in ad_ids if ad in self._position_of]
        self._alive = self._alive.copy()
        self._alive[positions] = False

    def add(self, ads: pa.Table, embeddings: np.ndarray, features: np.ndarray) -> None:
        """Adds ads, replacing those with the same id.

        Args:
            ads: B rows of ad ids and raw fields, each id once.
            embeddings: [B, D] float32.
            features: [B, F] int32.
        """
        ad_ids = ads[index.AD_ID].to_pylist()
        self.remove(ad_ids)
        start, end = len(self._alive), len(self._alive) + len(ad_ids)
        self._embeddings = _grown(self._embeddings, start, end)
        self._features = _grown(self._features, start, end)
        # These rows are beyond the end of every snapshot, so no reader sees them being written.
        self._embeddings[start:end] = embeddings
        self._features[start:end] = features
        self._alive = np.append(self._alive, np.ones(len(ad_ids), bool))
        self._position_of.update(zip(ad_ids, range(start, end), strict=True))
        self._segments = _merged((*self._segments, Segment.of(start, ads)))


def _grown(array: np.ndarray, used: int, wanted: int) -> np.ndarray:
    if wanted <= len(array):
        return array
    larger = np.empty((max(wanted, 2 * len(array)), array.shape[1]), array.dtype)
    larger[:used] = array[:used]
    return larger


def _merged(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """Merges the last segments until each is at most half as large as the one before.

    This keeps the number of segments small without indexing each ad again at every update.
    """
    parts = list(segments)
    while len(parts) > 1 and parts[-2].ads.num_rows < 2 * parts[-1].ads.num_rows:
        last = parts.pop()
        first = parts.pop()
        ads = pa.concat_tables([first.ads, last.ads]).combine_chunks()
        parts.append(Segment.of(first.start, ads))
    return tuple(parts)
