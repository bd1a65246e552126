"""A snapshot of the ads that were added or changed since the index was built.

`live_state` appends them: an ad that changes again gets a new position, and older positions keep
their content. So a snapshot is a few references and a mask of the positions that are alive, and
later updates do not affect it.

Shapes: M positions, D embedding size, F columns of ad features.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serving import index, requests


@dataclasses.dataclass(frozen=True)
class AddedSegment:
    """The ads at a range of positions, with their filter index.

    Attributes:
        start: First position.
        ads: Ad ids and raw fields.
    """

    start: int
    ads: pa.Table

    @functools.cached_property
    def eligibility(self) -> index.Eligibility:
        """Resolves filters over `ads`."""
        # An ad that changed is in several rows; the snapshot identifies the current one.
        return index.Eligibility(self.ads, index.AD_ID, unique_ids=False)


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
    segments: tuple[AddedSegment, ...]
    alive: np.ndarray

    def eligible(self, filters: requests.Filters) -> np.ndarray:
        """Returns which positions are alive and match the filters: [M] bool."""
        mask = np.zeros(len(self.alive), bool)
        for segment in self.segments:
            mask[segment.start + segment.eligibility.eligible(filters).rows] = True
        return mask & self.alive

    def find(self, ad_ids: Sequence[str]) -> np.ndarray:
        """Returns the ascending positions of ads that are alive; unknown ids are left out."""
        ids = pa.array(ad_ids, pa.string())
        known = [pc.is_in(segment.ads[index.AD_ID], ids).to_numpy() for segment in self.segments]
        return np.flatnonzero(np.concatenate(known) & self.alive)

    def take(self, positions: np.ndarray) -> pa.Table:
        """Returns the ad ids and raw fields at positions [C]."""
        return pa.concat_tables(segment.ads for segment in self.segments).take(pa.array(positions))


def merged(segments: tuple[AddedSegment, ...]) -> tuple[AddedSegment, ...]:
    """Merges the last segments until each is at most half as large as the one before.

    This keeps the number of segments small without indexing each ad again at every update.
    """
    parts = list(segments)
    while len(parts) > 1 and parts[-2].ads.num_rows < 2 * parts[-1].ads.num_rows:
        last = parts.pop()
        first = parts.pop()
        ads = pa.concat_tables([first.ads, last.ads]).combine_chunks()
        parts.append(AddedSegment(first.start, ads))
    return tuple(parts)
