r"""Chooses the ad index for a recall target, a latency budget and a memory limit.

    python scripts/tune_index.py --workdir=workdir/quickstart --plot=index.png
    python scripts/tune_index.py --embeddings=ads.npy --queries=queries.npy \
        --target_recall=0.99 --latency_budget_ms=1.4 --memory_limit_mb=500 --output=index.json
    python scripts/export.py --workdir=workdir/quickstart --index_config=index.json

Seconds at 10,000 ads, some ten minutes at a million with all kinds. Builds each kind, measures it
at k = 500 over its search parameters with half of the queries, one query at a time on one thread,
and chooses; the other half says what the choice is worth. Prints the trials that none beats in
recall, p99 and memory at once (--all: every one), the choice marked, and the rule that chose.
"""

import dataclasses
import json
import pathlib

import command_line
import index_inputs
import matplotlib.figure
from absl import flags

from serving import index_kinds, index_trials, index_tuning
from tfrecords import progress, suggest

KINDS = ("Flat", "IVF", "IVFSQ8", "IVFPQ", "IVFPQbf16", "HNSW", "HNSWSQ8")
# Graphs are built on one thread, so that they are the same every time: an hour at a million.
_MOST_ADS_OF_A_GRAPH = 200_000

flags.DEFINE_string("workdir", "workdir/quickstart", "Work directory with a trained tower.")
flags.DEFINE_string("embeddings", None, "The ads' embeddings, .npy [N, D], in place of a tower.")
flags.DEFINE_string("queries", None, "Query embeddings, .npy [Q, D].")
flags.DEFINE_integer("num_queries", 1_000, "Queries used, at most.", lower_bound=2)
flags.DEFINE_integer("k", 500, "Ads wanted.", lower_bound=1)
flags.DEFINE_float("target_recall", 0.99, "Recall at k against exact search.", 0, 1)
flags.DEFINE_float("latency_budget_ms", 1.4, "p99 of single queries.", lower_bound=0)
flags.DEFINE_float("memory_limit_mb", None, "10^6 bytes of the index.", lower_bound=0)
flags.DEFINE_list(
    "kinds",
    None,
    f"Of {', '.join(KINDS)}; default: all, HNSW up to {_MOST_ADS_OF_A_GRAPH:,} ads.",
)
flags.DEFINE_list("num_lists", None, "Numbers of cells tried; default: by the number of ads.")
flags.DEFINE_bool("use_gpu", False, "Train the cells on a GPU (a faiss-gpu build).")
flags.DEFINE_bool("all", False, "Print every trial.")
flags.DEFINE_string("output", None, "JSON with the choice, for export.py --index_config.")
flags.DEFINE_string("plot", None, "A png of recall and p99.")
FLAGS = flags.FLAGS


def main() -> None:
    if (FLAGS.embeddings is None) != (FLAGS.queries is None):
        raise ValueError("--embeddings and --queries: expected both or neither.")
    if FLAGS.embeddings:
        ads, queries = index_inputs.from_files(FLAGS.embeddings, FLAGS.queries)
    else:
        tower = index_inputs.trained_tower(pathlib.Path(FLAGS.workdir))
        ads, queries = index_inputs.from_tower(*tower, FLAGS.num_queries)
    targets = index_kinds.IndexConfig(
        num_candidates=FLAGS.k,
        target_recall=FLAGS.target_recall,
        latency_budget_ms=FLAGS.latency_budget_ms,
        memory_limit_mb=FLAGS.memory_limit_mb,
        use_gpu=FLAGS.use_gpu,
    )
    if not all(count.isdecimal() and int(count) for count in FLAGS.num_lists or ()):
        raise ValueError(
            f"--num_lists: expected numbers such as 256,1024, got {','.join(FLAGS.num_lists)!r}."
        )
    tried = structures(targets, len(ads), FLAGS.kinds, FLAGS.num_lists or [None])
    said = (lambda line: None) if FLAGS.json else progress.say
    choice = index_tuning.tune(ads, queries[: FLAGS.num_queries], targets, tried, said)
    if FLAGS.json:
        command_line.print_json(as_json(choice))
    else:
        print(text(choice, FLAGS.all))
    if FLAGS.output:
        pathlib.Path(FLAGS.output).write_text(json.dumps(as_json(choice), indent=1) + "\n")
    if FLAGS.plot:
        plot(choice, FLAGS.plot)


