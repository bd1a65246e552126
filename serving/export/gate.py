"""The export gate: refuses a release that is worse than the released one.

It compares validation metrics from the manifests of both releases: for the ranker, metrics of its
heads (`tfrec.ranking.measure_heads`), and for retrieval, the share of the ranker's utility over all
ads that the candidates contain (`tfrec.retrieval.UtilityShare`). A first release is never refused:
a weak head is published and marked weak (`tfrec.ranking.weak_heads`), and a low share is noted. A
head that is weak in the released ranker is not compared either.

ADR 15, ADR 35 and ADR 39 give the reasons for the limits.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from serving import errors
from tfrec import ranking, retrieval

# Share of the released ranker's information, 1 − normalized entropy, that may be lost: as much as
# runs of one configuration differ.
SAME_ROWS_TOLERANCE = 0.1
OTHER_ROWS_TOLERANCE = 0.2
# Decrease of the utility share that is allowed.
UTILITY_SHARE_TOLERANCE = 0.02
# Below it a release is published with a note.
LOW_UTILITY_SHARE = 0.95
UtilityShares = Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Released:
    """The metrics of the release to replace.

    Attributes:
        version: Release version.
        figures: Metrics of each head; empty if unknown, or if there is no ranker.
        differences: Head -> difference in normalized entropy, candidate minus release, on the
            same rows, and its standard error; None if the metrics are from other rows.
        utility_shares: Weighting -> `share` of the utility in the candidates, and its standard
            `error`; empty if unknown.
    """

    version: int
    figures: ranking.Figures
    differences: Mapping[str, tuple[float, float]] | None = None
    utility_shares: UtilityShares = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The gate's verdict.

    Attributes:
        refusals: One clause per reason to refuse; empty if the release may be published.
        notes: Parts that could not be evaluated, and how the ranker was compared.
    """

    refusals: tuple[str, ...]
    notes: tuple[str, ...]

    def check(self, version: int) -> None:
        """Raises `ReleaseRefusedError` if there are refusals; release `version` then stays."""
        if self.refusals:
            raise errors.ReleaseRefusedError(
                f"Not published, release {version} stays: {'; '.join(self.refusals)}. More data, "
                "fewer epochs or other fields may help (tfrec inspect_dataset shows the log's "
                "fields); --force publishes the release anyway."
            )

    def to_json(self, forced: bool) -> dict[str, Any]:
        """Returns the verdict for the manifest."""
        return {"forced": forced, "refusals": list(self.refusals), "notes": list(self.notes)}


def judge(
    candidate: ranking.Figures,
    released: Released | None,
    shares: UtilityShares | None = None,
) -> Verdict:
    """Evaluates a release by the heads of its ranker and the utility share of its retrieval.

    Args:
        candidate: Metrics of the heads on the validation split; empty: the release has no ranker.
        released: The release to replace; None: no release.
        shares: The `Released.utility_shares` of the candidate; None: unknown.
    """
    shares = shares or {}
    notes = tuple(
        f"retrieval: {_share_text(name, estimate['share'])}; train with more epochs, or use a "
        "longer log"
        for name, estimate in shares.items()
        if estimate["share"] < LOW_UTILITY_SHARE and not _is_weak(name, candidate)
    )
    if released is None:
        return Verdict((), notes)
    verdict_on_heads = _judge_heads(candidate, released)
    if released.utility_shares and not shares:
        notes = (*notes, "retrieval is not compared: it was trained on clicks alone")
    refusals = (*verdict_on_heads.refusals, *_utility_refusals(shares, released))
    return Verdict(refusals, (*verdict_on_heads.notes, *notes))


def _is_weak(weighting: str, figures: ranking.Figures) -> bool:
    """Returns whether a weighting consists of a single, weak head."""
    metrics = figures.get(weighting)
    return metrics is not None and (
        not isinstance(metrics, ranking.HeadFigures) or ranking.weakness(metrics) is not None
    )


