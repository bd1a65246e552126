"""The heads of the ranker: one table of their predictions and their use.

`HEADS` has a head for each label of `tfrecords.schema.LABELS`, so a new head is a new label: an
entry there, and an attribute of `Schema`. Its kind follows from the label, and selects the loss
(`ranking.tasks`), the served value (`layers.head_outputs`), the calibrator
(`calibration.Calibrators`) and the metrics (`evaluation.head_quality`). Releases carry the heads in
their manifests.
"""

import dataclasses
import enum
from typing import Self

from tfrecords.schema import LABELS, Label


class HeadKind(enum.StrEnum):
    """The kind of value that a head predicts.

    Attributes:
        PROBABILITY: The probability of a positive label.
        PROBABILITY_AFTER_CLICK: The probability of a click followed by a positive label; the logit
            is for the label given a click.
        AMOUNT: The expected value of a label that is often 0, computed from three outputs: the
            logit of a positive amount, and the mean and scale of its logarithm.
    """

    PROBABILITY = "probability"
    PROBABILITY_AFTER_CLICK = "probability_after_click"
    AMOUNT = "amount"


@dataclasses.dataclass(frozen=True)
class Head:
    """An entry of the table.

    Attributes:
        label: Name of the label column, and of the head in requests, reports and metrics.
        output: Name of the exported ranker's output, and of the field in answers.
        kind: Kind of value that the head predicts for an impression.
        loss_weight: Default weight of the loss; `RankerConfig.LABEL_weight` overrides it, if
            there is such an option.
    """

    label: str
    output: str
    kind: HeadKind = HeadKind.PROBABILITY
    loss_weight: float = 1.0

    @classmethod
    def of(cls, label: Label) -> Self:
        """Returns the head of a label."""
        weight = _LOSS_WEIGHTS.get(label.name, 1.0)
        if label.is_amount:
            return cls(label.name, f"expected_{label.name}", HeadKind.AMOUNT, weight)
        kind = HeadKind.PROBABILITY_AFTER_CLICK if label.needs_click else HeadKind.PROBABILITY
        return cls(label.name, f"{label.name}_probability", kind, weight)

    @property
    def is_amount(self) -> bool:
        """Whether the label is an amount, not 0 or 1."""
        return self.kind == HeadKind.AMOUNT

    @property
    def num_logits(self) -> int:
        """Number of logits."""
        return 3 if self.is_amount else 1

    @property
    def has_position_bias(self) -> bool:
        """Whether the logit depends on the position; given a click it does not."""
        return self.kind != HeadKind.PROBABILITY_AFTER_CLICK


# Default weights of losses other than 1.
_LOSS_WEIGHTS = {"revenue": 0.3}
HEADS = {name: Head.of(label) for name, label in LABELS.items()}
CLICK, ENGAGEMENT = HEADS["click"], HEADS["engagement"]
