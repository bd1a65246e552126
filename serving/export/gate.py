"""The export gate: refuses a ranker that is worse than the released one, or than no model.

It compares metrics of the validation split, `tfrec.ranking.measure_heads`, which the manifest of
each release keeps. The click head has to be better than its base rate. Another head is refused if
it is known to be worse, and noted if the split has no positive or no negative rows for it.

ADR 15 gives the reasons for the limits.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import pydantic

from serving import errors
from tfrec.heads import CLICK

# Share of the released ranker's information, 1 − normalized entropy, that may be lost: the
# difference between runs of one configuration.
SAME_ROWS_TOLERANCE = 0.1
OTHER_ROWS_TOLERANCE = 0.2
# Tolerance of predicted / observed around 1, and of the calibration error as a share of the mean
# label.
CALIBRATION_TOLERANCE = 0.1
# Standard errors, and calibration errors of a calibrated model, that chance explains.
NUM_ERRORS = 2.0
NUM_CHANCE = 1.5


class HeadCounts(pydantic.BaseModel):
    """The validation rows of a head, which cannot be judged if they are all of one kind."""

    model_config = pydantic.ConfigDict(frozen=True, use_attribute_docstrings=True)

    labeled: int
    """Number of rows with a known label."""
    positives: int
    """Number of labels above 0."""


class HeadFigures(HeadCounts):
    """The metrics of a head, as `tfrec.ranking.measure_heads` describes them."""

    base_rate: float
    mean_label: float
    normalized_entropy: float
    normalized_entropy_error: float
    calibration_ratio: float
    calibration_ratio_error: float
    expected_calibration_error: float
    expected_calibration_error_of_chance: float

    @property
    def off(self) -> float:
        """Distance of predicted / observed from 1."""
        return abs(self.calibration_ratio - 1)

    @property
    def relative_error(self) -> float:
        """Expected calibration error as a share of the mean label."""
        return self.expected_calibration_error / self.mean_label


Figures = Mapping[str, HeadCounts]


def parse_figures(figures: Mapping[str, Mapping[str, Any]]) -> Figures:
    """Reads the JSON values of `tfrec.ranking.measure_heads`, from a training or a manifest.

    Raises:
        ValueError: A metric is missing or of another type.
    """
    return {
        head: (HeadFigures if "normalized_entropy" in own else HeadCounts).model_validate(own)
        for head, own in figures.items()
    }


@dataclasses.dataclass(frozen=True)
class Released:
    """The metrics of the released ranker.

    Attributes:
        version: Release version.
        figures: Metrics of each head; empty: they are not known.
        differences: Head -> normalized entropy of the candidate minus that of the release on the
            same rows, and its standard error; None if the metrics are from other rows.
    """

    version: int
    figures: Figures
    differences: Mapping[str, tuple[float, float]] | None = None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The gate's verdict.

    Attributes:
        refusals: One sentence per fault; empty: the ranker may be published.
        notes: What could not be judged, and how the ranker was compared.
    """

    refusals: tuple[str, ...]
    notes: tuple[str, ...]

    def check(self, version: int | None) -> None:
        """Raises an error if there are refusals.

        Args:
            version: The current release; None: there is none.

        Raises:
            ReleaseRefusedError: There are refusals.
        """
        if self.refusals:
            stays = "there is no release" if version is None else f"release {version} stays"
            raise errors.ReleaseRefusedError(
                f"Not published, {stays}: {'; '.join(self.refusals)}. More data, fewer passes or "
                "other fields may help (tfrec inspect_dataset shows the log's fields); "
                "--force publishes the release anyway."
            )

    def to_json(self, forced: bool) -> dict[str, Any]:
        """Returns the verdict for the manifest."""
        return {"forced": forced, "refusals": list(self.refusals), "notes": list(self.notes)}


def judge(candidate: Figures, released: Released | None) -> Verdict:
    """Judges a trained ranker.

    Args:
        candidate: Its metrics on the validation split.
        released: The ranker that it would replace; None: there is none.
    """
    refusals: list[str] = []
    notes: list[str] = []
    if released is not None and not released.figures:
        notes.append(f"release {released.version} has no metrics to compare with")
    elif released is not None and released.differences is None:
        notes.append(
            f"release {released.version} was measured on other rows: its normalized entropy is "
            f"compared with a tolerance of {OTHER_ROWS_TOLERANCE:.0%} of its information instead "
            f"of {SAME_ROWS_TOLERANCE:.0%}"
        )
    for head, own in candidate.items():
        if not isinstance(own, HeadFigures):
            rows = f"{own.positives:,} of {own.labeled:,} validation rows are positive"
            if head == CLICK.label:
                refusals.append(f"click cannot be judged: {rows}")
            else:
                notes.append(f"{head} is not judged: {rows}")
            continue
        before = None if released is None else released.figures.get(head)
        refusals += _against_the_base_rate(head, own)
        if released is not None and isinstance(before, HeadFigures):
            refusals += _against_the_release(head, own, before, released)
        refusals += _calibration(head, own, before if isinstance(before, HeadFigures) else None)
    return Verdict(tuple(refusals), tuple(notes))


def _against_the_base_rate(head: str, own: HeadFigures) -> list[str]:
    # The click head has to know something. Another head that knows nothing predicts its base rate,
    # which does no harm; it is refused if it is known to be worse.
    slack = 0.0 if head == CLICK.label else NUM_ERRORS * own.normalized_entropy_error
    if own.normalized_entropy < 1 + slack:
        return []
    return [
        f"{head}: the normalized entropy is {own.normalized_entropy:.4f} on "
        f"{own.labeled:,} validation rows; expected less than 1, that of always predicting "
        f"their rate ({own.base_rate:.4f})"
    ]


def _against_the_release(
    head: str, own: HeadFigures, before: HeadFigures, released: Released
) -> list[str]:
    if released.differences is not None and head in released.differences:
        (above, error), tolerance = released.differences[head], SAME_ROWS_TOLERANCE
        where = "on the same rows"
    else:
        above = own.normalized_entropy - before.normalized_entropy
        error = math.hypot(own.normalized_entropy_error, before.normalized_entropy_error)
        tolerance, where = OTHER_ROWS_TOLERANCE, "on its own rows"
    information = max(0.0, 1 - before.normalized_entropy)
    limit = tolerance * information + NUM_ERRORS * error
    if above <= limit:
        return []
    return [
        f"{head}: the normalized entropy rose from {own.normalized_entropy - above:.4f} of "
        f"release {released.version} to {own.normalized_entropy:.4f} {where}, by {above:.4f} "
        f"(limit {limit:.4f})"
    ]


def _calibration(head: str, own: HeadFigures, before: HeadFigures | None) -> list[str]:
    refusals = []
    allowed = CALIBRATION_TOLERANCE + NUM_ERRORS * own.calibration_ratio_error
    if before is not None:
        allowed = max(allowed, before.off + NUM_ERRORS * own.calibration_ratio_error)
    if own.off > allowed:
        refusals.append(
            f"{head}: predicted / observed is {own.calibration_ratio:.3f}; expected "
            f"{max(0.0, 1 - allowed):.3f} to {1 + allowed:.3f}"
        )
    chance = NUM_CHANCE * own.expected_calibration_error_of_chance / own.mean_label
    allowed = CALIBRATION_TOLERANCE + chance
    if before is not None:
        allowed = max(allowed, before.relative_error + chance)
    if own.relative_error > allowed:
        refusals.append(
            f"{head}: the expected calibration error is {own.relative_error:.3f} of the mean "
            f"label ({own.mean_label:.4g}; limit {allowed:.3f})"
        )
    return refusals
