"""A study finds better options, prunes worse ones, and survives a kill."""

import dataclasses
import itertools
import json
import math
import shutil

import optuna
import pytest
from optuna import distributions

from tfrec import config, tuning
from tfrec.tuning import study
from tfrecords import reader

BEST_RATE = 0.01


def train_parabola(data_set, options, workdir, progress, callbacks):
    """Stands for a training whose loss after an epoch is known: least at `BEST_RATE`."""
    (watch,) = callbacks
    for epoch in range(options.epochs):
        watch.on_epoch_begin(epoch)
        distance = math.log(options.learning_rate / BEST_RATE)
        watch.on_epoch_end(epoch, {"loss": distance**2 + 1 / (epoch + 1)})


PARABOLA = tuning.Stage(
    "parabola",
    config.RankerConfig(epochs=4),
    train_parabola,
    "loss",
    False,
    {"learning_rate": distributions.FloatDistribution(1e-5, 10.0, log=True)},
    lambda _: None,
)
FOREVER = 1e9


RATES = {"learning_rate": distributions.FloatDistribution(1e-3, 1e-2, log=True)}


def test_a_study_begins_with_the_defaults_and_approaches_the_best(data_set, tmp_path):
    tuned = tuning.tune(PARABOLA, data_set, tmp_path, FOREVER, max_trials=40)
    assert len(tuned.trials) == 40
    assert tuned.trials[0].options == {"learning_rate": PARABOLA.defaults.learning_rate}
    # The defaults are ln 5 away, which is a loss of 2.59 above 1/4.
    assert tuned.trials[0].value == pytest.approx(math.log(5) ** 2 + 0.25)
    # Forty random rates of 14 in the logarithm would come within 0.35 / 2 on average.
    assert abs(math.log(tuned.best.options["learning_rate"] / BEST_RATE)) < 0.15
    written = json.loads((tmp_path / "best.json").read_text())
    assert written["options"] == tuned.best.options
    assert written["value_of_defaults"] == tuned.trials[0].value
    assert len({trial.options["learning_rate"] for trial in tuned.trials}) > 30


def test_trials_that_are_worse_than_the_median_end_early(data_set, tmp_path):
    tuned = tuning.tune(PARABOLA, data_set, tmp_path, FOREVER, max_trials=20)
    # Until five trials are complete none is pruned; the later ones end after their first epoch.
    assert {trial.epochs for trial in tuned.trials[:5]} == {4}
    assert {(trial.state, trial.epochs) for trial in tuned.trials[5:]} == {
        ("complete", 4),
        ("pruned", 1),
    }
    assert tuned.best.value == min(t.value for t in tuned.trials if t.state == "complete")


def test_a_study_stops_in_time_and_continues_where_it_stopped(data_set, tmp_path):
    seconds = itertools.count()
    tuned = tuning.tune(PARABOLA, data_set, tmp_path, 9, clock=lambda: next(seconds))
    # Began at 0. Looks at 1, passes at 2 to 5; looks at 6, passes at 7 and 8, and ends at 9.
    assert [(trial.state, trial.epochs) for trial in tuned.trials] == [
        ("complete", 4),
        ("interrupted", 2),
    ]
    whole = tuning.tune(PARABOLA, data_set, tmp_path / "whole", FOREVER, max_trials=6)
    tuned = tuning.tune(PARABOLA, data_set, tmp_path, FOREVER, max_trials=6)
    assert tuned.trials == whole.trials


def test_a_study_without_a_complete_trial_says_so(data_set, tmp_path):
    seconds = itertools.count()
    with pytest.raises(ValueError, match=r"No trial of the study in .* is complete\. Run the same"):
        tuning.tune(PARABOLA, data_set, tmp_path, 3, clock=lambda: next(seconds))
    # The trial of the defaults is continued, not replaced by a proposal.
    (trial,) = tuning.tune(PARABOLA, data_set, tmp_path, FOREVER, max_trials=1).trials
    assert trial.options == {"learning_rate": PARABOLA.defaults.learning_rate}


def test_a_study_of_other_rows_with_the_same_vocabularies_is_not_continued(
    data_set, tmp_path, monkeypatch
):
    tuning.tune(PARABOLA, data_set, tmp_path, FOREVER, max_trials=1)
    labels = {"engagement_window_seconds": 60.0}
    relabeled = data_set.description.model_copy(update=labels)
    monkeypatch.setattr(data_set, "description", relabeled)
    with pytest.raises(ValueError, match=r"begun with different data\. Delete the directory"):
        tuning.tune(PARABOLA, data_set, tmp_path, FOREVER, max_trials=1)


def test_a_study_of_other_options_is_not_continued(data_set, tmp_path):
    tuning.tune(PARABOLA, data_set, tmp_path, FOREVER, max_trials=1)
    with pytest.raises(
        ValueError, match=r"begun with different seed\. Delete the directory to start"
    ):
        tuning.tune(PARABOLA, data_set, tmp_path, FOREVER, seed=2, max_trials=1)
    other = dataclasses.replace(PARABOLA, defaults=config.RankerConfig(epochs=3))
    with pytest.raises(ValueError, match=r"with different options \(epochs 4, now 3\)\. Delete"):
        tuning.tune(other, data_set, tmp_path, FOREVER, max_trials=1)
    before = {"defaults": {"epochs": 4, "old_option": 3}}  # of an earlier version
    after = {"defaults": {"epochs": 4}}
    assert study._differences(before, after) == "options (old_option 3, now None)"
    edited = dataclasses.replace(PARABOLA, source=lambda _: "abc")
    with pytest.raises(ValueError, match="with different source"):
        tuning.tune(edited, data_set, tmp_path, FOREVER, max_trials=1)


