"""The report of an evaluation: the one definition of `metrics.json` and its parts.

A metric is an `Estimate`: its value with its interval, its ceiling, and why a value is missing.
Keys without a value are left out of the JSON.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
import pydantic

from tfrec import metrics as resampling

if TYPE_CHECKING:
    import pandas as pd

Interval = tuple[float, float]
Point = tuple[float, float]


class ReportPart(pydantic.BaseModel):
    """Base of all parts of a report; immutable, and strict about its keys."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    def to_json(self, exclude: set[str] | None = None) -> dict[str, Any]:
        """Returns the JSON object, without the fields in `exclude`."""
        return self.model_dump(mode="json", exclude_none=True, exclude=exclude)


class Estimate(ReportPart):
    """A metric of the rows of a split."""

    value: float | None = None
    """None if the rows do not define the metric."""
    interval: Interval | None = None
    """Its 95 % interval. None: there are too few units to resample, or the value is the same in all
    resamples, such as a share of 0 or 1."""
    absent: str | None = None
    """Why there is no value."""
    ground_truth: float | None = None
    """The same metric of the true values on the same rows. None: no ground truth."""

    @classmethod
    def of(
        cls,
        samples: np.ndarray,
        interval: Callable[[np.ndarray], list[float] | None] = resampling.interval,
        **fields: Any,
    ) -> Self:
        """Makes an estimate from the metric's values [S] of the data and its resamples.

        Args:
            samples: The values, as the functions `tfrec.metrics.resampled_*` return them.
            interval: Computes the interval from the samples.
            **fields: Other fields; `absent` is left out if there is a value.
        """
        value = resampling.point_estimate(samples)
        if value is None:
            return cls(**fields)
        bounds = interval(samples)
        fields["absent"] = None
        return cls(
            value=value, interval=None if bounds is None else (bounds[0], bounds[1]), **fields
        )


class CalibrationBin(ReportPart):
    """A bin of a calibration curve."""

    predicted: float
    """Mean prediction."""
    observed: Estimate
    """Mean label."""
    rows: int


class HeadQuality(ReportPart):
    """The quality of a head on logged impressions."""

    labeled: int
    """Number of rows with the label."""
    metrics: dict[str, Estimate]
    """Name -> metric, see `head_quality`; empty if no row has the label."""
    calibration_curve: list[CalibrationBin]


class ScoreHistogram(ReportPart):
    """Shares of the positive and of the negative rows in bins of scores."""

    edges: list[float]
    ratios: bool
    """Whether the bins are equally wide on a logarithmic scale."""
    positive: list[float]
    negative: list[float]


class ScoreCurves(ReportPart):
    """Curves of the scores of a head; the first two are None if all rows are of one class."""

    roc: list[Point] | None = None
    """Points of false positive rate and true positive rate."""
    precision_recall: list[Point] | None = None
    """Points of recall and precision."""
    scores: ScoreHistogram


class Segment(ReportPart):
    """The quality of a head on the rows of a segment."""

    value: str
    """Name of the segment."""
    rows: int
    metrics: dict[str, Estimate]
    """`observed` and `predicted` means, `auc`, `normalized_entropy` (relative to the segment's own
    rate) and `calibration_ratio`."""


class SegmentQuality(ReportPart):
    """The quality of the probability heads by segment."""

    by: list[str]
    """Names of the segmentations: ad fields, `ads` and `position`."""
    heads: dict[str, dict[str, list[Segment]]]
    """Head that has labels -> segmentation -> segments."""
    absent: dict[str, str]
    """Segmentation that is missing -> why."""


class RecommenderQuality(ReportPart):
    """The lists of a recommender, see `corpus_ranking`."""

    metrics: dict[str, float]
    """`corpus_recall_at_K`, `ndcg_at_K` and measures of the lists; one that is undefined is left
    out."""
    on_seen_ads: dict[str, float] | None = None
    """Recall and NDCG of the clicks on ads that were shown in training or clicked in validation."""
    on_unseen_ads: dict[str, float] | None = None
    """Recall and NDCG of the clicks on all other ads."""
    excluding_seen: dict[str, float] | None = None
    """Recall and NDCG by user, without the ads that the user clicked before. None: no users."""


class UniformExposure(ReportPart):
    """Recall of clicks if every ad were shown with the same probability.

    Logged clicks are on ads that the logging policy chose, so recall of them rewards retrieving
    what the policy shows. Here a request clicks an ad in proportion to its true click probability.
    """

    requests: int
    corpus_recall_at_500: dict[str, Estimate]
    """By recommender; `ground_truth` retrieves the ads with the greatest click probability."""
    share_of_achievable: Estimate
    """Recall of the two-tower model divided by the ground truth's."""


