"""Adds, changes and removes ads of a release while it is being served.

    live = LiveIndex(releases.load("bundles"))
    live.update([{"ad_id": "ad-17", "fields": {"advertiser": "a9", "price": 12.5}}], ["ad-3"])
    scores, rows = live.view().search(query_embeddings, 500)

An update is durable when `update` returns. Every process that serves the release applies it at its
next `refresh`, which an orchestrator calls with each request and each page of metrics. Searches
take no lock: each uses the view that was current when it started.

Shapes: B ads, D embedding size, F columns of ad features.
"""

import dataclasses
import itertools
import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serving import errors, releases
from serving.index import AD_ID, AdIndex, recall_of_rows
from serving.live import ad_rows, journal, live_state, live_update, live_view
from tfrecords.schema import AD, NUM_CANDIDATES

_logger = logging.getLogger(__name__)

# Maximum length of `Applied.unknown_ids`.
_MAX_UNKNOWN_IDS = 3
# A new release is suggested above any of these limits: the number of added ads, which every search
# compares; the shares of added ads, and of removed and changed ads; the loss of recall.
_MAX_ADDED, _MAX_ADDED_SHARE, _MAX_REMOVED_SHARE, _MAX_RECALL_LOSS = 50_000, 0.1, 0.2, 0.01
# The journal is rewritten without replaced changes if more than `_MAX_DEAD` added ads, and more
# than are left, were later changed or removed; or if it is larger than `_MIN_REWRITTEN_BYTES`, and
# has doubled since the last rewrite.
_MAX_DEAD, _MIN_REWRITTEN_BYTES = 10_000, 16 << 20


@dataclasses.dataclass(frozen=True)
class Applied:
    """Result of an update.

    Attributes:
        added: Number of new ads.
        changed: Number of existing ads that were replaced.
        removed: Number of ads that were removed.
        unknown: Number of ids to remove that did not exist.
        unknown_ids: The first of these unknown ids, in alphabetical order.
    """

    added: int
    changed: int
    removed: int
    unknown: int
    unknown_ids: tuple[str, ...] = ()


