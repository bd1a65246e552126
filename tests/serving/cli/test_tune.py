"""What `tfrec tune` prints: the trials, and the command that trains with the best options."""

import dataclasses
import pathlib
import shlex
from concurrent import futures

import pytest
from absl import flags
from absl.testing import flagsaver

from serving import export
from serving.cli import entry
from tfrec import tuning


@pytest.mark.parametrize("stage", [tuning.RANKER, tuning.RETRIEVAL], ids=["ranker", "retrieval"])
def test_the_trials_are_ranked_and_the_command_has_the_best_options(stage, script):
    defaults = {name: getattr(stage.defaults, name) for name in stage.space}
    best = {**defaults, "learning_rate": 0.00123, "dropout": 0.0, "batch_size": 256}
    values = (0.5, 0.25, None, 0.75) if stage.maximize else (0.5, 0.75, None, 0.25)
    states = ("complete", "pruned", "interrupted", "complete")
    options = (defaults, defaults, defaults, best)
    trials = [
        tuning.TuningTrial(*own) for own in zip(states, values, (3, 1, 0, 3), options, strict=True)
    ]
    module = script(entry.MODULES["tune"])
    with flagsaver.flagsaver():
        flags.FLAGS(["tune", "--epochs=5"])
        text = module.as_text(
            tuning.Tuned(stage, trials, trials[-1]), pathlib.Path("a directory/of mine")
        )
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["3", "defaults", "1", "2"]
    program, command, workdir, *given = shlex.split(lines[-1])
    assert (program, command) == ("tfrec", f"train_{stage.name}")
    assert workdir == "--workdir=a directory/of mine"
    types = {field.name: type(field.default) for field in dataclasses.fields(stage.defaults)}
    parsed = dict(one.removeprefix("--").split("=") for one in given)
    typed = {name: types[name](value) for name, value in parsed.items()}
    assert typed == {**best, "epochs": 5}


def test_a_work_directory_in_use_is_not_tuned(script, tmp_path):
    main = script(entry.MODULES["tune"]).main
    with (
        flagsaver.flagsaver(workdir=str(tmp_path)),
        export.Pipeline(tmp_path).locked(),
        futures.ThreadPoolExecutor(1) as thread,
        pytest.raises(BlockingIOError, match="is working in"),
    ):
        thread.submit(main).result()
