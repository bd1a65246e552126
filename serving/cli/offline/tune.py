"""Searches for better hyperparameters of a stage on the validation split.

    tfrec tune --workdir=workdir/criteo --stage=ranker --minutes=120
    tfrec tune --workdir=workdir/criteo --stage=retrieval --minutes=60
    tfrec tune --workdir=workdir/criteo --minutes=60 --json

Reads the training and validation splits of WORKDIR/data, and writes WORKDIR/tuning/STAGE. The
first trial uses the default options. Unpromising trials end early. To continue a study, even one
that was killed, run the same command again. Prints all trials, and the command that trains with the
best options, which are also in WORKDIR/tuning/STAGE/best.json. Needs the extra `tune`.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
from typing import TYPE_CHECKING, Any

from absl import flags

from serving.cli import command_line, shared_flags
from tfrec.config import RankerConfig, RetrievalConfig
from tfrecords import terminal

if TYPE_CHECKING:
    from tfrec import tuning

_STAGES = ("ranker", "retrieval")

flags.DEFINE_string("workdir", "workdir/train", "Work directory with a converted data set.")
flags.DEFINE_enum("stage", "ranker", _STAGES, "Stage to tune.")
flags.DEFINE_float(
    "minutes",
    60.0,
    "Time limit of this run, in minutes; a started epoch is finished.",
    lower_bound=0.01,
)
flags.DEFINE_integer(
    "max_trials", None, "Maximum number of trials of the study. Default: no limit.", lower_bound=1
)
flags.DEFINE_integer(
    "epochs", None, "Maximum number of epochs of a trial. Default: the stage's.", lower_bound=1
)
flags.DEFINE_integer("seed", 1, "Seed of the search.", 0, 2**31 - 1)
shared_flags.define_flags(RankerConfig, ("ranker",))
shared_flags.define_flags(RetrievalConfig, ("retrieval_model",))
flags.DEFINE_bool("json", False, "Print only the best options, as JSON.")
FLAGS = flags.FLAGS


def main() -> None:
    with command_line.require_extra("tune"):
        from tfrec import tuning
    from serving import export

    other_flag = "retrieval_model" if FLAGS.stage == "ranker" else "ranker"
    if FLAGS[other_flag].value != FLAGS[other_flag].default:
        raise ValueError(
            f"--{other_flag}={FLAGS[other_flag].value}: expected no model of the other stage with "
            f"--stage={FLAGS.stage}. Leave it out, or set --stage."
        )
    workdir = pathlib.Path(FLAGS.workdir)
    stage = tuning.RANKER if FLAGS.stage == "ranker" else tuning.RETRIEVAL
    defaults = dataclasses.replace(stage.defaults, **_given(stage.name))
    stage = dataclasses.replace(stage, defaults=defaults)
    directory = workdir / "tuning" / stage.name
    steps = export.Pipeline(workdir)
    with steps.locked():
        tuned = tuning.tune(
            stage,
            steps.data_set(),
            directory,
            60 * FLAGS.minutes,
            FLAGS.seed,
            FLAGS.max_trials,
            progress=not FLAGS.json,
        )
    if FLAGS.json:
        command_line.print_json(tuned.to_json())
        return
    print(as_text(tuned, workdir))
    print(f"The options are also in {directory / 'best.json'}.")


def as_text(tuned: tuning.Tuned, workdir: pathlib.Path) -> str:
    """Returns the trials, and the command that trains with the best options."""
    return f"{_table(tuned)}\n\nTo train with the best options:\n\n  {_command(tuned, workdir)}\n"


def _table(tuned: tuning.Tuned) -> str:
    """Returns the trials as a text table, best first."""
    sign = -1 if tuned.stage.maximize else 1
    ranked = sorted(
        enumerate(tuned.trials),
        key=lambda item: (item[1].value is None, sign * (item[1].value or 0.0)),
    )
    names = list(tuned.stage.space)
    rows = [
        [
            "defaults" if not number else str(number),
            trial.state,
            str(trial.epochs),
            "–" if trial.value is None else f"{trial.value:.5f}",
            *(f"{trial.options[name]:g}" for name in names),
        ]
        for number, trial in ranked
    ]
    return terminal.text_table(
        ("trial", "state", "epochs", tuned.stage.metric, *names), rows, (0, 1)
    )


def _given(stage: str) -> dict[str, Any]:
    """Returns the options that the flags give all trials: the model, and the number of epochs."""
    model = "ranker" if stage == "ranker" else "retrieval_model"
    names = (model, "epochs")
    given = {name: FLAGS[name] for name in names}
    return {name: flag.value for name, flag in given.items() if flag.value != flag.default}


def _command(tuned: tuning.Tuned, workdir: pathlib.Path) -> str:
    options = {"workdir": workdir, **_given(tuned.stage.name), **tuned.best.options}
    given = [f"--{name}={value}" for name, value in options.items()]
    return shlex.join(["tfrec", f"train_{tuned.stage.name}", *given])