def structures(
    targets: index_kinds.IndexConfig,
    num_ads: int,
    kinds: list[str] | None,
    num_lists: list[str | None],
) -> list[index_kinds.IndexConfig]:
    """Returns the indexes to try.

    Raises:
        ValueError: A kind is unknown.
    """
    if kinds is None:
        small = num_ads <= _MOST_ADS_OF_A_GRAPH
        kinds = [kind for kind in KINDS if small or not kind.startswith("HNSW")]
    if num_ads < index_kinds.MIN_ADS_TO_TRAIN:
        kinds = [kind for kind in kinds if kind in ("Flat", "HNSW")] or ["Flat"]
    unknown = set(kinds) - set(KINDS)
    if unknown:
        first = min(unknown)
        raise ValueError(
            f"--kinds: expected some of {', '.join(KINDS)}, got {first!r}."
            f"{suggest.close(first, KINDS)}"
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


def text(choice: index_tuning.Choice, everything: bool) -> str:
    """Renders the trials as a table, the choice and its measure on held-out queries."""
    shown = choice.trials if everything else index_tuning.pareto(choice.trials)
    if choice.chosen not in shown:
        shown = [*shown, choice.chosen]
    held_out = dataclasses.replace(choice.held_out, name="the choice, queries held out")
    width = max(len(trial.name) for trial in [*shown, held_out])
    heads = ("recall", "p50 ms", "p99 ms", "MB", "build s")
    lines = ["", f"  {'':{width}}" + "".join(f"{head:>9}" for head in heads)]
    lines += [_row("*" if trial is choice.chosen else "", trial, width) for trial in shown]
    lines += ["", f"* {choice.verdict}", _row("=", held_out, width)]
    return "\n".join(lines)


def _row(mark: str, trial: index_trials.Trial, width: int) -> str:
    return (
        f"{mark:2}{trial.name:{width}}{trial.recall:9.4f}{trial.p50_ms:9.2f}{trial.p99_ms:9.2f}"
        f"{trial.megabytes:9.1f}{trial.build_seconds:9.1f}"
    )


def as_json(choice: index_tuning.Choice) -> dict[str, object]:
    """Returns the choice's config, its measures and all trials."""
    return {
        "config": dataclasses.asdict(choice.chosen.config),
        **choice.summary(),
        "rows": [dataclasses.asdict(trial) for trial in choice.trials],
    }


def plot(choice: index_tuning.Choice, path: str) -> None:
    """Draws recall against p99, a line an index."""
    figure = matplotlib.figure.Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    factories: dict[str, list[index_trials.Trial]] = {}
    for trial in choice.trials:
        factories.setdefault(trial.name.split(":")[0], []).append(trial)
    for factory, trials in factories.items():
        best = index_tuning.pareto(trials)
        points = [t.recall for t in best], [t.p99_ms for t in best]
        axes.plot(*points, "o-", label=f"{factory}, {best[0].megabytes:,.0f} MB")
    chosen = choice.chosen
    axes.plot([chosen.recall], [chosen.p99_ms], "k*", markersize=16, label="chosen")
    if chosen.config.latency_budget_ms is not None:
        axes.axhline(chosen.config.latency_budget_ms, color="grey", linestyle=":")
    axes.axvline(chosen.config.target_recall, color="grey", linestyle=":")
    axes.set(
        xlabel=f"recall at {chosen.config.num_candidates}",
        ylabel="p99 ms, single queries",
        yscale="log",
    )
    axes.legend(fontsize="small")
    figure.savefig(path)


if __name__ == "__main__":
    # benchmark_index.py, which uses this module, has a --json of its own.
    flags.DEFINE_bool("json", False, "Print the choice and all trials as JSON and nothing else.")
    command_line.run(main)
