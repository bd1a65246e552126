"""Measures a two-tower model and the baselines on the test split with the same code.

Shapes: B queries, N ads.
"""

import collections
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse

from tfrec import metrics, retrieval
from tfrec.config import EvaluationConfig
from tfrec.evaluation import baselines, corpus_ranking, ground_truth, report
from tfrec.evaluation.ground_truth import SPLIT
from tfrec.heads import CLICK
from tfrecords import label_counts, reader, terminal
from tfrecords.schema import NUM_CANDIDATES

MAX_CLICKS = 5_000
MAX_HELD_OUT_CLICKS = 2_000_000
_NO_USERS = "the schema names no user_key"


def evaluate_retrieval(
    data_set: reader.DataSet,
    two_tower: retrieval.RetrievalModel,
    truth: ground_truth.GroundTruth | None = None,
    max_clicks: int = MAX_CLICKS,
    config: EvaluationConfig | None = None,
) -> report.RetrievalQuality:
    """Measures a two-tower model, the baselines, chance and, if known, the ground truth.

    The baselines use the clicks of training and validation. The model has learned from validation
    clicks only after a refit, which distilled models skip.

    Args:
        data_set: The converted log.
        two_tower: The model.
        truth: The ground truth, if known.
        max_clicks: Maximum number of clicks measured per click, evenly spaced.
        config: Resamples; None: the defaults.
    """
    catalog = data_set.catalog()
    history = baselines.read_history(data_set, retrieval.REFIT_SPLITS, len(catalog))
    known = retrieval.with_validation_clicks(data_set, catalog)
    without_users: dict[str, corpus_ranking.Recommender] = {
        "two_tower": recommender_of(two_tower, catalog),
        "popularity": baselines.Popularity(known.clicks),
    }
    recommenders: dict[str, corpus_ranking.Recommender | str] = {
        **without_users,
        "item_knn": _NO_USERS if history is None else baselines.ItemNeighbors(history),
        "ease": f"the catalog has more than {baselines.MAX_ADS_OF_EASE:,} ads",
    }
    if len(catalog) <= baselines.MAX_ADS_OF_EASE:
        recommenders["ease"] = _NO_USERS if history is None else baselines.Ease(history)
    if history is not None and history.repeated > label_counts.RETURNING_SHARE:
        recommenders["own_clicks"] = baselines.OwnClicks(history)
    if truth is not None:
        recommenders["ground_truth"] = ground_truth.recommender(truth, catalog)
    measured = compare_recommenders(data_set, recommenders, history, max_clicks)
    more: dict[str, Any] = {}
    if measured.num_clicks:
        chance = corpus_ranking.by_chance(len(catalog))
        more["recommenders"] = {**measured.recommenders, "random": chance}
    if truth is not None:
        more["uniform_exposure"] = recall_under_uniform_exposure(
            truth, data_set, without_users, config or EvaluationConfig()
        )
    if truth is not None and measured.num_clicks:
        reached, best = (
            measured.recommenders[name].metrics for name in ("two_tower", "ground_truth")
        )
        keys = (f"corpus_recall_at_{NUM_CANDIDATES}", "ndcg_at_10")
        more["share_of_achievable"] = {key: reached[key] / best[key] for key in keys if best[key]}
    return measured.model_copy(update=more)


def recall_under_uniform_exposure(
    truth: ground_truth.GroundTruth,
    data_set: reader.DataSet,
    recommenders: Mapping[str, corpus_ranking.Recommender],
    config: EvaluationConfig,
) -> report.UniformExposure:
    """Measures recall of clicks on `truth.sample_requests` if all ads were shown equally often.

    One of the recommenders is `two_tower`, and none needs the user.
    """
    order = ground_truth.catalog_order(truth, data_set.catalog())
    encoded = truth.sample_queries
    queries = corpus_ranking.Queries(encoded, None, np.arange(len(encoded)))
    parts: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    for rows in retrieval.query_chunks(len(queries), len(order)):
        requests = truth.sample_requests.slice(rows.start, rows.stop - rows.start)
        click = ground_truth.value_matrices(truth, order, requests)[CLICK.label]  # [q, N]
        known = {"ground_truth": lambda _, click=click: click}
        for name, recommender in {**recommenders, **known}.items():
            parts[name].append(
                corpus_ranking.clicks_under_uniform_exposure(
                    recommender, queries.take(rows), click, NUM_CANDIDATES
                )
            )
        parts["all"].append(click.sum(axis=1))
    sums = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    samples = metrics.samples_of_means(config.resamples, config.seed, *sums.values())
    means = dict(zip(sums, samples, strict=True))
    clicks = means.pop("all")
    share = metrics.resampled_ratio(means["two_tower"], means["ground_truth"])
    return report.UniformExposure(
        requests=len(queries),
        corpus_recall_at_500={
            name: report.Estimate.of(metrics.resampled_ratio(recalled, clicks))
            for name, recalled in means.items()
        },
        share_of_achievable=report.Estimate.of(share),
    )


