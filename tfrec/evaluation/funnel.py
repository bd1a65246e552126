"""Where ads are lost on the way from a request to ten ads.

With ground truth, the value of a list is the sum over its ads of the true utility in the first
position: the weighted sum of click probability, engagement probability and expected revenue. Each
stage is charged with the difference to the best that was still possible:

    tower        best ten of all ads              − best ten of its exact 500
    index        best ten of the exact 500        − best ten of the index's 500
    filters      best ten of the index's 500      − best ten of those that filters leave
    ranker       best ten of those                − its ten, by recalibrated scores
    calibration  its ten, by recalibrated scores  − its ten, by served scores

so the losses add up to the loss of the system. Recalibrated scores are the rising function of
each head's scores that fits the true values of the candidates best. They keep each head's order
and change only how heads are weighed; with one head they change nothing. A loss may be negative:
an index, filters or a badly calibrated head can be lucky.

Two more values bound possible gains. `ranker_over_all_ads`: the ranker orders all ads without
tower, index and filters. This is about the most that any tower could reach with this ranker, so a
better tower can gain only the difference to the returned value. `head_known`: the ten if the values
of one head were the true ones and the others the ranker's, among the same candidates.

The ten ads have the greatest served values, so they are partly selected for errors in their favor,
and are worth less than their served values predict: the winner's curse. `promised`
compares both, and for contrast the values of all candidates, which the ranker did not choose.

A log does not contain the value of ads that it did not show, but it does show whether a clicked ad
is still there after each stage. A held-out click is on an ad that was shown *and* clicked, so the
share measures how often an order agrees with the exposure (by the logging policy, or by users who
choose themselves) times how well it predicts clicks. The ranker, and towers distilled from it,
learn only to predict clicks. Shares are lower bounds for comparing systems that learn from clicks,
not values, and a lower share does not mean that an order is worse; `order_of_shown_ads` of the
report leaves the exposure out. If few held-out clicks repeat an earlier click of the user, clicks
and lists leave out the ads that the user clicked before.

Shapes: Q requests or clicks, N ads, K candidates, S samples.

References:
    Zadrozny and Elkan, Transforming Classifier Scores into Accurate Multiclass Probability
    Estimates, 2002 (isotonic recalibration).
    Smith and Winkler, The Optimizer's Curse, 2006.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.optimize
import scipy.sparse
import tensorflow as tf

from tfrec import metrics, retrieval
from tfrec.config import EvaluationConfig
from tfrec.evaluation import candidates, ground_truth, report
from tfrec.heads import CLICK
from tfrecords import reader

FUNNEL_STAGES = ("tower", "index", "filters", "ranker", "calibration")
MAX_CLICKS = 500
# Scores of the ranker over all ads, which take 20 µs each on a core.
MAX_SCORES_OVER_ALL_ADS = 1 << 19
# The mean of fewer requests says little.
MIN_REQUESTS_OVER_ALL_ADS = 10
Values = Mapping[str, np.ndarray]
Weights = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class TrueValues:
    """The true values of the ads of requests.

    Attributes:
        best, popularity, random: [Q] value of the best ten of all ads, of the ten most clicked,
            and of ten drawn at random, on average.
        tower, index, filtered: Head -> [Q, K] true values of the candidates.
    """

    best: np.ndarray
    popularity: np.ndarray
    random: np.ndarray
    tower: Values
    index: Values
    filtered: Values


@dataclasses.dataclass(frozen=True)
class ValueOverAllAds:
    """The value of the ten ads that the ranker scores highest among all ads, for some requests.

    Attributes:
        requests: [q] the requests, as rows of `truth.sample_requests`.
        values: [q] true value of the ten.
    """

    requests: np.ndarray
    values: np.ndarray


def requests_over_all_ads(num_requests: int, num_ads: int) -> np.ndarray:
    """Returns the requests [q] for which the ranker orders all ads, evenly spaced.

    Empty if the catalog is so large that there would be too few requests.
    """
    count = MAX_SCORES_OVER_ALL_ADS // num_ads
    if count < MIN_REQUESTS_OVER_ALL_ADS:
        return np.empty(0, np.int64)
    return retrieval.evenly_spaced(num_requests, count)


def value_over_all_ads(
    truth: ground_truth.GroundTruth,
    order: np.ndarray,
    requests: np.ndarray,
    scores: Values,
    weights: Weights,
) -> ValueOverAllAds:
    """Computes the true values of the ten ads that the ranker scores highest among all ads.

    Args:
        truth: The ground truth.
        order: [N] from `ground_truth.catalog_order`.
        requests: [q] rows of `truth.sample_requests`.
        scores: Head -> [q, N] served values of all ads.
        weights: Weight of each head in the utility.
    """
    values = ground_truth.value_matrices(truth, order, truth.sample_requests.take(requests))
    true, served = (candidates.utility(weights, by_head) for by_head in (values, scores))
    return ValueOverAllAds(requests, candidates.best_ten(true, served).sum(axis=1))


def true_values(
    truth: ground_truth.GroundTruth,
    order: np.ndarray,
    found: candidates.Candidates,
    popular: np.ndarray,
    weights: Weights,
) -> TrueValues:
    """Computes the true values of all ads for `truth.sample_requests`, a few requests at a time.

    Args:
        truth: The ground truth.
        order: [N] from `ground_truth.catalog_order`.
        found: The candidates of the requests.
        popular: [10] rows of the most clicked ads.
        weights: Weight of each head in the utility.
    """
    requests, parts = truth.sample_requests, []
    for rows in retrieval.query_chunks(len(requests), len(order)):
        chunk = requests.slice(rows.start, rows.stop - rows.start)
        values = ground_truth.value_matrices(truth, order, chunk)  # [q, N]
        utility = candidates.utility(weights, values)
        popular_sum = utility[:, popular].sum(axis=1)
        random_sum = len(popular) * utility.mean(axis=1)
        stage_sums = (
            {head: np.take_along_axis(matrix, ads[rows], axis=1) for head, matrix in values.items()}
            for ads in (found.tower, found.index, found.filtered)
        )
        parts.append((sum_of_ten(utility), popular_sum, random_sum, *stage_sums))
    return TrueValues(*tf.nest.map_structure(lambda *arrays: np.concatenate(arrays), *parts))


def measure_ndcg(
    truth: TrueValues, scores: Values, name: str, weights: Weights, config: EvaluationConfig
) -> dict[str, report.Estimate]:
    """Measures the order of the candidates by each head, and by the utility of several heads.

    Args:
        truth: The true values.
        scores: Head -> [Q, K] served values of the candidates that filters leave.
        name: Name of the utility.
        weights: Weight of each head in it.
        config: Resamples and their seed.
    """
    ndcg = {head: _ndcg(truth.filtered[head], served, config) for head, served in scores.items()}
    if len(weights) > 1:
        values, served = (candidates.utility(weights, v) for v in (truth.filtered, scores))
        ndcg[name] = _ndcg(values, served, config)
    return ndcg


def measure_clicks(
    data_set: reader.DataSet,
    scored: candidates.ScoredCandidates,
    clicks: retrieval.Clicks,
    seen: scipy.sparse.csr_array | None,
    config: EvaluationConfig,
    **setting: Any,
) -> report.ClickFunnel:
    """Measures which clicked ads survive the tower, the index, filters and the cut to ten.

    The ranker chooses the ten, or, without a ranker, retrieval order.

    Args:
        data_set: The converted log.
        scored: The candidates of the clicks' requests.
        clicks: [Q] held-out clicks, at least one.
        seen: [Q, N] 1 for the ads that candidates leave out; None: none.
        config: Resamples and their seed.
        **setting: The fields of `report.Funnel`.
    """
    found, ads = scored.found, data_set.catalog()
    if seen is None:
        seen = scipy.sparse.csr_array((len(clicks.ad_rows), len(ads)))
    num_seen = np.diff(seen.indptr)
    clicked = clicks.ad_rows[:, None]

    def among(rows: np.ndarray) -> np.ndarray:
        return (rows == clicked).any(axis=1).astype(float)

    ranked = candidates.best_ten(found.filtered, scored.utility)
    lists = (found.tower, found.index, found.filtered, ranked)
    stages = (*FUNNEL_STAGES[:3], "ranker" if scored.scores else "retrieval_order")
    survived = dict(zip(stages, map(among, lists), strict=True))
    before = [np.ones(len(clicked)), *survived.values()]
    lost = {stage: before[i] - kept for i, (stage, kept) in enumerate(survived.items())}
    unit = np.arange(len(clicked))
    if clicks.user is not None:
        unit = np.unique(clicks.user, return_inverse=True)[1]
    resamples = metrics.Resamples(unit, config.resamples, config.seed)
    (total,) = resamples.sums(np.ones(len(clicked)))

    def shares(values: Values) -> dict[str, report.Estimate]:
        sums = resamples.sums(*values.values())
        return {
            stage: report.Estimate.of(part / total)
            for stage, part in zip(values, sums, strict=True)
        }

    popular = retrieval.most_clicked(
        data_set, ads, candidates.LIST_LENGTH + int(num_seen.max(initial=0))
    )
    baselines = {}
    by_click = {CLICK.label: 1.0}
    if any(weight for head, weight in scored.weights.items() if head != CLICK.label):
        baselines["ranker_by_click_alone"] = among(
            candidates.best_ten(found.filtered, scored.utility_of(by_click))
        )
    baselines["retrieval_top_10"] = among(found.filtered[:, : candidates.LIST_LENGTH])
    baselines["popularity_top_10"] = among(
        candidates.leave_out(
            np.broadcast_to(popular, (len(clicked), len(popular))), seen, candidates.LIST_LENGTH
        )
    )
    baselines["random_10"] = np.minimum(
        candidates.LIST_LENGTH / np.maximum(len(ads) - num_seen, 1), 1.0
    )
    return report.ClickFunnel(
        clicks=len(clicked),
        weights=scored.weights,
        survived=shares(survived),
        lost=shares(lost),
        baselines=shares(baselines),
        **setting,
    )


def recalibrate(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the rising function of scores, of any shape, that fits values best.

    The function is the isotonic regression, interpolated between the means of its steps so that
    the order inside a step is kept.
    """
    if not scores.size:
        return scores
    order = np.argsort(scores, axis=None, kind="stable")
    x, y = scores.ravel()[order], values.ravel()[order]
    fitted = scipy.optimize.isotonic_regression(y)
    starts = fitted.blocks[:-1]
    means = np.add.reduceat(x, starts) / np.diff(fitted.blocks)
    return np.interp(scores, means, fitted.x[starts])


