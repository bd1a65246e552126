"""A study of a stage's hyperparameters with Optuna; after a kill, it can be continued.

A trial trains the stage as its command does, and its value is the validation metric of its best
epoch. No test row is read. The first trial has the defaults; a tree-structured Parzen estimator
proposes the others. A trial that is worse than the median of the earlier ones after the same epoch
is pruned. An interrupted trial resumes from its last backup. A proposal depends on the seed and
the trials before it, so a study is the same whether it was interrupted or not.

    DIRECTORY/journal.log   the trials
    DIRECTORY/trial_N/      the training of an unfinished trial
    DIRECTORY/best.json     the options of the best trial

References:
    Bergstra et al., Algorithms for Hyper-Parameter Optimization, 2011 (the estimator).
    Akiba et al., Optuna: A Next-generation Hyperparameter Optimization Framework, 2019.
"""

import dataclasses
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import optuna
import tensorflow as tf
from optuna import storages
from optuna.storages import journal
from optuna.trial import TrialState

from tfrec.tuning import stages
from tfrecords import files, reader

_TRIALS_BEFORE_PRUNING = 5
_RANDOM_TRIALS = 10
_DIRECTORY = "directory"
_INPUTS, _ERROR = "inputs", "error"


@dataclasses.dataclass(frozen=True)
class TuningTrial:
    """A trial of a study.

    Attributes:
        state: `complete`, `pruned`, `failed` or `interrupted`.
        value: Best validation metric of its epochs; None before the first epoch.
        epochs: Number of epochs.
        options: The options that it changes.
    """

    state: str
    value: float | None
    epochs: int
    options: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Tuned:
    """The result of a study.

    Attributes:
        stage: The tuned stage.
        trials: All trials, the defaults first.
        best: The best complete trial.
    """

    stage: stages.Stage
    trials: list[TuningTrial]
    best: TuningTrial

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `best.json`."""
        return {
            "stage": self.stage.name,
            "metric": self.stage.metric,
            "value": self.best.value,
            "value_of_defaults": self.trials[0].value,
            "trials": len(self.trials),
            "options": self.best.options,
        }


def tune(
    stage: stages.Stage,
    data_set: reader.DataSet,
    directory: pathlib.Path,
    seconds: float,
    seed: int = 1,
    max_trials: int | None = None,
    progress: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Tuned:
    """Continues a study, or begins one, and writes `best.json`.

    Args:
        stage: The stage to tune.
        data_set: The converted log.
        directory: Directory of the study.
        seconds: Time limit of this call; an epoch that has begun is finished.
        seed: Seed of the proposals.
        max_trials: Maximum number of trials of the study; None: as many as the time allows.
        progress: Whether to show progress bars and a line for each trial.
        clock: Returns seconds.

    Raises:
        ValueError: There is no time; the study in the directory is of other data, options or
            source; or no trial was completed.
        Exception: The training with the defaults failed, other than by a loss that is not finite.
    """
    if not seconds > 0:
        raise ValueError(f"The time of a study: expected more than 0 s, got {seconds:g} s.")
    end = clock() + seconds
    study = _open(stage, data_set, directory, seed)
    while clock() < end and (max_trials is None or len(_started(study)) < max_trials):
        # With its own seed, a proposal does not depend on how many this process has made.
        study.sampler = optuna.samplers.TPESampler(
            seed=seed + len(_started(study)), n_startup_trials=_RANDOM_TRIALS
        )
        trial = study.ask(dict(stage.space))
        workdir = directory / (trial.user_attrs.get(_DIRECTORY) or f"trial_{trial.number}")
        trial.set_user_attr(_DIRECTORY, workdir.name)
        watch = _Watch(trial, stage, workdir / "history.json", end, clock)
        try:
            options = dataclasses.replace(stage.defaults, **_options(trial))
            stage.train(data_set, options, workdir, progress, callbacks=[watch])
        except _OutOfTimeError:
            break  # The trial is continued next time.
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
        except Exception as error:  # A custom model may not work with some options.
            is_default = len(_started(study)) == 1  # Even if it was interrupted before.
            if is_default and not isinstance(error, FloatingPointError):
                raise  # After a loss that is not finite, lower learning rates may help.
            trial.set_user_attr(_ERROR, f"{type(error).__name__}: {error}")
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, _best(stage, watch.values))
        shutil.rmtree(workdir, ignore_errors=True)
        tf.keras.backend.clear_session()
        if progress:
            print(_line(stage, study.trials[trial.number]), flush=True)
    return _result(stage, study, directory)


def _open(
    stage: stages.Stage, data_set: reader.DataSet, directory: pathlib.Path, seed: int
) -> optuna.Study:
    directory.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=storages.JournalStorage(journal.JournalFileBackend(str(directory / "journal.log"))),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_TRIALS_BEFORE_PRUNING),
        study_name=stage.name,
        direction="maximize" if stage.maximize else "minimize",
        load_if_exists=True,
    )
    inputs = {
        "data": data_set.training_checksum,
        "defaults": dataclasses.asdict(stage.defaults),
        "space": {name: repr(values) for name, values in stage.space.items()},
        "seed": seed,
    }
    source = stage.source(stage.defaults)
    if source is not None:
        inputs["source"] = source
    before = study.user_attrs.get(_INPUTS)
    if before is None:
        study.set_user_attr(_INPUTS, inputs)
        study.enqueue_trial({name: getattr(stage.defaults, name) for name in stage.space})
    elif before != inputs:
        raise ValueError(
            f"The study in {directory} was begun with different {_differences(before, inputs)}. "
            "Delete the directory to start a new study, or tune in another work directory."
        )
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        # Its process ended; the training resumes in the same directory.
        study.enqueue_trial(trial.params, {_DIRECTORY: trial.user_attrs.get(_DIRECTORY)})
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def _differences(before: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """Returns what differs between the inputs of a study and the given ones."""
    names = [name for name in {**inputs, **before} if before.get(name) != inputs.get(name)]
    if "defaults" in names:
        old, new = before["defaults"], inputs["defaults"]
        changed = [
            f"{name} {old.get(name)!r}, now {new.get(name)!r}"
            for name in {**new, **old}
            if old.get(name) != new.get(name)
        ]
        names[names.index("defaults")] = f"options ({'; '.join(changed)})"
    return " and ".join(names)


def _started(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Returns the trials that have begun; an interrupted one that was begun again counts once."""
    skipped = (TrialState.WAITING, TrialState.FAIL)
    return [trial for trial in study.trials if trial.state not in skipped]


