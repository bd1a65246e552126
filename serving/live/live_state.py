"""The in-memory state of a live index: a release with its updates applied.

Added ads are appended, and never overwritten, because snapshots share the arrays.

Shapes: N ads of the release, M positions of added ads, D embedding size, F ad columns.
"""

import numpy as np
import pyarrow as pa

from serving import index
from serving.live import additions, live_update, live_view


class LiveState:
    """State after all updates so far. Not thread-safe, but its views are."""

    def __init__(self, released: index.AdIndex) -> None:
        self._released = released
        self._removed = index.RowSet.from_rows(np.empty(0, np.int64), released.num_ads)
        self._embeddings = np.empty((0, released.dimension), np.float32)
        self._features = np.empty((0, released.num_fields), np.int32)
        self._segments: tuple[additions.AddedSegment, ...] = ()
        self._positions: dict[str, int] = {}
        self._alive = np.zeros(0, bool)

    def apply(self, update: live_update.Update) -> None:
        """Applies one update."""
        added = update.ads[index.AD_ID].to_pylist()
        self._remove([*update.removed, *added])
        if not added:
            return
        start, end = len(self._alive), len(self._alive) + len(added)
        self._embeddings = _grown(self._embeddings, start, end)
        self._features = _grown(self._features, start, end)
        # These rows are beyond the end of every snapshot, so no reader sees them being written.
        self._embeddings[start:end] = update.embeddings
        self._features[start:end] = update.features
        self._alive = np.append(self._alive, np.ones(len(added), bool))
        self._positions.update(zip(added, range(start, end), strict=True))
        segment = additions.AddedSegment(start, update.ads)
        self._segments = additions.merged((*self._segments, segment))

    def _remove(self, ad_ids: list[str]) -> None:
        rows = self._released.find(ad_ids)
        self._removed |= index.RowSet.from_rows(rows[rows >= 0], self._released.num_ads)
        positions = [self._positions.pop(ad) for ad in ad_ids if ad in self._positions]
        self._alive = self._alive.copy()
        self._alive[positions] = False

    def view(self) -> live_view.LiveView:
        """Returns a view of the current ads."""
        return live_view.LiveView(self._released, self._removed, self._snapshot())

    def _snapshot(self) -> additions.Snapshot:
        count = len(self._alive)
        return additions.Snapshot(
            self._embeddings[:count], self._features[:count], self._segments, self._alive
        )

    def contains(self, ad_ids: list[str]) -> np.ndarray:
        """Returns which of the given ads exist, [B] bool."""
        rows = self._released.find(ad_ids)
        in_release = (rows >= 0) & ~self._removed.contains(np.maximum(rows, 0))
        added = np.array([ad_id in self._positions for ad_id in ad_ids], bool)
        return added | in_release

    @property
    def num_dead(self) -> int:
        """Number of positions of added ads that were later changed or removed."""
        return len(self._alive) - len(self._positions)

    def condensed(self) -> live_update.Update:
        """Returns a single update that leads from the release to the current state."""
        added = self._snapshot()
        alive = np.flatnonzero(added.alive)
        removed = self._released.ad_ids(self._removed.rows)
        schema = self._released.table_schema.remove_metadata()
        ads = added.take(alive) if len(alive) else pa.table(schema.empty_table())
        return live_update.Update(
            tuple(removed), ads, added.embeddings[alive], added.features[alive]
        )


def _grown(array: np.ndarray, used: int, num_rows: int) -> np.ndarray:
    if num_rows <= len(array):
        return array
    larger = np.empty((max(num_rows, 2 * len(array)), array.shape[1]), array.dtype)
    larger[:used] = array[:used]
    return larger
