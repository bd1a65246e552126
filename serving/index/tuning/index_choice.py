"""Chooses the index of a catalogue by measuring kinds and parameters.

Half of the queries choose; the other half, which chose nothing, says what the choice is worth.
Times are the machine's, so that a choice between equals may differ from run to run; the index
built from a choice is the same whenever its config is.

Shapes: N ads, D embedding size, Q queries.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from serving.index import exact_search, index_build, kinds, search
from serving.index.kinds import MIN_ADS_TO_TRAIN, IndexConfig
from serving.index.tuning import index_trials
from tfrecords import terminal

# Up to as many ads the kinds that need no refinement are tried too.
_SMALL = 200_000


@dataclasses.dataclass(frozen=True)
class Choice:
    """What tuning chose.

    Attributes:
        structure: The chosen index, its search set.
        chosen: The trial that won.
        held_out: The same measured with queries that had no part in the choice.
        trials: All that was tried.
        verdict: The rule that chose, in words; it names a target that is missed.
    """

    structure: index_trials.Structure
    chosen: index_trials.Trial
    held_out: index_trials.Trial
    trials: list[index_trials.Trial]
    verdict: str

    def summary(self) -> dict[str, Any]:
        """Returns what the manifest keeps: the verdict and how the choice measures."""
        measured = dataclasses.asdict(self.held_out)
        del measured["config"]
        return {"verdict": self.verdict, "trials": len(self.trials), "held_out": measured}


def structures(config: kinds.IndexConfig, num_ads: int) -> list[kinds.IndexConfig]:
    """Returns the indexes that `auto` tries, the exact one first where it may do."""
    flat = dataclasses.replace(config, kind="Flat")
    cells = dataclasses.replace(config, kind="IVF", storage="SQ8")
    codes = dataclasses.replace(config, kind="IVFPQ")
    finer = dataclasses.replace(codes, refine="SQbf16")
    if num_ads <= kinds.EXACT_UP_TO:
        return [flat]
    return [flat, cells, codes] if num_ads <= _SMALL else [codes, finer]


def tune_index(
    embeddings: np.ndarray,
    queries: np.ndarray,
    config: kinds.IndexConfig,
    tried: Sequence[kinds.IndexConfig] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Choice:
    """Builds, measures and chooses.

    Args:
        embeddings: [N, D] float32, finite.
        queries: [Q, D] float32 with Q ≥ 2, as they will come online.
        config: The targets, num_candidates and the seed.
        tried: The indexes; None = `structures`, of which none is built after an exact or a
            refined one that meets the targets.
        report: Is given a line for each index built.

    Raises:
        ValueError: There are fewer than two queries.
    """
    if len(queries) < 2:
        raise ValueError(f"Tuning expected at least 2 query embeddings, got {len(queries)}.")
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    wanted = exact_search.exact_rows([embeddings], queries, config.num_candidates)
    trials: list[index_trials.Trial] = []
    best: index_trials.Structure | None = None
    wanted_structures = structures(config, len(embeddings)) if tried is None else tried
    for one in terminal.with_progress(wanted_structures, "building and measuring", "indexes"):
        built = build(embeddings, one, queries[::2])
        report(f"built {built.build_parameters['factory']} in {built.build_seconds:.1f} s")
        found = list(built.sweep(queries[::2], wanted[::2]))
        trials += found
        chosen, verdict = choose(trials, config)
        if best is None or chosen in found:
            best = built
        done = chosen.config.kind in ("Flat", "IVFPQ") and meets(chosen, config)
        if tried is None and done:
            break
    if best is None:
        raise ValueError("tried: expected at least one index, got none.")
    held_out = best.measure(chosen.config, queries[1::2], wanted[1::2])
    return Choice(best, chosen, held_out, trials, verdict)


def build(
    embeddings: np.ndarray, config: kinds.IndexConfig, queries: np.ndarray | None = None
) -> index_trials.Structure:
    """Builds an index to be measured; its arguments are those of `index_build.build`."""
    started = time.perf_counter()
    index, _, parameters = index_build.build(embeddings, config, queries)
    seconds = time.perf_counter() - started
    searcher = search.Searcher(index)
    size = index_build.megabytes(index)
    return index_trials.Structure(searcher, config, parameters, size, seconds)


def meets(trial: index_trials.Trial, config: kinds.IndexConfig) -> bool:
    """Tells whether a trial meets all targets; recall less its standard error must."""
    return _recalls(trial, config) and _fits(trial, config) and _in_time(trial, config)


def choose(
    trials: Sequence[index_trials.Trial], config: kinds.IndexConfig
) -> tuple[index_trials.Trial, str]:
    """Chooses among trials.

    Memory is a limit; recall comes before latency: of the trials within memory, those that reach
    the recall; of these, those in time; of these the exact one, else that of the least p99. Where
    none reaches the recall, the one of the highest recall.

    Returns:
        The trial, and in words why.
    """
    fitting = [t for t in trials if _fits(t, config)]
    if not fitting:
        smallest = min(trials, key=lambda t: (t.megabytes, -t.recall))
        return smallest, f"no index is within {config.memory_limit_mb:g} MB; this is the smallest"
    recalling = [t for t in fitting if _recalls(t, config)]
    if not recalling:
        return max(fitting, key=lambda t: (t.recall, -t.p99_ms)), (
            f"no index reaches recall {config.target_recall:g} surely; this has the highest"
        )
    in_time = [t for t in recalling if _in_time(t, config)]
    if not in_time:
        return min(recalling, key=lambda t: t.p99_ms), (
            f"no index reaches recall {config.target_recall:g} within "
            f"{config.latency_budget_ms:g} ms; this is the fastest that reaches it"
        )
    exact = [t for t in in_time if t.config.kind == "Flat"]
    if exact and config.latency_budget_ms is not None:
        return exact[0], "exact search meets the targets"
    return min(in_time, key=lambda t: t.p99_ms), "the fastest (p99) of those that meet the targets"


def pareto_front(trials: Sequence[index_trials.Trial]) -> list[index_trials.Trial]:
    """Returns the trials that none beats in recall, p99 and memory at once, by recall."""
    kept = [t for t in trials if not any(_beats(other, t) for other in trials)]
    return sorted(kept, key=lambda t: (t.recall, -t.p99_ms))


def _beats(a: index_trials.Trial, b: index_trials.Trial) -> bool:
    better = (a.recall, -a.p99_ms, -a.megabytes), (b.recall, -b.p99_ms, -b.megabytes)
    return all(x >= y for x, y in zip(*better, strict=True)) and better[0] != better[1]


def _recalls(trial: index_trials.Trial, config: kinds.IndexConfig) -> bool:
    return trial.recall - trial.recall_error >= config.target_recall or trial.recall == 1.0


def _fits(trial: index_trials.Trial, config: kinds.IndexConfig) -> bool:
    return config.memory_limit_mb is None or trial.megabytes <= config.memory_limit_mb


def _in_time(trial: index_trials.Trial, config: kinds.IndexConfig) -> bool:
    return config.latency_budget_ms is None or trial.p99_ms <= config.latency_budget_ms


KINDS_TO_TRY = ("Flat", "IVF", "IVFSQ8", "IVFPQ", "IVFPQbf16", "HNSW", "HNSWSQ8")
# Graphs are built on one thread, so that they are the same every time: an hour at a million.
MAX_GRAPH_ADS = 200_000


def structures_to_try(
    targets: IndexConfig,
    num_ads: int,
    kinds: list[str] | None,
    num_lists: list[str | None],
) -> list[IndexConfig]:
    """Returns the indexes to try.

    Raises:
        ValueError: A kind is unknown.
    """
    if kinds is None:
        small = num_ads <= MAX_GRAPH_ADS
        kinds = [kind for kind in KINDS_TO_TRY if small or not kind.startswith("HNSW")]
    if num_ads < MIN_ADS_TO_TRAIN:
        kinds = [kind for kind in kinds if kind in ("Flat", "HNSW")] or ["Flat"]
    unknown = set(kinds) - set(KINDS_TO_TRY)
    if unknown:
        first = min(unknown)
        raise ValueError(
            f"--kinds: expected some of {', '.join(KINDS_TO_TRY)}, got {first!r}."
            f"{terminal.suggestion_for(first, KINDS_TO_TRY)}"
        )
    tried = []
    for kind in kinds:
        stored = "SQ8" if kind.endswith("SQ8") else "float"
        refine = "SQbf16" if kind.endswith("bf16") else targets.refine
        name = kind.removesuffix("SQ8").removesuffix("bf16")
        config = dataclasses.replace(targets, kind=name, storage=stored, refine=refine)
        cells = num_lists if kind.startswith("IVF") else [None]
        for count in cells:
            lists = None if count is None else int(count)
            tried.append(dataclasses.replace(config, num_lists=lists))
    return tried
