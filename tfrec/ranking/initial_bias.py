"""Initial biases of the ranker's heads: the rates of the log.

A head that starts at even odds spends its first steps on finding the rate. Other parameters that
see the same rows, such as position biases and common field values, absorb a part of it and must
unlearn it; training on a small log ends before they do.

Shapes: L rows.

References:
    Karpathy, A Recipe for Training Neural Networks, 2019 ("init well").
"""

import math
from collections.abc import Mapping

import numpy as np

from tfrec import layers
from tfrec.heads import CLICK, HEADS, HeadKind


def from_labels(
    labels: Mapping[str, np.ndarray], offsets: Mapping[str, np.ndarray]
) -> dict[str, list[float]]:
    """Returns the biases with which heads without weights predict the means of their labels.

    Args:
        labels: Head -> [L], click among them; NaN where missing.
        offsets: Amount head -> [L] offsets, added to the logarithm of its mean; other heads have
            none.
    """
    clicked = labels[CLICK.label] == 1
    nothing = np.zeros(len(clicked))
    return {
        head: _biases(head, values, clicked, offsets.get(head, nothing))
        for head, values in labels.items()
    }


def _biases(head: str, labels: np.ndarray, clicked: np.ndarray, offset: np.ndarray) -> list[float]:
    if HEADS[head].kind == HeadKind.PROBABILITY_AFTER_CLICK:
        labels = labels[clicked]
    known = ~np.isnan(labels)
    if not HEADS[head].is_amount:
        return [_logit(labels[known])]
    positive = labels > 0
    amounts = np.log(labels[positive].astype(np.float64)) - offset[positive]
    labels = labels[known]
    mean, deviation = (amounts.mean(), amounts.std()) if len(amounts) else (0.0, 1.0)
    return [_logit(labels > 0), float(mean), layers.raw_amount_scale(float(deviation))]


def _logit(labels: np.ndarray) -> float:
    """Returns the log odds of labels, shrunk so that they are finite."""
    positive = float(np.sum(labels, dtype=np.float64))
    return math.log((positive + 0.5) / (len(labels) - positive + 0.5))