def sum_of_ten(values: np.ndarray) -> np.ndarray:
    """Returns the sum [Q] of the ten greatest of values [Q, K]."""
    return np.sort(values, axis=1)[:, -candidates.LIST_LENGTH :].sum(axis=1)


def measure_value(
    truth: TrueValues,
    scores: Values,
    weights: Weights,
    config: EvaluationConfig,
    over_all_ads: ValueOverAllAds | None = None,
) -> report.UtilityFunnel:
    """Attributes the loss of true value to stages.

    Args:
        truth: The true values.
        scores: Head -> [Q, K] served values of the candidates that filters leave.
        weights: Weight of each head in the utility.
        config: Resamples and their seed.
        over_all_ads: Value of the ranker's ten of all ads; None: not measured.
    """
    recalibrated = {
        head: recalibrate(served, truth.filtered[head]) for head, served in scores.items()
    }
    tower, index, filtered = (
        candidates.utility(weights, values) for values in (truth.tower, truth.index, truth.filtered)
    )  # [Q, K]
    served, fair = (candidates.utility(weights, by_head) for by_head in (scores, recalibrated))
    by_fair, by_served = (
        candidates.best_ten(filtered, *keys).sum(axis=1) for keys in ((fair, served), (served,))
    )
    known = {
        head: candidates.best_ten(
            filtered, candidates.utility(weights, {**scores, head: truth.filtered[head]}), served
        ).sum(axis=1)
        for head in weights
    }
    left = [truth.best, *map(sum_of_ten, (tower, index, filtered)), by_fair, by_served]
    losses = (a - b for a, b in itertools.pairwise(left))
    baselines = {
        "retrieval_top_10": filtered[:, : candidates.LIST_LENGTH].sum(axis=1),
        "popularity_top_10": truth.popularity,
        "random_10": truth.random,
    }
    parts = (dict(zip(FUNNEL_STAGES, losses, strict=True)), known, baselines)
    best, returned, *samples = metrics.samples_of_means(
        config.resamples,
        config.seed,
        *(left[0], left[-1]),
        *(values for part in parts for values in part.values()),
    )
    estimates = map(report.Estimate.of, samples)
    lost_by, if_known, other_estimates = ({key: next(estimates) for key in part} for part in parts)
    return report.UtilityFunnel(
        weights=dict(weights),
        best_possible=report.Estimate.of(best),
        lost=lost_by,
        returned=report.Estimate.of(returned),
        baselines=other_estimates,
        share_returned=report.Estimate.of(metrics.resampled_ratio(returned, best)),
        promised={
            head: _promise(truth.filtered[head], scores[head], served, config) for head in weights
        },
        head_known=if_known,
        over_all_ads=None
        if over_all_ads is None
        else _compare_over_all_ads(over_all_ads, left[0], left[-1], config),
    )


