"""The ads that were added to an index, or changed, since it was built.

Everything here only grows: an ad that changes again gets another place, and what an ad's older
places hold stays as it was. So a snapshot is a few references and a copy of which places are
alive; whoever holds one is not disturbed by later updates.

Shapes: M places, D embedding size, F columns of ad features.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from serving import index, requests


@dataclasses.dataclass(frozen=True)
class Segment:
    """The ads of some places that follow each other, laid out for display and for filters."""

    start: int
    ads: pa.Table
    eligibility: index.Eligibility

    @classmethod
    def of(cls, start: int, ads: pa.Table) -> "Segment":
        """Lays out a table of ads."""
        # An ad that changed is there more than once; which row is alive, the snapshot knows.
        return cls(start, ads, index.Eligibility(ads, index.AD_ID, unique_ids=False))


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The added ads at one moment.

    Attributes:
        embeddings: [M, D] float32.
        features: [M, F] int32.
        segments: Cover the M places in order.
        alive: [M] bool: neither removed nor changed since.
    """

    embeddings: np.ndarray
    features: np.ndarray
    segments: tuple[Segment, ...]
    alive: np.ndarray

    def eligible(self, filters: requests.Filters) -> np.ndarray:
        """Returns which places are alive and meet filters: [M] bool."""
        mask = np.zeros(len(self.alive), bool)
        for segment in self.segments:
            mask[segment.start + segment.eligibility.eligible(filters).rows] = True
        return mask & self.alive

    def take(self, places: np.ndarray) -> pa.Table:
        """Returns the ad ids and raw fields of places [C]."""
        starts = [segment.start for segment in self.segments]
        owners = np.searchsorted(starts, places, side="right") - 1
        order = np.argsort(owners, kind="stable")
        parts = [
            self.segments[owner].ads.take(pa.array(places[owners == owner] - starts[owner]))
            for owner in np.unique(owners)
        ]
        # Parts are in the order of their segments: the inverse brings them back.
        return pa.concat_tables(parts).take(pa.array(np.argsort(order, kind="stable")))


class Delta:
    """Takes ads in, and gives snapshots. One thread at a time may change it.

    Args:
        dimension: D.
        num_columns: F.
    """

    def __init__(self, dimension: int, num_columns: int) -> None:
        self._embeddings = np.empty((0, dimension), np.float32)
        self._features = np.empty((0, num_columns), np.int32)
        self._segments: tuple[Segment, ...] = ()
        self._place_of: dict[str, int] = {}
        self._alive = np.zeros(0, bool)

    def snapshot(self) -> Snapshot:
        """Returns what holds now."""
        count = len(self._alive)
        return Snapshot(
            self._embeddings[:count], self._features[:count], self._segments, self._alive
        )

    def holds(self, ad_id: str) -> bool:
        """Returns whether an ad was added, and not removed since."""
        return ad_id in self._place_of

    def remove(self, ad_ids: Sequence[str]) -> None:
        """Takes ads out; those that were never added are not there."""
        places = [self._place_of.pop(ad_id) for ad_id in ad_ids if ad_id in self._place_of]
        self._alive = self._alive.copy()
        self._alive[places] = False

    def add(self, ads: pa.Table, embeddings: np.ndarray, features: np.ndarray) -> None:
        """Puts ads in, each once, in the place of those that have the same id.

        Args:
            ads: Ad ids and raw fields.
            embeddings: [B, D] float32.
            features: [B, F] int32.
        """
        ad_ids = ads[index.AD_ID].to_pylist()
        self.remove(ad_ids)
        start, end = len(self._alive), len(self._alive) + len(ad_ids)
        self._embeddings = _with_room(self._embeddings, start, end)
        self._features = _with_room(self._features, start, end)
        # Beyond the end of every snapshot, so that none sees it being written.
        self._embeddings[start:end] = embeddings
        self._features[start:end] = features
        self._alive = np.append(self._alive, np.ones(len(ad_ids), bool))
        self._place_of.update(zip(ad_ids, range(start, end), strict=True))
        self._segments = _joined((*self._segments, Segment.of(start, ads)))


def _with_room(array: np.ndarray, used: int, wanted: int) -> np.ndarray:
    if wanted <= len(array):
        return array
    larger = np.empty((max(wanted, 2 * len(array)), array.shape[1]), array.dtype)
    larger[:used] = array[:used]
    return larger


def _joined(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """Joins the last segments until each is less than half of the one before.

    So there are few of them, and each ad is laid out for filters a few times and not with every
    update.
    """
    parts = list(segments)
    while len(parts) > 1 and parts[-2].ads.num_rows < 2 * parts[-1].ads.num_rows:
        last = parts.pop()
        first = parts.pop()
        ads = pa.concat_tables([first.ads, last.ads]).combine_chunks()
        parts.append(Segment.of(first.start, ads))
    return tuple(parts)
