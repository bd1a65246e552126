r"""Chooses the ad index for a recall target, a latency budget and a memory limit.

    tfrec tune_index --workdir=workdir/quickstart --plot=index.png
    tfrec tune_index --embeddings=ads.npy --queries=queries.npy \
        --target_recall=0.99 --latency_budget_ms=1.4 --memory_limit_mb=500 --output=index.json
    tfrec export --workdir=workdir/quickstart --index_config=index.json

Takes one or two minutes for 10,000 ads with all kinds, more for a million. Builds each kind of
index, and measures the recall of several search settings on half of the queries. The other half
evaluates the chosen index. Work is counted in distances (inner products), so the load of the
machine does not matter. The best setting of each index is also timed, one query at a time on one
thread. Prints the trials that are Pareto-optimal in recall, distances and memory (--all: every
trial), the choice and its reason.
"""

import dataclasses
import pathlib

from absl import flags

from serving import index
from serving.cli import command_line
from serving.cli.flags import tuning_flags
from tfrecords import files, terminal

flags.DEFINE_bool("json", False, "Print only the choice and all trials, as JSON.")
flags.DEFINE_bool("all", False, "Print every trial.")
flags.DEFINE_string(
    "output", None, "JSON file for the choice, to use with tfrec export --index_config."
)
FLAGS = flags.FLAGS
flags.adopt_module_key_flags(tuning_flags)


def main() -> None:
    from serving import export

    if (FLAGS.embeddings is None) != (FLAGS.queries is None):
        raise ValueError("--embeddings and --queries: expected both or neither.")
    for path in filter(None, (FLAGS.output, FLAGS.plot)):
        _check_output(pathlib.Path(path))
    if FLAGS.embeddings:
        ads, queries = export.embeddings_from_files(FLAGS.embeddings, FLAGS.queries)
    else:
        tower = export.trained_tower(pathlib.Path(FLAGS.workdir))
        ads = export.ad_embeddings(*tower)
        queries = export.query_embeddings(*tower, "validation", FLAGS.num_queries)
    targets = index.IndexConfig(
        num_candidates=FLAGS.k,
        target_recall=FLAGS.target_recall,
        latency_budget_ms=FLAGS.latency_budget_ms,
        memory_limit_mb=FLAGS.memory_limit_mb,
        use_gpu=FLAGS.use_gpu,
    )
    tried = index.structures_to_try(targets, len(ads), FLAGS.kinds, FLAGS.num_lists or [None])
    report = (lambda line: None) if FLAGS.json else terminal.print_above_bars
    choice = index.tune_index(ads, queries[: FLAGS.num_queries], targets, tried, report)
    if FLAGS.json:
        command_line.print_json(as_json(choice))
    else:
        print(text(choice, FLAGS.all))
    if FLAGS.output:
        files.write_json(pathlib.Path(FLAGS.output), as_json(choice))
    if FLAGS.plot:
        plot(choice, FLAGS.plot)


def _check_output(path: pathlib.Path) -> None:
    """Creates the directory of an output; raises if the file cannot be written after the trials."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    path.open("ab").close()
    if is_new:
        path.unlink()


def text(choice: index.Choice, everything: bool) -> str:
    """Returns a table of the trials, with the choice and its result on held-out queries."""
    shown = choice.trials if everything else index.pareto_front(choice.trials)
    if choice.chosen not in shown:
        shown = [*shown, choice.chosen]
    held_out = dataclasses.replace(choice.held_out, name="chosen, on held-out queries")
    rows = [_row("*" if trial is choice.chosen else "", trial) for trial in shown]
    head = ("", "index", "recall", "distances", "p50 ms", "p99 ms", "MB", "build s")
    table = terminal.text_table(head, [*rows, _row("=", held_out)], left=(0, 1))
    return f"\n{table}\n\n* {choice.verdict}"


def _row(mark: str, trial: index.Trial) -> list[str]:
    return [
        mark,
        trial.name,
        f"{trial.recall:.4f}",
        f"{trial.distances:,.0f}",
        *("–" if value is None else f"{value:.2f}" for value in (trial.p50_ms, trial.p99_ms)),
        f"{trial.megabytes:.1f}",
        f"{trial.build_seconds:.1f}",
    ]


def as_json(choice: index.Choice) -> dict[str, object]:
    """Returns the chosen config, its results and all trials."""
    return {
        "config": dataclasses.asdict(choice.chosen.config),
        **choice.summary(),
        "rows": [dataclasses.asdict(trial) for trial in choice.trials],
    }


def plot(choice: index.Choice, path: str) -> None:
    """Plots recall and distances, with a line for each index."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    factories: dict[str, list[index.Trial]] = {}
    for trial in choice.trials:
        factories.setdefault(trial.name.split(":")[0], []).append(trial)
    for factory, trials in factories.items():
        best = index.pareto_front(trials)
        points = [t.recall for t in best], [t.distances for t in best]
        axes.plot(*points, "o-", label=f"{factory}, {best[0].megabytes:,.0f} MB")
    chosen = choice.chosen
    label = f"chosen, p99 {chosen.p99_ms:.2f} ms"
    axes.plot([chosen.recall], [chosen.distances], "k*", markersize=16, label=label)
    axes.axvline(chosen.config.target_recall, color="gray", linestyle=":")
    axes.set(
        xlabel=f"recall at {chosen.config.num_candidates}",
        ylabel="distances per query",
        yscale="log",
    )
    axes.legend(fontsize="small")
    figure.savefig(path)
