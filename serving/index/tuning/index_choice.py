"""Chooses the index of a catalog by measuring kinds and parameters.

Half of the queries are used to choose, and the held-out half measures the choice. Indexes are
compared by their recall and their counted work (`search_cost`), which is the same in each run. Only
the best setting of each index is timed, to compare it with the latency budget. The index built from
a given config is deterministic.

Shapes: N ads, D embedding size, Q queries.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from serving.index import exact_search, index_build, kinds, search
from serving.index.tuning import index_trials
from tfrecords import terminal

# Up to this number of ads, `auto` also tries kinds without rescoring.
_SMALL = 200_000
# Options of each kind to try.
_OPTIONS: dict[str, dict[str, Any]] = {
    "Flat": {"kind": "Flat"},
    "IVF": {"kind": "IVF", "storage": "float"},
    "IVFSQ8": {"kind": "IVF", "storage": "SQ8"},
    "IVFPQ": {"kind": "IVFPQ"},
    "IVFPQbf16": {"kind": "IVFPQ", "refine": "SQbf16"},
    "HNSW": {"kind": "HNSW", "storage": "float"},
    "HNSWSQ8": {"kind": "HNSW", "storage": "SQ8"},
}
KINDS_TO_TRY = tuple(_OPTIONS)
# Graphs are built on one thread to be deterministic, which takes an hour for a million ads.
MAX_GRAPH_ADS = 200_000


@dataclasses.dataclass(frozen=True)
class Choice:
    """Result of tuning.

    Attributes:
        structure: The chosen index, with its search parameters set.
        chosen: The chosen trial.
        held_out: The chosen setting, measured with the held-out queries.
        trials: All trials.
        verdict: Reason for the choice, which names any missed target.
    """

    structure: index_trials.Structure
    chosen: index_trials.Trial
    held_out: index_trials.Trial
    trials: list[index_trials.Trial]
    verdict: str

    def summary(self) -> dict[str, Any]:
        """Returns the entry for the manifest: verdict, number of trials and held-out trial."""
        measured = dataclasses.asdict(self.held_out)
        del measured["config"]
        return {"verdict": self.verdict, "trials": len(self.trials), "held_out": measured}


def structures(config: kinds.IndexConfig, num_ads: int) -> list[kinds.IndexConfig]:
    """Returns the configs that `auto` tries for more than `kinds.EXACT_UP_TO` ads.

    Exact search is first if it may be fast enough.
    """
    names = ("Flat", "IVFSQ8", "IVFPQ") if num_ads <= _SMALL else ("IVFPQ", "IVFPQbf16")
    return [dataclasses.replace(config, **_OPTIONS[name]) for name in names]


def tune_index(
    embeddings: np.ndarray,
    queries: np.ndarray,
    config: kinds.IndexConfig,
    tried: Sequence[kinds.IndexConfig] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Choice:
    """Builds and measures indexes, and chooses one.

    Args:
        embeddings: [N, D] float32, finite.
        queries: [Q, D] float32 with Q ≥ 2, representative query embeddings.
        config: Targets, `num_candidates` and seed.
        tried: Configs to try. None tries the configs of `structures`, and stops after an exact or
            rescored index that meets the targets.
        report: Called with a line of text for each index built.

    Raises:
        ValueError: There are fewer than two queries, or no configs to try.
    """
    if len(queries) < 2:
        raise ValueError(f"queries: expected at least 2 query embeddings, got {len(queries)}.")
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    exact_rows = exact_search.exact_rows([embeddings], queries, config.num_candidates)
    k = exact_rows.shape[1]
    trials: list[index_trials.Trial] = []
    timed: list[index_trials.Trial] = []
    best: index_trials.Structure | None = None
    with terminal.progress_bar("tuning the index", "settings") as shown:
        for index_config in structures(config, len(embeddings)) if tried is None else tried:
            shown.set_postfix_str(f"building {index_config.kind}")
            built = build(embeddings, index_config, queries[::2])
            factory = built.build_parameters["factory"]
            report(f"built {factory} in {built.build_seconds:.1f} s")
            shown.set_postfix_str(factory)
            found = []
            for trial in built.sweep(queries[::2], exact_rows[::2]):
                found.append(trial)
                shown.update()
            cheapest, _ = choose(found, dataclasses.replace(config, latency_budget_ms=None))
            timed.append(built.time(cheapest, queries[::2], k))
            trials += [timed[-1] if trial is cheapest else trial for trial in found]
            chosen, verdict = choose(timed, config)
            if chosen is timed[-1]:
                best = built
            meets = all(test(chosen, config) for test in (_recalls, _fits, _in_time))
            if tried is None and meets and chosen.config.kind in ("Flat", "IVFPQ"):
                break
    if best is None:
        raise ValueError("tried: expected at least one index, got none.")
    held_out = best.measure(chosen.config, queries[1::2], exact_rows[1::2])
    return Choice(best, chosen, best.time(held_out, queries[1::2], k), trials, verdict)


def build(
    embeddings: np.ndarray, config: kinds.IndexConfig, queries: np.ndarray | None = None
) -> index_trials.Structure:
    """Builds an index to measure; see `index_build.build` for the arguments."""
    started = time.perf_counter()
    index, _, parameters = index_build.build(embeddings, config, queries)
    seconds = time.perf_counter() - started
    searcher = search.Searcher(index)
    size = index_build.megabytes(index)
    return index_trials.Structure(searcher, config, parameters, size, seconds)


def choose(
    trials: Sequence[index_trials.Trial], config: kinds.IndexConfig
) -> tuple[index_trials.Trial, str]:
    """Chooses a trial.

    Only trials within the memory limit are considered. Recall takes precedence over latency: of
    the trials that reach the target recall and the latency budget, exact search is preferred, and
    then the one with the least work. If none reaches the target recall, the one with the highest
    recall is chosen.

    Args:
        trials: At least one trial, timed if there is a latency budget.
        config: Targets.

    Returns:
        The chosen trial, and the reason as text.
    """
    fitting = [t for t in trials if _fits(t, config)]
    if not fitting:
        smallest = min(trials, key=lambda t: (t.megabytes, -t.recall))
        return smallest, f"no index is within {config.memory_limit_mb:g} MB; this is the smallest"
    recalling = [t for t in fitting if _recalls(t, config)]
    if not recalling:
        return max(fitting, key=lambda t: (t.recall, -t.distances)), (
            f"no index reaches recall {config.target_recall:g} by more than one standard error; "
            "this one has the highest recall"
        )
    in_time = [t for t in recalling if _in_time(t, config)]
    if not in_time:
        return min(recalling, key=lambda t: t.distances), (
            f"no index reaches recall {config.target_recall:g} within {config.latency_budget_ms:g} "
            "ms; of the indexes that reach the recall, this one needs the least work"
        )
    exact = [t for t in in_time if t.config.kind == "Flat"]
    if exact and config.latency_budget_ms is not None:
        return exact[0], "exact search meets the targets"
    return min(in_time, key=lambda t: t.distances), (
        "of the indexes that meet the targets, this one needs the least work"
    )


def pareto_front(trials: Sequence[index_trials.Trial]) -> list[index_trials.Trial]:
    """Returns the Pareto front of recall, work and memory, sorted by recall."""
    kept = [t for t in trials if not any(_beats(other, t) for other in trials)]
    return sorted(kept, key=lambda t: (t.recall, -t.distances))


def _beats(a: index_trials.Trial, b: index_trials.Trial) -> bool:
    better = (a.recall, -a.distances, -a.megabytes), (b.recall, -b.distances, -b.megabytes)
    return all(x >= y for x, y in zip(*better, strict=True)) and better[0] != better[1]


def _recalls(trial: index_trials.Trial, config: kinds.IndexConfig) -> bool:
    return trial.recall - trial.recall_error >= config.target_recall or trial.recall == 1.0


def _fits(trial: index_trials.Trial, config: kinds.IndexConfig) -> bool:
    return config.memory_limit_mb is None or trial.megabytes <= config.memory_limit_mb


def _in_time(trial: index_trials.Trial, config: kinds.IndexConfig) -> bool:
    if config.latency_budget_ms is None:
        return True
    return trial.p99_ms is not None and trial.p99_ms <= config.latency_budget_ms


def structures_to_try(
    targets: kinds.IndexConfig,
    num_ads: int,
    names: list[str] | None,
    num_lists: list[str | None],
) -> list[kinds.IndexConfig]:
    """Returns the configs to try, for `tune_index`.

    Args:
        targets: Targets and other options of all configs.
        num_ads: Number of ads N.
        names: Names from `KINDS_TO_TRY`. None tries all, graphs only up to `MAX_GRAPH_ADS`.
        num_lists: Numbers of cells to try for IVF and IVFPQ. None uses the default.

    Raises:
        ValueError: A kind is unknown, or a number of cells is not a positive number.
    """
    if names is None:
        small = num_ads <= MAX_GRAPH_ADS
        names = [name for name in KINDS_TO_TRY if small or _OPTIONS[name]["kind"] != "HNSW"]
    unknown = set(names) - set(KINDS_TO_TRY)
    if unknown:
        first = min(unknown)
        raise ValueError(
            f"--kinds: expected some of {', '.join(KINDS_TO_TRY)}, got {first!r}."
            f"{terminal.suggestion_for(first, KINDS_TO_TRY)}"
        )
    if not all(count is None or (count.isdecimal() and int(count)) for count in num_lists):
        raise ValueError(
            "--num_lists: expected numbers such as 256,1024, got "
            f"{','.join(map(str, num_lists))!r}."
        )
    if num_ads < kinds.MIN_ADS_TO_TRAIN:
        names = [name for name in names if name in ("Flat", "HNSW")] or ["Flat"]
    tried = []
    for name in names:
        config = dataclasses.replace(targets, **_OPTIONS[name])
        cells = num_lists if config.kind in ("IVF", "IVFPQ") else [None]
        for count in cells:
            lists = None if count is None else int(count)
            tried.append(dataclasses.replace(config, num_lists=lists))
    return tried
