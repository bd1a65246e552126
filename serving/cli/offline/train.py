"""Trains both stages on a log and exports a release bundle.

    tfrec train --use_synthetic --n_samples=100000 --workdir=workdir/demo
    tfrec train --data_path=train.txt --workdir=workdir/criteo
    tfrec train --use_synthetic --json
    tfrec train --use_synthetic --ranker=dlrm_ranker:DLRM

Takes about three minutes for 100,000 impressions on two cores. Finished steps are skipped; if the
command is killed, run it again to resume. Only one training at a time can use a work directory.
Watch it with `tensorboard --logdir=WORKDIR`. Prints the data card's warnings about a new data set,
and test metrics, next to the ground truth's if the log is synthetic. Writes WORKDIR/bundle. The
export is refused only if the ranker or retrieval is worse on the validation split than in the
released version; --force overrides this. Heads with too few positive rows are published as
weak, and the command says so. A log of clicks alone is served by retrieval, without a ranker.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from absl import flags

from serving.cli import command_line, shared_flags
from tfrec import config

if TYPE_CHECKING:
    from serving import workflow

flags.DEFINE_string("workdir", "workdir/train", "Work directory for all output.")
flags.DEFINE_integer(
    "stage1_epochs",
    None,
    f"Maximum number of epochs of the two-tower model on clicks; default: "
    f"{config.RetrievalConfig.epochs}.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "stage2_epochs",
    None,
    f"Maximum number of epochs of the ranker; default: {config.RankerConfig.epochs}.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "batch_size",
    None,
    "Batch size of both stages, in clicks and in impressions; default: "
    f"{config.RetrievalConfig.batch_size} and {config.RankerConfig.batch_size}.",
    lower_bound=1,
)
shared_flags.define_flags(config.RetrievalConfig, ("retrieval_model",))
shared_flags.define_flags(config.RankerConfig, ("ranker",))
flags.DEFINE_bool("json", False, "Print only metrics, release and durations, as JSON.")
FLAGS = flags.FLAGS
shared_flags.define_log()
shared_flags.define_index()
shared_flags.define_force()


def train(workdir: pathlib.Path) -> workflow.TrainedStages:
    """Runs all steps with the options of the flags."""
    index_config = shared_flags.index_config()
    from serving import export, workflow
    from tfrec import ranking, reports, retrieval

    batch = {"batch_size": FLAGS.batch_size} if FLAGS.batch_size else {}
    first = {"epochs": FLAGS.stage1_epochs} if FLAGS.stage1_epochs else {}
    second = {"epochs": FLAGS.stage2_epochs} if FLAGS.stage2_epochs else {}
    retrieval_config = config.RetrievalConfig(
        retrieval_model=FLAGS.retrieval_model, **batch, **first
    )
    ranking_config = config.RankerConfig(ranker=FLAGS.ranker, **batch, **second)
    # Fails before the log is read.
    retrieval.RETRIEVAL_MODELS.get(retrieval_config.retrieval_model)
    ranking.RANKERS.get(ranking_config.ranker)
    steps = export.Pipeline(workdir, progress=not FLAGS.json)
    with steps.locked():
        stages = workflow.train(
            shared_flags.converted_data_set(steps),
            workdir,
            retrieval=retrieval_config,
            ranking=ranking_config,
            progress=not FLAGS.json,
        )
        report = stages.evaluate(index=index_config)
        page = steps.path("evaluation") / "report.html"
        if not FLAGS.json:
            print(reports.report_as_text(report))
            print(f"Report: {page}")
        release = stages.export(report, index=index_config, force=FLAGS.force)
        if FLAGS.json:
            exported = {"bundle": release.base, "version": release.version, "report": page}
            command_line.print_json(
                {"metrics": report.to_json(), **exported, "seconds": steps.seconds()}
            )
    return stages


def main() -> None:
    from tfrec import reports

    stages = train(pathlib.Path(FLAGS.workdir))
    if not FLAGS.json:
        print(reports.step_times(stages.steps.seconds()))
