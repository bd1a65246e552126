"""The in-memory state of a live index: a release with its updates applied.

Shapes: N ads of the release.
"""

import numpy as np
import pyarrow as pa

from serving import index
from serving.live import additions, live_update, live_view


class LiveState:
    """State after all updates so far. Not thread-safe, but its views are.

    Args:
        released: Index of the release.
    """

    def __init__(self, released: index.AdIndex) -> None:
        self._released = released
        self._removed = index.RowSet.of_rows(np.empty(0, np.int64), released.num_ads)
        self._added = additions.Delta(released.dimension, released.num_fields)

    def apply(self, update: live_update.Update) -> None:
        """Applies one update."""
        gone = [*update.removed, *update.ads[index.AD_ID].to_pylist()]
        rows = self._released.find(gone)
        self._removed |= index.RowSet.of_rows(rows[rows >= 0], self._released.num_ads)
        self._added.remove(update.removed)
        if update.ads.num_rows:
            self._added.add(update.ads, update.embeddings, update.features)

    def view(self) -> live_view.LiveView:
        """Returns a view of the current ads."""
        return live_view.LiveView(self._released, self._removed, self._added.snapshot())

    def holds(self, ad_ids: list[str]) -> int:
        """Returns how many of the given ads exist."""
        rows = self._released.find(ad_ids)
        return sum(
            self._added.holds(ad_id)
            or bool(row >= 0 and not self._removed.contains(np.array([row]))[0])
            for ad_id, row in zip(ad_ids, rows.tolist(), strict=True)
        )

    @property
    def num_dead(self) -> int:
        """Number of positions of added ads that were later changed or removed."""
        alive = self._added.snapshot().alive
        return len(alive) - int(alive.sum())

    def condensed(self) -> live_update.Update:
        """Returns a single update that leads from the release to the current state."""
        added = self._added.snapshot()
        alive = np.flatnonzero(added.alive)
        removed = self._released.ad_ids(self._removed.rows)
        schema = self._released.table_schema.remove_metadata()
        ads = added.take(alive) if len(alive) else pa.table(schema.empty_table())
        return live_update.Update(
            tuple(removed), ads, added.embeddings[alive], added.features[alive]
        )
