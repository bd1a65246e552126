"""Measures searches of a live index as ads are added, changed and removed.

    python scripts/benchmarks/live.py
    python scripts/benchmarks/live.py --num_ads=20000 --added=0,100,1000

Takes five minutes for 1,000,000 ads of 256 dimensions; --index=FILE keeps the index for another
run. Measures for each number of added ads: single queries with k = 500 and one thread, without and
with a filter that a fifth of the ads match; recall relative to exact search over the live ads; the
time to apply the last update and its size in the journal; and the time to read a journal of all
updates. A tenth of the added ads replace ads of the release, and as many ads of the release are
removed. The embeddings of added ads are given, not computed by an ad tower. Prints a table, and
JSON as the last line; --json=FILE also writes it to a file.
"""

import dataclasses
import pathlib
import tempfile
import time
from typing import Any

import numpy as np
import pyarrow as pa
from absl import flags
from workload import harness, measured_index, tower_embeddings

from serving import cli, index, requests
from serving.live import LiveState, LiveStore, Update, encode_update

flags.DEFINE_list("added", ["0", "1000", "5000", "20000", "50000"], "Numbers of added ads.")
FLAGS = flags.FLAGS
flags.adopt_module_key_flags(measured_index)

_NUM_FIELDS = 8
_GROUPS = 5
_ADS_PER_UPDATE = 1000
_RECALL_QUERIES = 100
_COLUMNS = {
    "added": ",", "removed_or_changed": ",", "p50_ms": ".2f", "p99_ms": ".2f",
    "recall": ".4f", "filtered_first_ms": ".2f", "filtered_p50_ms": ".2f",
    "filtered_p99_ms": ".2f", "apply_seconds": ".3f", "open_seconds": ".2f",
}  # fmt: skip
Measured = dict[str, Any]


def main() -> None:
    counts = harness.flag_numbers("added", "0,1000")
    # A fifth of the added ads name a released ad, each a different one.
    max_added = 5 * FLAGS.num_ads
    if max(counts) > max_added:
        raise ValueError(
            f"--added: expected at most {max_added}, five times --num_ads, got {max(counts)}."
        )
    searcher, embeddings, queries, state = measured_index.make()
    release = _release(searcher)
    # Ads of the same space that are not in the release.
    space = dataclasses.replace(tower_embeddings.Space.drawn(FLAGS.dimension), seed=1)
    extra = np.concatenate(list(space.chunks(max(*counts, 1))))
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        live = _Live(release, pathlib.Path(directory), extra)
        for count in counts:
            live.add_up_to(count)
            rows.append(measure(live, release, embeddings, queries))
    harness.print_rows(rows, _COLUMNS)
    harness.print_json({**state, "rows": rows}, FLAGS.json)


def _release(searcher: index.Searcher) -> index.AdIndex:
    num_ads = searcher.num_ads
    rng = np.random.default_rng(5)
    features = np.zeros((num_ads, _NUM_FIELDS), np.int32)
    return index.AdIndex(searcher, features, _ads(0, num_ads, rng))


def _ads(start: int, count: int, rng: np.random.Generator) -> pa.Table:
    return pa.table(
        {
            index.AD_ID: [f"ad-{row}" for row in range(start, start + count)],
            "group": rng.integers(0, _GROUPS, count).astype(str),
            "title": [f"title of {row}" for row in range(start, start + count)],
            "price": rng.random(count),
        }
    )


class _Live:
    """A live index without a bundle: the journal and the state in memory."""

    def __init__(self, release: index.AdIndex, directory: pathlib.Path, extra: np.ndarray) -> None:
        self.state = LiveState(release)
        self.directory = directory
        self.store = LiveStore(directory, 1, "benchmark")
        self.extra = extra
        self.count = 0
        self.last = {"apply_seconds": 0.0, "update_bytes": 0.0}
        self._num_ads = release.num_ads
        self._num_changed = 0
        self._rng = np.random.default_rng(6)

    def add_up_to(self, count: int) -> None:
        """Adds ads in updates of a thousand until their number is `count`."""
        while self.count < count:
            size = min(_ADS_PER_UPDATE, count - self.count)
            changed = size // 10
            # Released ads that no earlier update contains: the first ones are changed, the last
            # ones removed.
            ads = pa.concat_tables(
                [
                    _ads(self._num_changed, changed, self._rng),
                    _ads(self._num_ads + self.count, size - changed, self._rng),
                ]
            ).combine_chunks()
            last = self._num_ads - self._num_changed
            removed = tuple(f"ad-{row}" for row in range(last - changed, last))
            self._num_changed += changed
            update = Update(
                removed,
                ads,
                self.extra[self.count : self.count + size],
                np.zeros((size, _NUM_FIELDS), np.int32),
            )
            before, started = self.store.num_bytes, time.perf_counter()
            with self.store.writing():
                self.store.append([encode_update(update)])
                self.state.apply(update)
                self.state.view()
            self.last["apply_seconds"] = time.perf_counter() - started
            self.last["update_bytes"] = self.store.num_bytes - before
            self.count += size

    def open_seconds(self, release: index.AdIndex) -> float:
        """Returns the time that a new process needs to open the live index."""
        started = time.perf_counter()
        state = LiveState(release)
        news = LiveStore(self.directory, 1, "benchmark").news()
        for update in news.updates if news else ():
            state.apply(update)
        state.view()
        return time.perf_counter() - started


def measure(
    live: _Live, release: index.AdIndex, embeddings: np.ndarray, queries: np.ndarray
) -> Measured:
    """Searches the current live index and returns a row of the table."""
    view = live.state.view()
    wanted = {"conditions": [{"field": "group", "any_of": ["2"]}]}
    kinds = {"group": "categorical", "title": "categorical", "price": "numeric"}
    checked = requests.FilterFields(kinds).check(requests.Filters(**wanted))
    assert checked is not None
    plain, found = measured_index.time_filtered(view, view, queries, None)
    filtered, _ = measured_index.time_filtered(view, view, queries, checked)
    # Exact search over the live ads: those of the release that remain, then the added ones.
    added = live.state.condensed()
    gone = release.find([*added.removed])
    alive = np.setdiff1d(np.arange(len(embeddings)), gone)
    everything = np.concatenate([embeddings[alive], live.extra[: live.count]])
    position_of = np.full(len(embeddings) + live.count, -1)
    position_of[alive] = np.arange(len(alive))
    position_of[len(embeddings) :] = len(alive) + np.arange(live.count)
    positions = [position_of[rows] for rows in found[:_RECALL_QUERIES]]
    recall = measured_index.exact_recall(everything, queries[:_RECALL_QUERIES], FLAGS.k, positions)
    return {
        "added": view.num_added,
        "removed_or_changed": view.num_removed,
        **{name: value for name, value in plain.items() if name != "first_ms"},
        **{f"filtered_{name}": value for name, value in filtered.items()},
        "recall": recall,
        **live.last,
        "open_seconds": live.open_seconds(release),
    }


if __name__ == "__main__":
    cli.run(main)