def read_clicks_on_unseen_ads(
    data_set: reader.DataSet, num_ads: int, max_clicks: int
) -> tuple[retrieval.Clicks, scipy.sparse.csr_array | None]:
    """Reads at most `max_clicks` test clicks, evenly spaced in the log.

    If few of them repeat a click of the user, only clicks on ads new to the user are returned.

    Returns:
        The clicks [Q] and, if few repeat a click of the user, [Q, N] 1 for the ads that the user
        had clicked before in training and validation.
    """
    clicks = retrieval.read_clicks(data_set, SPLIT, max_clicks)
    history = baselines.read_history(data_set, retrieval.REFIT_SPLITS, num_ads)
    if history is None or clicks.user is None or not len(clicks.ad_rows):
        return clicks, None
    seen = history.clicks_of(clicks.user)
    again = seen[np.arange(len(clicks.ad_rows)), clicks.ad_rows] > 0
    held_out = retrieval.HeldOut(
        clicks.query, clicks.ad_rows, clicks.user, repeated=float(again.mean())
    )
    if not held_out.leaves_out_seen:
        return clicks, None
    new = np.flatnonzero(~again)
    return clicks.take(new), seen[new]


def recommender_of(
    two_tower: retrieval.RetrievalModel, catalog: reader.Catalog
) -> corpus_ranking.Recommender:
    """Returns a two-tower model as a recommender by clicks, with all ads embedded."""
    ads = retrieval.embed_in_batches(two_tower.ad_tower, np.asarray(catalog.features)).T

    def scores(queries: corpus_ranking.Queries) -> np.ndarray:
        return two_tower.embed_queries(queries.query, {CLICK.label: 1.0}) @ ads

    return scores


def compare_recommenders(
    data_set: reader.DataSet,
    recommenders: Mapping[str, corpus_ranking.Recommender | str],
    history: baselines.History | None,
    max_clicks: int = MAX_CLICKS,
) -> report.RetrievalQuality:
    """Measures recommenders on the same clicks of the test split, among all ads.

    Args:
        data_set: The converted log.
        recommenders: Name -> recommender, or why there is none.
        history: Clicks of users in training and validation; None: the log has no users.
        max_clicks: Maximum number of clicks measured per click, evenly spaced.
    """
    catalog = data_set.catalog()
    known = retrieval.with_validation_clicks(data_set, catalog)
    ads = corpus_ranking.RankedCorpus(
        catalog.clicks, (catalog.impressions > 0) | (known.clicks > catalog.clicks)
    )
    clicks = retrieval.read_clicks(data_set, SPLIT, MAX_HELD_OUT_CLICKS)
    measured = retrieval.evenly_spaced(len(clicks.ad_rows), max_clicks)
    clicked_ads = clicks.ad_rows[measured]
    if not len(clicked_ads):
        return report.RetrievalQuality(num_ads=len(ads), num_clicks=0)
    users, absent = None, {}
    if history is None:
        absent["excluding_seen"] = _NO_USERS
    else:
        users = corpus_ranking.held_out_users(clicks, history.clicks_of, len(ads))
    queries = corpus_ranking.queries_of(clicks).take(measured)
    given: dict[str, corpus_ranking.Recommender] = {}
    for name, entry in recommenders.items():
        if isinstance(entry, str):
            absent[name] = entry
        else:
            given[name] = entry

    def measure(recommender: corpus_ranking.Recommender) -> report.RecommenderQuality:
        quality = corpus_ranking.per_click(recommender, queries, clicked_ads, ads)
        by_user = None if users is None else corpus_ranking.per_user(recommender, users)
        return quality.model_copy(update={"excluding_seen": by_user})

    qualities = terminal.map_with_progress(
        measure, given.values(), "comparing recommenders", "recommenders"
    )
    return report.RetrievalQuality(
        num_ads=len(ads),
        num_clicks=len(clicked_ads),
        num_clicks_on_unseen_ads=int((~ads.seen[clicked_ads]).sum()),
        num_users=None if users is None else len(users.queries),
        clicked_popularity_percentile=float(ads.popularity_percentile[clicked_ads].mean()),
        recommenders=dict(zip(given, qualities, strict=True)),
        absent=absent,
    )