class RetrievalQuality(ReportPart):
    """Recommenders on the same held-out clicks, among all ads."""

    num_ads: int
    num_clicks: int
    num_clicks_on_unseen_ads: int = 0
    """Clicks on ads that were neither shown in training nor clicked in validation."""
    num_users: int | None = None
    """Users measured without the ads that they clicked before. None: no users."""
    clicked_popularity_percentile: float | None = None
    """Mean percentile by training clicks of the clicked ads."""
    recommenders: dict[str, RecommenderQuality] = {}
    """`two_tower`, baselines, `ground_truth`, and `random`: what is expected of random lists."""
    share_of_achievable: dict[str, float] = {}
    """Metric -> value of the two-tower model divided by the ground truth's."""
    uniform_exposure: UniformExposure | None = None
    """None: no ground truth."""
    absent: dict[str, str] = {}
    """Measure or recommender that is missing -> why."""


class Funnel(ReportPart):
    """The setting of a funnel."""

    candidates: int
    """Number of candidates of a request."""
    ads: int
    index: str
    filters: str | None = None


class Promise(ReportPart):
    """Served values of a head compared with the true values: means over requests."""

    expected: Estimate
    """Sum of the served values of the ten ads; `ground_truth` is the sum of their true values."""
    ratio: Estimate
    """Expected over true. Above 1: the ten are chosen for errors in their favor, too."""
    ratio_of_candidates: Estimate
    """The same of all candidates, which the ranker did not choose."""


class OverAllAds(ReportPart):
    """The ranker's result if it ordered all ads, without tower, index and filters.

    Means over some of the funnel's requests of the true utility of ten ads.
    """

    requests: int
    best_possible: Estimate
    ranker: Estimate
    returned: Estimate
    """Value that the system returns for the same requests."""
    share_of_ranker: Estimate
    """`returned` / `ranker`: the share of this ranker's value that the tower preserves."""


class UtilityFunnel(ReportPart):
    """Means over requests of the true utility of ten ads."""

    weights: dict[str, float]
    """Weight of each head in the utility."""
    best_possible: Estimate
    lost: dict[str, Estimate]
    """Loss of each stage; they add up to `best_possible` - `returned`."""
    returned: Estimate
    share_returned: Estimate
    baselines: dict[str, Estimate] = {}
    """Utility of the ten ads of other orders: `retrieval_top_10`, `popularity_top_10` and
    `random_10`."""
    promised: dict[str, Promise]
    """Head in the utility -> its expected and true values."""
    head_known: dict[str, Estimate] = {}
    """Head -> returned value if the head's values were the true ones, the other heads' values the
    ranker's, and the candidates the same."""
    over_all_ads: OverAllAds | None = None
    """None: the catalog is too large to rank."""


class ValueFunnel(Funnel):
    """Where the true value of the best possible ten ads is lost, see `funnel`."""

    truth: Literal["ground truth"] = "ground truth"
    requests: int
    utilities: dict[str, UtilityFunnel]
    """`utility` with the default weights, and `click`."""
    ndcg_at_10_retrieved_lists: dict[str, Estimate]
    """NDCG of the ranker's order of the candidates, of each head and utility."""

    def estimates(self) -> Iterator[tuple[tuple[str, str, str], Estimate]]:
        """Yields `funnel`, utility and metric, and the estimate."""
        for name, found in self.utilities.items():
            yield ("funnel", name, "best_possible"), found.best_possible
            for stage, estimate in found.lost.items():
                yield ("funnel", name, f"lost_by_{stage}"), estimate
            yield ("funnel", name, "returned"), found.returned
            yield ("funnel", name, "share_returned"), found.share_returned
            for baseline, estimate in found.baselines.items():
                yield ("funnel", name, baseline), estimate
            for head, estimate in found.head_known.items():
                yield ("funnel", name, f"returned_if_{head}_were_known"), estimate
            if found.over_all_ads is not None:
                yield ("funnel", name, "ranker_over_all_ads"), found.over_all_ads.ranker
                share = found.over_all_ads.share_of_ranker
                yield ("funnel", name, "share_of_ranker_over_all_ads"), share
        for name, estimate in self.ndcg_at_10_retrieved_lists.items():
            yield ("funnel", name, "ndcg_at_10_retrieved_lists"), estimate