def _options(trial: optuna.Trial | optuna.trial.FrozenTrial) -> dict[str, Any]:
    """Returns the options of a trial, rounded to three digits, so that flags can repeat them."""
    return {
        name: float(f"{value:.3g}") if isinstance(value, float) else value
        for name, value in trial.params.items()
    }


class _OutOfTimeError(Exception):
    """The time of the study is over."""


class _Watch(tf.keras.callbacks.Callback):
    """Reports the epochs of a trial, and ends it when it is pruned or the time is over."""

    def __init__(
        self,
        trial: optuna.Trial,
        stage: stages.Stage,
        history: pathlib.Path,
        end: float,
        clock: Callable[[], float],
    ) -> None:
        super().__init__()
        self._trial, self._stage = trial, stage
        self._end, self._clock = end, clock
        self.values: dict[int, float] = {}
        for entry in json.loads(history.read_text()) if history.is_file() else ():
            self._report(entry["epoch"] - 1, entry)

    def _report(self, epoch: int, logs: dict[str, Any]) -> None:
        self.values[epoch] = float(logs[self._stage.metric])
        self._trial.report(self.values[epoch], epoch)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._clock() >= self._end:
            raise _OutOfTimeError

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._report(epoch, logs or {})
        if self._trial.should_prune():
            raise optuna.TrialPruned


def _best(stage: stages.Stage, values: dict[int, float]) -> float:
    return max(values.values()) if stage.maximize else min(values.values())


def _result(stage: stages.Stage, study: optuna.Study, directory: pathlib.Path) -> Tuned:
    started = _started(study)
    complete = [trial for trial in started if trial.state == TrialState.COMPLETE]
    if not complete:
        failures = [trial.user_attrs[_ERROR] for trial in started if _ERROR in trial.user_attrs]
        why = f" The last one that failed: {failures[-1]}" if failures else ""
        raise ValueError(
            f"No trial of the study in {directory} is complete. Run the same command again to "
            f"continue it, or with more minutes.{why}"
        )
    trials = [_trial(stage, trial) for trial in started]
    best = _trial(stage, study.best_trial)
    tuned = Tuned(stage, trials, best)
    files.write_json(directory / "best.json", tuned.to_json())
    return tuned


def _trial(stage: stages.Stage, trial: optuna.trial.FrozenTrial) -> TuningTrial:
    values = trial.intermediate_values
    states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}
    failed = _ERROR in trial.user_attrs
    return TuningTrial(
        "failed" if failed else states.get(trial.state, "interrupted"),
        _best(stage, values) if values else None,
        len(values),
        _options(trial),
    )


def _line(stage: stages.Stage, frozen: optuna.trial.FrozenTrial) -> str:
    trial = _trial(stage, frozen)
    value = "no epoch"
    if trial.value is not None:
        value = f"{stage.metric} {trial.value:.5f} after {trial.epochs} epochs"
    error = frozen.user_attrs.get(_ERROR)
    why = "" if error is None else f" ({error})"
    return f"trial: {value}, {trial.state}{why}"
