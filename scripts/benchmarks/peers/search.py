"""A search of options within a budget of processor time.

References:
    Bergstra et al., Algorithms for Hyper-Parameter Optimization, 2011 (the estimator).
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna import distributions

Space = Mapping[str, distributions.BaseDistribution]
_RANDOM_TRIALS = 8


def whole(low: int, high: int) -> distributions.BaseDistribution:
    """Returns a range of whole numbers that are searched by their logarithm."""
    return distributions.IntDistribution(low, high, log=True)


def search(
    space: Space,
    starts: Sequence[Mapping[str, Any]],
    loss_of: Callable[[dict[str, Any]], float],
    minutes: float,
    seed: int,
) -> int:
    """Tries options: the starts, then proposals of a tree-structured Parzen estimator.

    Args:
        space: Option -> its range.
        starts: Options that are always tried.
        loss_of: Tries options of the space, and returns their loss.
        minutes: Limit in processor minutes of all threads of this process, including the starts;
            the last trial is finished.
        seed: Seed of the proposals.

    Returns:
        Number of trials.
    """
    end = time.process_time() + 60 * minutes
    losses = [loss_of(dict(options)) for options in starts]
    if time.process_time() >= end:
        return len(losses)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_RANDOM_TRIALS)
    study = optuna.create_study(sampler=sampler)
    for options, loss in zip(starts, losses, strict=True):
        if math.isfinite(loss):
            study.add_trial(
                optuna.trial.create_trial(
                    params=dict(options), distributions=dict(space), value=loss
                )
            )
    count = len(losses)
    while time.process_time() < end:
        trial = study.ask(dict(space))
        loss = loss_of(trial.params)
        failed = None if math.isfinite(loss) else optuna.trial.TrialState.FAIL
        study.tell(trial, None if failed else loss, state=failed)
        count += 1
    return count