class LiveIndex:
    """The ads of a release including live updates. Thread-safe.

    Args:
        release: The loaded release.

    Attributes:
        problem: Why updates are not applied, or None.

    Raises:
        LiveIndexError: The journal is damaged, or belongs to another release.
    """

    def __init__(self, release: releases.Bundle) -> None:
        self._release = release
        manifest = release.manifest
        self._rows = ad_rows.AdRows(
            manifest.ad_fields,
            release.ad_index.table_schema,
            manifest.schema.get("show", ()),
            manifest.ad_id_field,
        )
        self._rates = _AdRates(manifest.rates, release.ad_index)
        self._journal = journal.Journal(release.base, release.version, manifest.training_id)
        self._state = live_state.LiveState(release.ad_index)
        self._view = self._state.view()
        self._lock, self._tower_lock = threading.Lock(), threading.Lock()
        self._tower: releases.AdTower | None = None
        self._recall: float | None = None
        self.problem: str | None = None
        self._catch_up()

    def view(self) -> live_view.LiveView:
        """Returns the current view of the ads."""
        return self._view

    def refresh(self) -> None:
        """Applies updates that any process has written since the last call.

        If the journal has become damaged, `problem` says so, and the view does not change.
        """
        try:
            # Checked without the lock, so that requests do not wait if nothing is new.
            if self.problem or self._journal.state_of_file() != self._journal.seen:
                self._catch_up()
        except errors.LiveIndexError as error:
            self.problem = str(error)

    def update(self, ads: Sequence[Mapping[str, Any]] = (), removed: Sequence[Any] = ()) -> Applied:
        """Adds, changes and removes ads, in one atomic and durable step.

        Args:
            ads: Ads in the format described in `ad_rows`. Existing ads are replaced.
            removed: Ids of ads to remove.

        Raises:
            InvalidRequestError: An ad or an id is invalid. Nothing is changed.
            LiveIndexError: The journal cannot be read or written.
            BundleError: The ad tower does not reproduce the release's embeddings.
        """
        return self.apply(self.prepare(ads, removed))

    def prepare(
        self, ads: Sequence[Mapping[str, Any]] = (), removed: Sequence[Any] = ()
    ) -> live_update.Update:
        """Checks and embeds an update for `apply`, without changing anything. See `update`."""
        table = self._rates.fill(self._rows.check(ads))
        removed_ids = sorted(
            {ad_rows.check_ad_id(f"removed[{i}]", ad) for i, ad in enumerate(removed)}
        )
        overlap = set(table[AD_ID].to_pylist()) & set(removed_ids)
        if overlap:
            raise errors.InvalidRequestError(
                f"removed: expected no ad that is also in ads, got {min(overlap)!r} in both. "
                "Send it in one of them."
            )
        # Without locks: embedding takes a second for a few thousand ads.
        return live_update.Update(tuple(removed_ids), table, *self._embed(table))

    def apply(self, change: live_update.Update) -> Applied:
        """Applies a prepared update, in one atomic and durable step. See `update`."""
        added, removed = change.ads[AD_ID].to_pylist(), change.removed
        with self._journal.writing():
            self._catch_up()
            changed = int(self._state.contains(added).sum())
            found = self._state.contains([*removed])
            # Without the lock that requests take: they do not wait for the disk.
            self._journal.append(live_update.encode(change))
            self._catch_up()
            self._compact_if_needed()
        unknown = list(itertools.compress(removed, ~found))
        return Applied(
            len(added) - changed,
            changed,
            len(removed) - len(unknown),
            len(unknown),
            tuple(unknown[:_MAX_UNKNOWN_IDS]),
        )

    def status(self) -> dict[str, Any]:
        """Returns the state of the live index for monitoring."""
        view = self._view
        return {
            "num_ads": view.num_ads,
            "added": view.num_added,
            "removed_or_changed": view.num_removed,
            "num_updates": self.num_updates,
            "journal_bytes": self._journal.num_bytes,
            "recall_at_500": self._recall,
            "rebuild_suggested": self.rebuild_suggested(),
            "problem": self.problem,
        }

    @property
    def num_updates(self) -> int:
        """Number of updates since the export."""
        return self._journal.num_updates

    def rebuild_suggested(self) -> str | None:
        """Returns the reason to export a new release, or None."""
        view, num_ads = self._view, self._release.ad_index.num_ads
        if view.num_added > _MAX_ADDED:
            return (
                f"Each search compares all {view.num_added:,} added ads; expected at most "
                f"{_MAX_ADDED:,}."
            )
        for count, max_share, how in (
            (view.num_added, _MAX_ADDED_SHARE, "added or changed"),
            (view.num_removed, _MAX_REMOVED_SHARE, "removed or changed"),
        ):
            if count > max_share * num_ads:
                return (
                    f"{count:,} ads were {how}, {count / num_ads:.0%} of the release; expected at "
                    f"most {max_share:.0%}, because the index was tuned without these changes."
                )
        exported = self._release.manifest.index["recall_at_500_against_exact"]
        if self._recall is not None and self._recall < exported - _MAX_RECALL_LOSS:
            recall = f"Recall at {NUM_CANDIDATES} fell to {self._recall:.4f}"
            return f"{recall}; it was {exported:.4f} at export."
        return None

    def measure_recall(self) -> float:
        """Measures recall at `NUM_CANDIDATES` of searches of the live ads, in [0, 1].

        The queries are the sample queries saved with the index, or else the probes.
        """
        kept = self._release.ad_index.sample_queries
        probed = self._release.manifest.probes["query_embeddings"]
        queries = np.array(probed if kept is None else kept, np.float32)
        view = self._view
        _, exact_rows = view.search_exactly(queries, NUM_CANDIDATES)
        found = [view.search(query, NUM_CANDIDATES)[1][0] for query in queries[:, None]]
        self._recall = float(recall_of_rows(np.stack(found), exact_rows).mean())
        return self._recall

    def _embed(self, ads: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        index = self._release.ad_index
        if not ads.num_rows:
            return (
                np.empty((0, index.dimension), np.float32),
                np.empty((0, index.num_fields), np.int32),
            )
        return self._loaded_tower().embed_table(ads)

    def _loaded_tower(self) -> releases.AdTower:
        release = self._release
        with self._tower_lock:
            if self._tower is None:
                directory = release.base / "ad_tower" / str(release.version)
                tower = releases.AdTower(directory, release.manifest.ad_fields)
                releases.check_ad_tower(release.manifest, tower, release.ad_index)
                self._tower = tower
            return self._tower

    def _catch_up(self) -> None:
        with self._lock:
            found = self._journal.read_new()
            self.problem = None
            if found is None:
                return
            try:
                if found.from_start:
                    self._state = live_state.LiveState(self._release.ad_index)
                for payload in found.payloads:
                    self._state.apply(live_update.decode(payload))
                self._view = self._state.view()
            except Exception as error:
                # All updates are read again the next time.
                self._journal.forget()
                raise errors.LiveIndexError(
                    f"The updates are on disk but could not be applied ({error}). The next request "
                    "tries again."
                ) from error

    def _compact_if_needed(self) -> None:
        is_large = self._journal.num_bytes > max(
            _MIN_REWRITTEN_BYTES, 2 * self._journal.condensed_bytes
        )
        if is_large or self._state.num_dead > max(_MAX_DEAD, self._view.num_added):
            try:
                self._journal.rewrite(live_update.encode(self._state.condensed()))
                self._catch_up()
            except errors.LiveIndexError as error:
                # The update itself is complete; a longer journal is only slower to read.
                _logger.error("%s", error)


class _AdRates:
    """The released rates, which changed and added ads get by their values.

    A rate is computed from a log, so an update of an ad does not include it: a new ad gets the rate
    of its category.
    """

    def __init__(self, fields: Sequence[Mapping[str, Any]], released: AdIndex) -> None:
        self._fields, self._released = fields, released
        self._known_rates: dict[str, tuple[pa.Array, pa.Array]] = {}

    def fill(self, ads: pa.Table) -> pa.Table:
        """Fills in missing rates of ads [B]; null if the release has none."""
        for field in self._fields:
            name = field["name"]
            known = (
                self._rates_of_ads(name, ads)
                if field["of"] == AD
                else self._rates_of_values(field, ads)
            )
            filled = pc.coalesce(ads[name], known.cast(ads.schema.field(name).type))
            ads = ads.set_column(ads.column_names.index(name), name, filled)
        return ads

    def _rates_of_ads(self, name: str, ads: pa.Table) -> pa.Array:
        rows = self._released.find(ads[AD_ID].to_pylist())
        known = self._released.column(np.maximum(rows, 0), name)
        return pc.if_else(pa.array(rows >= 0), known, pa.scalar(None, known.type))

    def _rates_of_values(self, field: Mapping[str, Any], ads: pa.Table) -> pa.Array:
        name, of = field["name"], field["of"]
        if name not in self._known_rates:
            rows = np.arange(self._released.num_ads)
            columns = [self._released.column(rows, column) for column in (of, name)]
            found = pa.table(columns, names=["value", "rate"]).group_by("value")
            table = found.aggregate([("rate", "max")])
            values, rates = (table[column].combine_chunks() for column in ("value", "rate_max"))
            self._known_rates[name] = (values, rates)
        values, rates = self._known_rates[name]
        return rates.take(pc.index_in(ads[of].combine_chunks(), value_set=values, skip_nulls=True))
