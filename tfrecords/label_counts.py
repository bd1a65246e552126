"""What to expect from a head before it is trained, given the rows of its label.

The data card and training both use `expect`, so their messages agree.

Shapes: V values.
"""

import dataclasses
import math

import numpy as np

FEW_TRAINING_POSITIVES = 1_000
"""With fewer positive rows, a model is not reliable."""
FEW_POSITIVES = 100
"""With fewer, a head rarely learns more than its base rate, which is only known to within 10 %."""

LEAK_AUC = 0.98
"""A field that alone reaches this AUC was probably written after the label was known."""

RETURNING_SHARE = 0.1
"""Users return to ads if more than this share of the clicks repeats one of the user on the ad."""


@dataclasses.dataclass(frozen=True)
class LabelRows:
    """Numbers of rows of a split that have a label, and of those whose label is above 0."""

    known: int
    positive: int


@dataclasses.dataclass(frozen=True)
class Expectation:
    """A problem of a label, and a remedy."""

    text: str
    action: str


def expect(label: str, train: LabelRows, validation: LabelRows) -> Expectation | None:
    """Returns what to expect from the head of a label, or None if it has enough positive rows."""
    if not train.positive:
        return _without_positives(label)
    if label == "click" and train.positive == train.known:
        return Expectation(
            "Every training row is a click, so there is no ranker: retrieval alone orders ads.",
            "For a ranker, name a click column with zeros in the schema, or convert with "
            "--sampled_negatives=4, which samples ads that were not clicked.",
        )
    found = []
    positives = _positives(label)
    if train.positive < FEW_TRAINING_POSITIVES:
        near = ": expect scores near the base rate" if train.positive < FEW_POSITIVES else ""
        found.append(
            f"Training has {train.positive:,} {_positives(label, train.positive)}, too few for a "
            f"reliable model{near}."
        )
    if not validation.positive:
        found.append(f"Validation has no {positives}, so the {label} head cannot be evaluated.")
    elif validation.positive < FEW_POSITIVES:
        found.append(
            f"Validation has {validation.positive:,} {_positives(label, validation.positive)}, so "
            f"the {label} head cannot be evaluated well: a rate from so few rows has a relative "
            f"standard error of {1 / math.sqrt(validation.positive):.0%}."
        )
    if not found:
        return None
    return Expectation(
        " ".join(found),
        f"Use a larger log, with at least {FEW_TRAINING_POSITIVES:,} {positives} in training and "
        f"{FEW_POSITIVES} in validation.",
    )


def auc(scores: np.ndarray, negative: np.ndarray, positive: np.ndarray) -> float | None:
    """Returns the AUC of the scores [V] of values, or None if the rows are all of one class.

    Each value has a number [V] of negative and of positive rows.
    """
    pairs = float(negative.sum()) * float(positive.sum())
    if not pairs:
        return None
    _, index = np.unique(scores, return_inverse=True)
    below, positives = np.bincount(index, negative), np.bincount(index, positive)
    # A pair with equal scores counts half.
    return float(((np.cumsum(below) - below / 2) * positives).sum() / pairs)


def _positives(label: str, count: int = 0) -> str:
    """Returns the noun for positive rows, singular for a count of 1."""
    if label == "click":
        return "click" if count == 1 else "clicks"
    return f"row with {label}" if count == 1 else f"rows with {label}"


def _without_positives(label: str) -> Expectation:
    if label == "click":
        return Expectation(
            "No training row is a click, so nothing can be learned.",
            "Check the click column and the click_threshold of the schema.",
        )
    return Expectation(
        f"{label} is never above 0 in the train split, so the release has no such head.",
        f"Check the {label} column of the schema, or use a larger log.",
    )
