"""Measures a two-tower model and the baselines on the test split with the same code.

Shapes: B queries, N ads.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfrec import metrics, retrieval
from tfrec.evaluation import baselines, corpus_ranking, ground_truth
from tfrecords import reader
from tfrecords.schema import NUM_CANDIDATES

SPLIT = "test"
MAX_CLICKS = 5_000
MAX_HELD_OUT_CLICKS = 2_000_000


def evaluate_retrieval(
    data_set: reader.DataSet,
    two_tower: retrieval.TwoTower,
    truth: ground_truth.GroundTruth | None = None,
    max_clicks: int = MAX_CLICKS,
) -> dict[str, Any]:
    """Measures a two-tower model, the baselines and, if known, the ground truth.

    The baselines know the clicks of training and validation, as the model does after its refit.

    Returns:
        The values of `compare_recommenders`; with ground truth also shares of its values.
    """
    catalogue = data_set.catalogue()
    history = baselines.read_history(data_set, retrieval.REFIT_SPLITS, len(catalogue))
    known = retrieval.with_validation_clicks(data_set, catalogue)
    recommenders: dict[str, corpus_ranking.Recommender | None] = {
        "two_tower": recommender_of(two_tower, catalogue),
        "popularity": baselines.Popularity(known.clicks),
        "item_knn": None if history is None else baselines.ItemNeighbours(history),
    }
    if truth is not None:
        recommenders["planted"] = ground_truth.recommender(truth, catalogue)
    report = compare_recommenders(data_set, recommenders, history, max_clicks)
    if truth is not None and report["num_clicks"]:
        for key in (f"corpus_recall_at_{NUM_CANDIDATES}", "ndcg_at_10"):
            report[f"{key.removeprefix('corpus_')}_share_of_achievable"] = (
                metrics.share_of_achievable(report["two_tower"][key], 0.0, report["planted"][key])
            )
    return report


def recommender_of(
    two_tower: retrieval.TwoTower, catalogue: reader.Catalogue
) -> corpus_ranking.Recommender:
    """Returns a two-tower model as a recommender, with all ads embedded."""
    ads = retrieval.embed_in_batches(two_tower.ad_tower, np.asarray(catalogue.features)).T

    def scores(queries: corpus_ranking.Queries) -> np.ndarray:
        return retrieval.embed_in_batches(two_tower.query_tower, queries.query) @ ads

    return scores


def compare_recommenders(
    data_set: reader.DataSet,
    recommenders: Mapping[str, corpus_ranking.Recommender | None],
    history: baselines.History | None,
    max_clicks: int = MAX_CLICKS,
) -> dict[str, Any]:
    """Measures recommenders on the same clicks of the test split, among all ads.

    Args:
        data_set: The converted log.
        recommenders: Name -> recommender; None: it needs users and the log has none.
        history: Clicks of users in training and validation; None: the log has no users.
        max_clicks: Maximum number of clicks measured per click, evenly spaced.

    Returns:
        `num_ads`; `num_clicks`, and their numbers on ads that training showed or never showed;
        `num_users` measured without the ads that they clicked in training and validation;
        `clicked_popularity_percentile`; and for each recommender the values of
        `corpus_ranking.per_click` and, as `excluding_seen`, of `per_user`. If the schema has no
        `user_key`, values that need one are None, and `absent` says so.
    """
    catalogue = data_set.catalogue()
    ads = corpus_ranking.RankedCorpus(catalogue.clicks, catalogue.impressions)
    clicks = retrieval.read_clicks(data_set, SPLIT, MAX_HELD_OUT_CLICKS)
    measured = retrieval.evenly_spaced(len(clicks.ad_rows), max_clicks)
    wanted = clicks.ad_rows[measured]
    report: dict[str, Any] = {"num_ads": len(ads), "num_clicks": len(wanted)}
    if not len(wanted):
        return report
    report["num_clicks_on_seen_ads"] = int((ads.impressions[wanted] > 0).sum())
    report["num_clicks_on_never_shown_ads"] = int((ads.impressions[wanted] == 0).sum())
    report["clicked_popularity_percentile"] = float(ads.popularity_percentile[wanted].mean())
    users = None
    if history is None:
        report["absent"] = {
            name: "the schema names no user_key"
            for name in ("excluding_seen", *(n for n, r in recommenders.items() if r is None))
        }
    else:
        users = corpus_ranking.held_out_users(clicks, history.of, len(ads))
        report["num_users"] = len(users.queries)
    queries = corpus_ranking.queries_of(clicks).take(measured)
    for name, recommender in recommenders.items():
        if recommender is None:
            report[name] = None
            continue
        report[name] = {
            **corpus_ranking.per_click(recommender, queries, wanted, ads),
            "excluding_seen": None
            if users is None
            else corpus_ranking.per_user(recommender, users),
        }
    return report