def _compare_over_all_ads(
    over_all_ads: ValueOverAllAds,
    best: np.ndarray,
    returned: np.ndarray,
    config: EvaluationConfig,
) -> report.OverAllAds:
    """Compares with the best and the returned values [Q] of the same requests."""
    some = over_all_ads.requests
    ranker, best_mean, returned_mean = metrics.samples_of_means(
        config.resamples, config.seed, over_all_ads.values, best[some], returned[some]
    )
    return report.OverAllAds(
        requests=len(some),
        best_possible=report.Estimate.of(best_mean),
        ranker=report.Estimate.of(ranker),
        returned=report.Estimate.of(returned_mean),
        share_of_ranker=report.Estimate.of(metrics.resampled_ratio(returned_mean, ranker)),
    )


def _promise(
    values: np.ndarray, scores: np.ndarray, utility: np.ndarray, config: EvaluationConfig
) -> report.Promise:
    """Compares served and true values of the ten ads of the greatest utility, all [Q, K]."""
    ten = (candidates.best_ten(table, utility).sum(axis=1) for table in (scores, values))
    everything = (table.sum(axis=1) for table in (scores, values))
    expected, true, expected_of_all, true_of_all = metrics.samples_of_means(
        config.resamples, config.seed, *ten, *everything
    )
    return report.Promise(
        expected=report.Estimate.of(expected, ground_truth=metrics.point_estimate(true)),
        ratio=report.Estimate.of(metrics.resampled_ratio(expected, true)),
        ratio_of_candidates=report.Estimate.of(
            metrics.resampled_ratio(expected_of_all, true_of_all)
        ),
    )


def _ndcg(values: np.ndarray, scores: np.ndarray, config: EvaluationConfig) -> report.Estimate:
    lengths = np.full(len(values), values.shape[1])
    ndcg = metrics.ndcg_of_lists(values.ravel(), scores.ravel(), lengths, candidates.LIST_LENGTH)
    ndcg = ndcg[~np.isnan(ndcg)]
    if not len(ndcg):
        return report.Estimate(absent="no list has two candidates")
    (samples,) = metrics.samples_of_means(config.resamples, config.seed, ndcg)
    return report.Estimate.of(samples)