class ClickFunnel(Funnel):
    """The share of held-out clicked ads that is still there after each stage, see `funnel`."""

    truth: Literal["held-out clicks"] = "held-out clicks"
    clicks: int
    leaves_out_seen: bool = False
    """Whether lists, and the clicks, leave out the ads that the user clicked before."""
    absent: str | None = None
    """Why nothing was measured."""
    weights: dict[str, float] = {}
    """Weight of each head in the ranker's utility."""
    survived: dict[str, Estimate] = {}
    lost: dict[str, Estimate] = {}
    """Loss of each stage; they add up to 1 - the share that survived the last one, which is
    `ranker`, or `retrieval_order` if there is no ranker."""
    baselines: dict[str, Estimate] = {}
    """Share of the clicked ads in the ten ads of other orders: `ranker_by_click_alone` if the
    weights give another order, `retrieval_top_10`, `popularity_top_10` and `random_10`."""

    def estimates(self) -> Iterator[tuple[tuple[str, str, str], Estimate]]:
        """Yields `funnel`, system and metric, and the estimate."""
        for stage, estimate in self.survived.items():
            yield ("funnel", "tfrec", f"clicks_after_{stage}"), estimate
        for stage, estimate in self.lost.items():
            yield ("funnel", "tfrec", f"clicks_lost_by_{stage}"), estimate
        for name, estimate in self.baselines.items():
            yield ("funnel", name, "clicks_in_ten"), estimate


class IntervalMethod(ReportPart):
    """How intervals were computed."""

    confidence: float
    resamples: int
    units: str
    """Unit of resampling: users or requests."""


class EvaluationReport(ReportPart):
    """Both stages and the funnel between them, measured on a split."""

    split: str
    impressions: int
    absent_heads: list[str]
    """Heads without a positive label in training."""
    unnamed_heads: list[str] = []
    """Heads whose label the schema does not name."""
    weak_heads: dict[str, str] = {}
    """Weak head -> the reason and a remedy."""
    weights: dict[str, float] = {}
    """Default weight of each head in the utility."""
    weights_source: str = "equal"
    """Source of the weights: `schema`, `values`, `standardized`, or `equal`."""
    without_ranker: str | None = None
    """Why there is no ranker, or None."""
    intervals: IntervalMethod
    ranker: dict[str, HeadQuality]
    segments: SegmentQuality
    curves: dict[str, ScoreCurves]
    """Of each head that has labels."""
    order_of_shown_ads: dict[str, dict[str, Estimate]] = {}
    """`ranker`, `two_tower` and `popularity` -> metrics of the order by clicks of the ads that were
    shown: `auc`, `per_user_auc` and `ndcg_at_10_logged_lists`. Empty without a ranker."""
    retrieval: RetrievalQuality
    funnel: Annotated[ValueFunnel | ClickFunnel, pydantic.Field(discriminator="truth")]

    def summary(self) -> dict[str, Any]:
        """Returns the JSON object for manifests, which leave out segments and curves."""
        return self.to_json(exclude={"segments", "curves"})

    def to_pandas(self) -> "pd.DataFrame":
        """Returns a frame with a row for each metric.

        Columns: `part` (`ranker`, `shown_ads`, `retrieval`, or `funnel`), `name` (head,
        recommender or utility), `metric`, `value`, `lower` and `upper` (95 %
        interval) and `ground_truth`. Values that were not measured are NaN. Segments and curves are
        left out.
        """
        import pandas as pd

        rows = [
            (*key, estimate.value, *(estimate.interval or (None, None)), estimate.ground_truth)
            for key, estimate in self._estimates()
        ]
        keys, figures = ["part", "name", "metric"], ["value", "lower", "upper", "ground_truth"]
        frame = pd.DataFrame(rows, columns=[*keys, *figures])
        return frame.astype(dict.fromkeys(figures, "float64"))

    def _estimates(self) -> Iterator[tuple[tuple[str, str, str], Estimate]]:
        """Yields part, name and metric, and the estimate."""
        for head, quality in self.ranker.items():
            for metric, estimate in quality.metrics.items():
                yield ("ranker", head, metric), estimate
        for name, metrics in self.order_of_shown_ads.items():
            for metric, estimate in metrics.items():
                yield ("shown_ads", name, metric), estimate
        for name, recommender in self.retrieval.recommenders.items():
            for part in ("metrics", "on_seen_ads", "on_unseen_ads", "excluding_seen"):
                suffix = "" if part == "metrics" else f"_{part}"
                for metric, value in (getattr(recommender, part) or {}).items():
                    yield ("retrieval", name, metric + suffix), Estimate(value=value)
        uniform = self.retrieval.uniform_exposure
        for name, estimate in (uniform.corpus_recall_at_500 if uniform else {}).items():
            yield ("retrieval", name, "corpus_recall_at_500_uniform_exposure"), estimate
        yield from self.funnel.estimates()
