"""Adds, changes and removes ads of a release while it is being served.

    live = LiveIndex(releases.load("bundles"))
    live.update([{"ad_id": "ad-17", "fields": {"advertiser": "a9", "price": 12.5}}], ["ad-3"])
    scores, rows = live.view().search(query_embeddings, 500)

An update is durable when `update` returns. Every process that serves the release applies it at its
next `refresh`, which an orchestrator calls with each request and each page of metrics. With an
update channel, other hosts see it too: there, `follow` writes it to their journals. Searches take
no lock: each uses the view that was current when it started.

Shapes: B ads, D embedding size, F columns of ad features.
"""

import contextlib
import dataclasses
import itertools
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from serving import errors, releases
from serving.index import AD_ID, recall_of_rows
from serving.live import (
    ad_rates,
    ad_rows,
    live_state,
    live_store,
    live_update,
    live_view,
    update_channel,
)
from tfrecords.schema import NUM_CANDIDATES

_logger = logging.getLogger(__name__)

# Time before an update channel that failed is used again.
_RETRY_SECONDS = 0.5
# Time between checks of whether the holder of a lock is writing an update.
_LOCK_SECONDS = 0.005
# Maximum number of attempts to publish an update while other hosts publish theirs.
_MAX_TRIES = 100
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
        rates: Rate -> number of values that were set.
        unknown_ids: The first of these unknown ids, in alphabetical order.
    """

    added: int
    changed: int
    removed: int
    unknown: int
    rates: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unknown_ids: tuple[str, ...] = ()


class LiveIndex:
    """The ads of a release including live updates. Thread-safe.

    Args:
        release: The loaded release.
        channel: Channel to the journals of other hosts, which `close` closes. None: no channel.

    Raises:
        LiveIndexError: The journal is damaged, or belongs to another release.
    """

    def __init__(
        self,
        release: releases.Bundle,
        channel: update_channel.UpdateChannel | None = None,
    ) -> None:
        self._release = release
        manifest = release.manifest
        self._rows = ad_rows.AdRows(
            manifest.ad_fields,
            release.ad_index.table_schema,
            manifest.schema.get("show", ()),
            manifest.ad_id_field,
        )
        self._rates = ad_rates.AdRates(manifest.rates, release.ad_index)
        self._store = live_store.LiveStore(
            release.base, release.version, release.manifest.training_id
        )
        self._state = live_state.LiveState(release.ad_index)
        self._view = self._state.view()
        self._lock = threading.Lock()
        self._is_writing = False
        self._tower: releases.AdTower | None = None
        self._tower_lock = threading.Lock()
        self._recall: float | None = None
        self._problem: str | None = None
        self._channel = channel
        self._channel_problem: str | None = None
        self._following: threading.Thread | None = None
        self._closed = threading.Event()
        # State of the journal file at the time of the current view.
        self._view_state: tuple[int, ...] | None = None
        self._catch_up()
        if channel is not None:
            self._follow_once(channel)

    @property
    def problem(self) -> str | None:
        """Why updates are not applied, or None."""
        return self._problem or self._channel_problem

    def view(self) -> live_view.LiveView:
        """Returns the current view of the ads."""
        return self._view

    def refresh(self) -> None:
        """Applies updates that any process has written since the last call.

        If the journal has become damaged, `status` reports it, and the view does not change.
        """
        try:
            # Checked without the lock, so that requests do not wait if nothing is new.
            if self._store.state_of_file() != self._view_state and self._acquire_to_read():
                try:
                    self._catch_up()
                finally:
                    self._lock.release()
            self._problem = None
        except errors.LiveIndexError as error:
            if str(error) != self._problem:
                _logger.error("Live updates are not applied: %s", error)
            self._problem = str(error)

    def follow(self) -> None:
        """Writes the updates of other hosts to the journal, in a thread, until `close`."""
        if self._channel is not None and self._following is None:
            self._following = threading.Thread(
                target=self._follow, args=(self._channel,), name="updates", daemon=True
            )
            self._following.start()

    def close(self) -> None:
        """Stops following other hosts."""
        self._closed.set()
        if self._channel is not None and self._following is None:
            self._channel.close()

    def update(
        self,
        ads: Sequence[Mapping[str, Any]] = (),
        removed: Sequence[Any] = (),
        rates: Mapping[str, Mapping[str, float]] | None = None,
    ) -> Applied:
        """Adds, changes and removes ads and sets rates, in one atomic and durable step.

        Args:
            ads: Ads in the format described in `ad_rows`. Existing ads are replaced.
            removed: Ids of ads to remove.
            rates: Rate -> value of its field -> number, which replace all earlier ones.
                Values that are left out, or are too rare to have their own id, keep the rate of
                the release.

        Raises:
            InvalidAdError: An ad or an id is invalid. Nothing is changed.
            LiveIndexError: The journal cannot be read or written, or the channel cannot be used;
                the message says if the update may still be applied.
            ProbeMismatchError: The ad tower does not reproduce the release's embeddings.
        """
        return self.apply(self.prepare(ads, removed, rates))

    def prepare(
        self,
        ads: Sequence[Mapping[str, Any]] = (),
        removed: Sequence[Any] = (),
        rates: Mapping[str, Mapping[str, float]] | None = None,
    ) -> live_update.Update:
        """Checks and embeds an update for `apply`, without changing anything. See `update`."""
        table = self._rates.fill(self._rows.check(ads))
        added = table[AD_ID].to_pylist()
        removed_ids = sorted(
            {ad_rows.check_ad_id(f"removed[{i}]", ad) for i, ad in enumerate(removed)}
        )
        overlap = set(added) & set(removed_ids)
        if overlap:
            raise errors.InvalidAdError(
                f"removed: expected no ad that is also in ads, got {min(overlap)!r} in both. "
                "Send it in one of them."
            )
        # Without locks: embedding takes a second for a few thousand ads.
        set_rates = self._rates.encode(rates or {}, self._embed)
        return live_update.Update(tuple(removed_ids), table, *self._embed(table), set_rates)

    def apply(self, change: live_update.Update) -> Applied:
        """Applies a prepared update, in one atomic and durable step. See `update`."""
        added, removed = change.ads[AD_ID].to_pylist(), change.removed
        with self._writing():
            record = live_update.encode(change)
            if self._channel is not None:
                self._publish(self._channel, record)
            changed = int(self._state.contains(added).sum())
            found = self._state.contains([*removed])
            self._store.append([record], in_channel=self._channel is not None)
            self._apply([change])
            self._compact_if_needed()
            self._view_state = self._store.seen
        num_set = {rate.name: len(rate.numbers) for rate in change.rates}
        unknown = list(itertools.compress(removed, ~found))
        return Applied(
            len(added) - changed,
            changed,
            len(removed) - len(unknown),
            len(unknown),
            num_set,
            tuple(unknown[:_MAX_UNKNOWN_IDS]),
        )

    def changes(self) -> live_update.Update:
        """Returns a single update that leads from the release to the current ads."""
        with self._lock:
            return self._state.condensed()

    def status(self) -> dict[str, Any]:
        """Returns the state of the live index for monitoring."""
        view = self._view
        return {
            "num_ads": view.num_ads,
            "added": view.num_added,
            "removed_or_changed": view.num_removed,
            "rates": view.num_rates,
            "num_updates": self.num_updates,
            "journal_bytes": self._store.num_bytes,
            "cut_bytes": self._store.cut_bytes,
            "recall_at_500": self._recall,
            "rebuild_suggested": self.rebuild_suggested(),
            "problem": self.problem,
        }

    @property
    def num_updates(self) -> int:
        """Number of updates since the export, which is the same on all hosts that have them all."""
        return self._store.position.number

    @property
    def cut_bytes(self) -> int:
        """Size of the remains of interrupted updates, in bytes."""
        return self._store.cut_bytes

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

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Holds both locks in a `with` block, after applying all updates of the journal."""
        # Always in this order: requests take the second lock, and must not wait for another process
        # that holds the first one.
        with self._store.writing(), self._lock:
            self._catch_up()
            self._is_writing = True
            try:
                yield
            finally:
                self._is_writing = False

    def _acquire_to_read(self) -> bool:
        """Acquires the second lock; returns False if its holder is writing an update.

        That update is not acknowledged yet, and the view has all earlier ones.
        """
        while not self._lock.acquire(timeout=_LOCK_SECONDS):
            if self._is_writing:
                return False
        return True

    def _catch_up(self) -> None:
        found = self._store.read_new()
        if found is not None:
            if found.from_start:
                self._state = live_state.LiveState(self._release.ad_index)
            self._apply(found.updates)
        self._problem = None
        self._view_state = self._store.seen

    def _publish(self, channel: update_channel.UpdateChannel, record: bytes) -> None:
        """Publishes a record after all others. The caller holds both locks."""
        for _ in range(_MAX_TRIES):
            if channel.publish(record, self._store.position):
                return
            self._synchronize(channel, channel.read(self._store.position))
        raise errors.LiveIndexError(
            f"{channel.name} refused the update {_MAX_TRIES} times, because other updates came "
            "first. Try again."
        )

    def _follow(self, channel: update_channel.UpdateChannel) -> None:
        while not self._closed.is_set():
            if not self._follow_once(channel):
                self._closed.wait(_RETRY_SECONDS)
        channel.close()

    def _follow_once(self, channel: update_channel.UpdateChannel) -> bool:
        """Writes records of other hosts to the journal; returns whether the channel can be used."""
        try:
            if self._following is None or channel.wait(self._store.position):
                while True:
                    # Without the lock, because the channel may be slow.
                    position = self._store.position
                    found = channel.read(position)
                    if not found.records and found.behind is None:
                        break
                    with self._writing():
                        # Another process of this host may have written them.
                        if self._store.position == position:
                            self._synchronize(channel, found)
            self._channel_problem = None
            return True
        except Exception as error:
            if str(error) != self._channel_problem:
                is_unexpected = not isinstance(error, errors.LiveIndexError)
                _logger.error(
                    "Updates of other hosts are not applied: %s", error, exc_info=is_unexpected
                )
            self._channel_problem = str(error)
            return False

    def _synchronize(
        self, channel: update_channel.UpdateChannel, found: update_channel.Found
    ) -> None:
        """Appends the records of a channel, or publishes those that it lost. See `_publish`."""
        if found.behind is not None:
            self._restore(channel, found.behind)
        elif found.records:
            updates = [live_update.decode(record) for record in found.records]
            self._store.append(found.records, in_channel=True)
            self._apply(updates)
            self._compact_if_needed()
            self._view_state = self._store.seen

    def _restore(self, channel: update_channel.UpdateChannel, end: update_channel.Position) -> None:
        """Publishes the records of the journal after the end of a channel that lost them."""
        position, records = self._store.records()
        if end.number < position.number:
            raise errors.LiveIndexError(
                f"{channel.name} has lost its updates after {end.number}, and the journal of this "
                f"host has been rewritten at update {position.number}. Export a new release, or "
                "restore the database."
            )
        _logger.warning("%s has lost its updates after %d.", channel.name, end.number)
        for record in records:
            if position.number == end.number and position != end:
                raise update_channel.diverged(channel.name, end.number)
            if position.number >= end.number and not channel.publish(record, position):
                return  # Another host has published it.
            position = position.after(record)

    def _apply(self, updates: Sequence[live_update.Update]) -> None:
        """Applies updates from the journal; if one fails, all are read again the next time."""
        try:
            for update in updates:
                self._state.apply(update)
            self._view = self._state.view()
        except Exception as error:
            self._store.forget()
            raise errors.LiveIndexError(
                f"The updates are on disk but could not be applied ({error}). The next request "
                "tries again."
            ) from error

    def _compact_if_needed(self) -> None:
        is_large = self._store.num_bytes > max(
            _MIN_REWRITTEN_BYTES, 2 * self._store.condensed_bytes
        )
        if is_large or self._state.num_dead > max(_MAX_DEAD, self._view.num_added):
            condensed = self._state.condensed()
            try:
                self._store.rewrite(condensed)
            except errors.LiveIndexError as error:
                # The update itself is complete; a longer journal is only slower to read.
                _logger.error("%s", error)
                return
            self._state = live_state.LiveState(self._release.ad_index)
            self._apply([condensed])