def _utility_refusals(shares: UtilityShares, released: Released) -> list[str]:
    refusals = []
    for name, before in released.utility_shares.items():
        # `_judge_heads` refuses a release that lacks a head.
        if name not in shares or _is_weak(name, released.figures):
            continue
        estimate = shares[name]
        error = math.hypot(estimate["error"], before["error"])
        limit = before["share"] - UTILITY_SHARE_TOLERANCE - ranking.NUM_ERRORS * error
        if estimate["share"] < limit:
            refusals.append(
                f"retrieval: {_share_text(name, estimate['share'])}; they had "
                f"{before['share']:.3f} in release {released.version} (limit {limit:.3f})"
            )
    return refusals


def _share_text(name: str, share: float) -> str:
    utility = "utility" if name == retrieval.UTILITY else f"utility by {name} alone"
    return f"the candidates have {share:.3f} of the {utility} that the ranker finds in all ads"


def _judge_heads(candidate: ranking.Figures, released: Released) -> Verdict:
    if not released.figures:
        return Verdict((), (f"release {released.version} has no metrics to compare with",))
    refusals: list[str] = []
    notes: list[str] = []
    if released.differences is None and candidate:
        notes.append(
            "each release was measured on its own rows: their normalized entropies are "
            f"compared with a tolerance of {OTHER_ROWS_TOLERANCE:.0%} of the information of "
            f"release {released.version} instead of {SAME_ROWS_TOLERANCE:.0%}"
        )
    for head, before in released.figures.items():
        metrics = candidate.get(head)
        if _is_weak(head, released.figures) or not isinstance(before, ranking.HeadFigures):
            notes.append(f"{head} is not compared: it is weak in release {released.version}")
        elif metrics is None:
            refusals.append(
                f"{head}: release {released.version} has this head and this one lacks it; check "
                f"the {head} column of the log"
            )
        elif isinstance(metrics, ranking.HeadFigures):
            refusals += _entropy_refusals(head, metrics, before, released)
            refusals += _calibration_refusals(head, metrics, before)
        else:
            rows = f"{metrics.positives:,} of {metrics.labeled:,} validation rows are positive"
            notes.append(f"{head} is not compared: {rows}")
    return Verdict(tuple(refusals), tuple(notes))


def _entropy_refusals(
    head: str, metrics: ranking.HeadFigures, before: ranking.HeadFigures, released: Released
) -> list[str]:
    if released.differences is not None and head in released.differences:
        (rise, error), tolerance = released.differences[head], SAME_ROWS_TOLERANCE
        where = "on the same rows"
    else:
        rise = metrics.normalized_entropy - before.normalized_entropy
        error = math.hypot(metrics.normalized_entropy_error, before.normalized_entropy_error)
        tolerance, where = OTHER_ROWS_TOLERANCE, "on its own rows, which may be harder to predict"
    information = max(0.0, 1 - before.normalized_entropy)
    limit = tolerance * information + ranking.NUM_ERRORS * error
    if rise <= limit:
        return []
    return [
        f"{head}: the normalized entropy rose from {metrics.normalized_entropy - rise:.4f} of "
        f"release {released.version} to {metrics.normalized_entropy:.4f} {where}, by {rise:.4f} "
        f"(limit {limit:.4f})"
    ]


def _calibration_refusals(
    head: str, metrics: ranking.HeadFigures, before: ranking.HeadFigures
) -> list[str]:
    refusals = []
    allowed = max(
        metrics.max_off, before.off + ranking.NUM_ERRORS * metrics.calibration_ratio_error
    )
    if metrics.off > allowed:
        refusals.append(
            f"{head}: predicted / observed is {metrics.calibration_ratio:.3f}; expected "
            f"{max(0.0, 1 - allowed):.3f} to {1 + allowed:.3f}"
        )
    chance = metrics.relative_error_of_chance
    allowed = max(ranking.CALIBRATION_TOLERANCE, before.relative_error) + chance
    if metrics.relative_error > allowed:
        refusals.append(
            f"{head}: the expected calibration error is {metrics.relative_error:.3f} of the mean "
            f"label ({metrics.mean_label:.4g}; limit {allowed:.3f})"
        )
    return refusals
