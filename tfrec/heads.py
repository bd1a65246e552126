"""The heads of the ranker: one table of their predictions and their use.

A head is one entry of `HEADS`. Its kind selects the loss (`ranking.tasks`), the served value
(`layers.head_outputs`), the calibrator (`calibration.Calibrators`) and the metrics
(`evaluation.head_quality`). A new head of a known kind is one entry. If its label is new, too, the
label is an entry of `tfrecords.schema.LABELS` and an attribute of `Schema`. Releases carry the
heads in their manifests.
"""

import dataclasses
import enum


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


CLICK = Head("click", "click_probability")
ENGAGEMENT = Head("engagement", "engagement_probability", HeadKind.PROBABILITY_AFTER_CLICK)
HEADS = {
    head.label: head
    for head in (
        CLICK,
        ENGAGEMENT,
        Head("revenue", "expected_revenue", HeadKind.AMOUNT, loss_weight=0.3),
    )
}
