"""Adds, changes and removes ads of a release while it is served.

    live = LiveIndex(releases.load("bundles"))
    live.update([{"ad_id": "ad-17", "fields": {"advertiser": "a9", "price": 12.5}}], ["ad-3"])
    scores, rows = live.view().search(query_embeddings, 500)

An update counts when `update` returns: it is on the disk, and every process that serves the
release takes it up with its next `refresh`, which an orchestrator calls with each request.
Searches take no lock: each works on the view that was current when it began.

Shapes: B ads, D embedding size, F columns of ad features.
"""

import dataclasses
import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving import errors, releases
from serving.config import LiveConfig
from serving.index import AD_ID, recall_of_rows
from serving.live import ad_rows, live_state, live_store, live_update, live_view
from tfrecords.schema import NUM_CANDIDATES


@dataclasses.dataclass(frozen=True)
class Applied:
    """What an update did.

    Attributes:
        added: Ads that were new.
        changed: Ads that were there, and have other fields now.
        removed: Ads that were there.
        unknown: Ids to remove that no ad has.
    """

    added: int
    changed: int
    removed: int
    unknown: int


class LiveIndex:
    """The ads of a release with its updates. Calls from several threads are safe.

    Args:
        release: The loaded release.
        config: None = the defaults.

    Raises:
        LiveIndexError: There are updates, but of another release, or damaged ones.
    """

    def __init__(self, release: releases.Bundle, config: LiveConfig | None = None) -> None:
        self._release = release
        self._config = config or LiveConfig()
        self._rows = ad_rows.AdRows(release.manifest.ad_kinds, release.ad_index.table_schema)
        self._store = live_store.LiveStore(
            release.base, release.version, release.manifest.training_id
        )
        self._state = live_state.LiveState(release.ad_index)
        self._view = self._state.view()
        self._lock = threading.Lock()
        self._tower: releases.AdTower | None = None
        self._tower_lock = threading.Lock()
        self._recall: float | None = None
        self._problem: str | None = None
        # The state of the journal that the view shows.
        self._shown: tuple[int, ...] | None = None
        self._catch_up()

    def view(self) -> live_view.LiveView:
        """Returns the ads as they are now."""
        return self._view

    def refresh(self) -> None:
        """Takes up what any process has written; a look at the file where nothing is new.

        A journal that was damaged meanwhile is reported in `status`, and the ads stay as they
        were.
        """
        try:
            # Without the lock, so that nobody waits where nothing is new.
            if self._store.state_of_file() != self._shown:
                with self._lock:
                    self._catch_up()
            self._problem = None
        except errors.LiveIndexError as error:
            if str(error) != self._problem:
                logging.error("Updates are not taken up: %s", error)
            self._problem = str(error)

    def update(self, ads: Sequence[Mapping[str, Any]] = (), removed: Sequence[Any] = ()) -> Applied:
        """Adds or changes ads, and removes others, all at once; on the disk when it returns.

        Args:
            ads: As `ad_rows` describes them; one that is there already is replaced.
            removed: Ids of ads that are to go.

        Raises:
            InvalidAdError: An ad or an id is refused, and nothing is changed.
            LiveIndexError: The journal cannot be read or written.
            ProbeMismatchError: The ad tower is not the release's.
        """
        rows, table = self._rows.check(ads)
        added = table[AD_ID].to_pylist()
        gone = sorted({ad_rows.check_ad_id(f"removed[{i}]", ad) for i, ad in enumerate(removed)})
        both = set(added) & set(gone)
        if both:
            raise errors.InvalidAdError(
                f"removed: expected other ads than those that are added, got {min(both)!r} in both."
            )
        # Before the locks: it takes a second for some thousand ads, and searches and other
        # processes would wait.
        change = live_update.Update(tuple(gone), table, *self._embed(rows))
        with self._lock, self._store.writing():
            self._catch_up()
            there, found = self._state.holds(added), self._state.holds(gone)
            self._store.append(change)
            self._take_up([change])
            self._rewrite_if_worn()
            self._shown = self._store.seen
        return Applied(len(added) - there, there, found, len(gone) - found)

    def status(self) -> dict[str, Any]:
        """Returns what is live, for people and monitoring."""
        view = self._view
        return {
            "num_ads": view.num_ads,
            "added": view.num_added,
            "removed_or_changed": view.num_removed,
            "journal_bytes": self._store.num_bytes,
            "recall_at_500": self._recall,
            "rebuild_suggested": self.rebuild_suggested(),
            "problem": self._problem,
        }

    def rebuild_suggested(self) -> str | None:
        """Returns why a new release should be exported, or None."""
        view, config, num_ads = self._view, self._config, self._release.ad_index.num_ads
        if view.num_added > config.max_added:
            return (
                f"{view.num_added:,} added ads are compared one by one in each search; up to "
                f"{config.max_added:,} take little time."
            )
        for count, most, what in (
            (view.num_added, config.max_added_share, "added"),
            (view.num_removed, config.max_removed_share, "removed or changed"),
        ):
            if count > most * num_ads:
                return (
                    f"{count:,} ads were {what}, {count / num_ads:.0%} of the release; the index "
                    f"was tuned without them. Up to {most:.0%} matter little."
                )
        exported = self._release.manifest.index["recall_at_500_against_exact"]
        if self._recall is not None and self._recall < exported - config.max_recall_loss:
            recall = f"Recall at {NUM_CANDIDATES} is {self._recall:.4f}"
            return f"{recall}; it was {exported:.4f} at export."
        return None

    def measure_recall(self) -> float:
        """Returns the share of the exact top `NUM_CANDIDATES` that searches of the live ads find.

        The queries are those that the export left with the index, or else its probes.
        """
        kept = self._release.ad_index.sample_queries
        probed = self._release.manifest.probes["query_embeddings"]
        queries = np.array(probed if kept is None else kept, np.float32)
        view = self._view
        _, wanted = view.search_exactly(queries, NUM_CANDIDATES)
        found = [view.search(query, NUM_CANDIDATES)[1][0] for query in queries[:, None]]
        self._recall = float(recall_of_rows(np.stack(found), wanted).mean())
        return self._recall

    def _embed(self, rows: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        index = self._release.ad_index
        if not rows:
            return (
                np.empty((0, index.dimension), np.float32),
                np.empty((0, index.num_fields), np.int32),
            )
        return self._loaded_tower().embed(rows)

    def _loaded_tower(self) -> releases.AdTower:
        with self._tower_lock:
            if self._tower is None:
                self._tower = self._load_tower()
            return self._tower

    def _load_tower(self) -> releases.AdTower:
        manifest = self._release.manifest
        directory = self._release.base / "ad_tower" / str(self._release.version)
        tower = releases.AdTower.load(directory, manifest.ad_fields)
        releases.check_ad_tower(manifest, tower, self._release.ad_index)
        return tower

    def _catch_up(self) -> None:
        news = self._store.news()
        if news is not None:
            if news.from_start:
                self._state = live_state.LiveState(self._release.ad_index)
            self._take_up(news.updates)
        self._problem = None
        self._shown = self._store.seen

    def _take_up(self, updates: Sequence[live_update.Update]) -> None:
        """Applies updates that are on the disk; of one that fails, all are read again."""
        try:
            for update in updates:
                self._state.apply(update)
            self._view = self._state.view()
        except Exception as error:
            self._store.forget()
            raise errors.LiveIndexError(
                f"Updates are on the disk, but could not be taken up ({error}); they are tried "
                "again with the next request."
            ) from error

    def _rewrite_if_worn(self) -> None:
        dead = self._state.num_dead
        if dead > max(self._config.max_dead, self._view.num_added):
            condensed = self._state.condensed()
            try:
                self._store.rewrite(condensed)
            except errors.LiveIndexError as error:
                # A worn journal is read a little more slowly; the update itself is done.
                logging.error("%s", error)
                return
            self._state = live_state.LiveState(self._release.ad_index)
            self._take_up([condensed])
