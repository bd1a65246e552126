"""The export gate: refuses a release that is worse than the released one.

It compares metrics of the validation split in the manifests of both releases: for the ranker, the
normalized entropy and calibration of its heads (`tfrec.ranking.measure_heads`), and for retrieval,
the share of the ranker's utility over all ads that the candidates contain
(`tfrec.retrieval.UtilityShare`). A first release is never refused: a weak head is published and
marked weak (`tfrec.ranking.weak_heads`). A head that is weak in the release is not compared.

ADR 15, ADR 35 and ADR 39 give the reasons for the limits.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from serving import errors, manifest, releases
from tfrec import evaluation, ranking, retrieval
from tfrecords import reader

# Share of the released ranker's information, 1 − normalized entropy, that may be lost.
_INFORMATION_TOLERANCE = 0.2
# Decrease of the utility share that is allowed.
_UTILITY_TOLERANCE = 0.02
# Below it a release is published with a note.
_LOW_UTILITY_SHARE = 0.95


@dataclasses.dataclass(frozen=True)
class Measured:
    """The validation metrics of a release.

    Attributes:
        figures: Metrics of each head; empty if unknown, or if there is no ranker.
        utility_shares: Weighting -> `share` of the utility in the candidates, and its standard
            `error`; empty if unknown.
        version: Release version; 0 for a candidate.
    """

    figures: ranking.Figures
    utility_shares: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    version: int = 0

    @classmethod
    def of(cls, release: manifest.Manifest) -> "Measured":
        """Reads the metrics in the manifest of a release."""
        figures = ranking.parse_figures(release.metrics.get("validation", {}))
        return cls(figures, release.metrics.get("utility_share", {}), release.version)


@dataclasses.dataclass
class Verdict:
    """The gate's verdict.

    Attributes:
        refusals: One clause per reason to refuse; empty if the release may be published.
        notes: Parts that could not be evaluated.
    """

    refusals: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def check(
    base: pathlib.Path,
    data_set: reader.DataSet,
    models: evaluation.Models,
    workdir: pathlib.Path,
    force: bool,
) -> dict[str, Any]:
    """Returns metrics and decision for the manifest, or raises `PublishError`."""
    figures: dict[str, Any] = {}
    shares: dict[str, Any] = {}
    if models.ranker is not None:
        figures = json.loads((workdir / "ranker" / "ranker.json").read_text())["validation"]
        shares = _utility_shares(workdir, models.heads.weights)
    candidate = Measured(ranking.parse_figures(figures), shares)
    decision = _decide(base, candidate, data_set.catalog().ad_ids, force)
    return {"validation": figures, "utility_share": shares, "gate": decision}


def check_copied_release(
    base: pathlib.Path, copied: releases.Bundle, force: bool
) -> dict[str, Any]:
    """Evaluates a release of another base directory before it is published in this one.

    Args:
        base: Base directory of the bundles.
        copied: The release.
        force: Whether to publish a refused release.

    Returns:
        The decision, as `check` returns it for the manifest.

    Raises:
        PublishError: The gate refuses it, and `force` is off.
    """
    ids = releases.ad_ids(copied.base, copied.version)
    # Models of other frameworks have no such metrics.
    is_measured = "validation" in copied.manifest.metrics
    return _decide(base, Measured.of(copied.manifest) if is_measured else None, ids, force)


def judge(candidate: Measured, released: Measured | None) -> Verdict:
    """Compares a release with the one that it would replace; None: a first release."""
    verdict = Verdict()
    for name, estimate in candidate.utility_shares.items():
        if estimate["share"] < _LOW_UTILITY_SHARE and not _is_weak(name, candidate):
            verdict.notes.append(
                f"retrieval: {_share_text(name, estimate['share'])}; train with more epochs, or "
                "use a longer log"
            )
    if released is None:
        return verdict
    if not released.figures:
        verdict.notes.append(f"release {released.version} has no metrics to compare with")
    for head, before in released.figures.items():
        metrics = candidate.figures.get(head)
        if _is_weak(head, released) or not isinstance(before, ranking.HeadFigures):
            verdict.notes.append(
                f"{head} is not compared: it is weak in release {released.version}"
            )
        elif metrics is None:
            verdict.refusals.append(
                f"{head}: release {released.version} has this head and this one lacks it; check "
                f"the {head} column of the log"
            )
        elif isinstance(metrics, ranking.HeadFigures):
            verdict.refusals += _refusals(head, metrics, before)
        else:
            rows = f"{metrics.positives:,} of {metrics.labeled:,} validation rows are positive"
            verdict.notes.append(f"{head} is not compared: {rows}")
    if released.utility_shares and not candidate.utility_shares:
        verdict.notes.append("retrieval is not compared: it was trained on clicks alone")
    for name in candidate.utility_shares.keys() & released.utility_shares.keys():
        if not _is_weak(name, released):
            verdict.refusals += _retrieval_refusals(name, candidate, released)
    return verdict


def _refusals(head: str, metrics: ranking.HeadFigures, before: ranking.HeadFigures) -> list[str]:
    refusals = []
    error = math.hypot(metrics.normalized_entropy_error, before.normalized_entropy_error)
    information = max(0.0, 1 - before.normalized_entropy)
    limit = _INFORMATION_TOLERANCE * information + ranking.NUM_ERRORS * error
    rise = metrics.normalized_entropy - before.normalized_entropy
    if rise > limit:
        refusals.append(
            f"{head}: the normalized entropy rose from {before.normalized_entropy:.4f} to "
            f"{metrics.normalized_entropy:.4f}, by {rise:.4f} (limit {limit:.4f})"
        )
    allowed = max(
        metrics.max_off, before.off + ranking.NUM_ERRORS * metrics.calibration_ratio_error
    )
    if metrics.off > allowed:
        refusals.append(
            f"{head}: predicted / observed is {metrics.calibration_ratio:.3f}; expected "
            f"{max(0.0, 1 - allowed):.3f} to {1 + allowed:.3f}"
        )
    return refusals


def _retrieval_refusals(name: str, candidate: Measured, released: Measured) -> list[str]:
    own, before = candidate.utility_shares[name], released.utility_shares[name]
    error = math.hypot(own["error"], before["error"])
    limit = before["share"] - _UTILITY_TOLERANCE - ranking.NUM_ERRORS * error
    if own["share"] >= limit:
        return []
    return [
        f"retrieval: {_share_text(name, own['share'])}; they had {before['share']:.3f} in release "
        f"{released.version} (limit {limit:.3f})"
    ]


def _is_weak(weighting: str, measured: Measured) -> bool:
    """Returns whether a weighting consists of a single, weak head."""
    metrics = measured.figures.get(weighting)
    return metrics is not None and (
        not isinstance(metrics, ranking.HeadFigures) or ranking.weakness(metrics) is not None
    )


def _share_text(name: str, share: float) -> str:
    utility = "utility" if name == retrieval.UTILITY else f"utility by {name} alone"
    return f"the candidates have {share:.3f} of the {utility} that the ranker finds in all ads"


def _utility_shares(workdir: pathlib.Path, weights: Mapping[str, float]) -> dict[str, Any]:
    """Reads the utility shares, except for default weights that have changed since."""
    trained = json.loads((workdir / "retrieval" / "retrieval.json").read_text())
    taught = trained.get("distillation", {"utility_share": {}, "weights": {}})
    shares = dict(taught["utility_share"])
    if any(weights[head] != weight for head, weight in taught["weights"].items()):
        shares.pop(retrieval.UTILITY, None)
    return shares


def _decide(
    base: pathlib.Path,
    candidate: Measured | None,
    ids: pa.Array | pa.ChunkedArray,
    force: bool,
) -> dict[str, Any]:
    """Returns the decision on a candidate with these ads; None: its models are not compared."""
    if not releases.versions(base):
        verdict = Verdict() if candidate is None else judge(candidate, None)
        return {"forced": force, **dataclasses.asdict(verdict)}
    version = releases.stable(base)
    try:
        released = Measured.of(manifest.read(base, version))
    except errors.BundleError:
        # A release that cannot be read is not served, so nothing is compared with it.
        released = Measured({}, version=version)
    verdict = Verdict() if candidate is None else judge(candidate, released)
    if missing := releases.describe_missing_ads(base, version, ids):
        verdict.notes.append(
            f"! {missing}. To keep those that the new log does not show, convert it with the table "
            "of ads (--ads_path)"
        )
    if verdict.refusals and not force:
        raise errors.PublishError(
            f"Not published, release {version} stays: {'; '.join(verdict.refusals)}. More data, "
            "fewer epochs or other fields may help (tfrec inspect_dataset shows the log's "
            "fields); --force publishes the release anyway."
        )
    return {"forced": force, **dataclasses.asdict(verdict)}