@pytest.mark.parametrize("seconds", [0, math.nan])
def test_a_study_without_time_is_refused_before_it_begins(seconds, data_set, tmp_path):
    with pytest.raises(ValueError, match=r"expected more than 0 s, got (0|nan) s\."):
        tuning.tune(PARABOLA, data_set, tmp_path / "new", seconds)
    assert not (tmp_path / "new").exists()


def test_a_trial_that_fails_does_not_end_the_study(data_set, tmp_path, capsys):
    def train(data_set, options, *others, **more):
        if options.learning_rate > limit:
            raise ValueError("too fast")
        train_parabola(data_set, options, *others, **more)

    stage, limit = dataclasses.replace(PARABOLA, train=train), 0.0
    with pytest.raises(ValueError, match="too fast"):  # The defaults must work.
        tuning.tune(stage, data_set, tmp_path, FOREVER, max_trials=1)
    limit = 0.1
    tuned = tuning.tune(stage, data_set, tmp_path, FOREVER, max_trials=8, progress=True)
    assert {trial.state for trial in tuned.trials} == {"complete", "failed"}
    assert all((t.state == "failed") == (t.options["learning_rate"] > limit) for t in tuned.trials)
    assert "failed (ValueError: too fast)" in capsys.readouterr().out


def test_trials_whose_loss_is_not_finite_have_failed_and_say_why(data_set, tmp_path, capsys):
    def train(*_, **__):
        raise FloatingPointError("The training loss of epoch 1 is nan.")

    stage = dataclasses.replace(PARABOLA, train=train)
    with pytest.raises(ValueError, match=r"No trial .* failed: FloatingPointError: The training l"):
        tuning.tune(stage, data_set, tmp_path, FOREVER, max_trials=2, progress=True)
    (line, other) = capsys.readouterr().out.splitlines()
    assert line == other
    assert line.startswith("trial: no epoch, failed (FloatingPointError: The training loss of")


def test_defaults_that_fail_after_an_interruption_end_a_study(data_set, tmp_path):
    seconds = itertools.count()
    with pytest.raises(ValueError, match="No trial"):
        tuning.tune(PARABOLA, data_set, tmp_path, 3, clock=lambda: next(seconds))

    def fail(*_, **__):
        raise RuntimeError("broken")

    failing = dataclasses.replace(PARABOLA, train=fail)
    with pytest.raises(RuntimeError, match="broken"):
        tuning.tune(failing, data_set, tmp_path, FOREVER)


def test_a_study_that_was_killed_before_a_trial_had_a_directory_continues(
    data_set, tmp_path, monkeypatch
):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "set_user_attr", killed)
        with pytest.raises(KeyboardInterrupt):
            tuning.tune(PARABOLA, data_set, tmp_path, FOREVER)
    (trial,) = tuning.tune(PARABOLA, data_set, tmp_path, FOREVER, max_trials=1).trials
    assert trial.state == "complete"


@pytest.mark.parametrize("stage", [tuning.RANKER, tuning.RETRIEVAL])
def test_the_defaults_are_in_the_space(stage):
    for name, values in stage.space.items():
        assert values._contains(values.to_internal_repr(getattr(stage.defaults, name))), name


@pytest.fixture(scope="module")
def towers(retrieval_config):
    defaults = dataclasses.replace(retrieval_config, epochs=2, refit=False, click_factors=False)
    return dataclasses.replace(tuning.RETRIEVAL, defaults=defaults, space=RATES)


@pytest.fixture(scope="module")
def directory_of_whole(tmp_path_factory):
    return tmp_path_factory.mktemp("studies") / "whole"


@pytest.fixture(scope="module")
def whole(without_test_rows, towers, directory_of_whole, deterministic):
    """An uninterrupted study of one trial; what a kill would leave is copied next to it."""
    count = itertools.count()

    def clock():
        # It is read at the beginning, before the trial, and before each of its two epochs.
        if next(count) == 3:
            shutil.copytree(directory_of_whole, directory_of_whole.with_name("killed"))
        return 0.0

    return tuning.tune(
        towers, without_test_rows, directory_of_whole, FOREVER, clock=clock, max_trials=1
    )


@pytest.fixture(scope="module")
def without_test_rows(data_set, tmp_path_factory):
    """The data set without its test files, which must not be read."""
    directory = shutil.copytree(data_set.directory, tmp_path_factory.mktemp("without") / "data")
    for shard in directory.glob("test-*"):
        shard.unlink()
    return reader.DataSet(directory)


@pytest.mark.trains
def test_a_killed_study_of_towers_ends_like_an_uninterrupted_one_without_test_rows(
    without_test_rows, towers, whole, directory_of_whole
):
    killed = directory_of_whole.with_name("killed")
    history = json.loads((killed / "trial_0" / "history.json").read_text())
    assert len(history) == 1
    resumed = tuning.tune(towers, without_test_rows, killed, FOREVER, max_trials=1)
    assert resumed.trials == whole.trials
    assert resumed.trials[0].state == "complete"
    assert resumed.trials[0].epochs == 2
    assert not list(killed.glob("trial_*"))


@pytest.mark.trains
def test_a_study_of_rankers_reads_no_test_rows(without_test_rows, ranker_config, tmp_path):
    defaults = dataclasses.replace(ranker_config, num_blocks=0, epochs=1)
    ranker = dataclasses.replace(tuning.RANKER, defaults=defaults, space=RATES)
    tuned = tuning.tune(ranker, without_test_rows, tmp_path, FOREVER, max_trials=1)
    assert tuned.best.epochs == 1
