"""Small logs of shops: each gives a release, ten ads, and the reasons why heads are weak."""

import contextlib
import dataclasses
import functools
import io

import numpy as np
import pandas as pd
import pytest

import tfrec
import tfrecords
from serving import manifest, requests
from serving.index import IndexConfig
from tfrec import evaluation

pytestmark = pytest.mark.trains

FLAT = IndexConfig(kind="Flat")
FEW = tfrec.EvaluationConfig(resamples=5)


def schema(**changes):
    """Returns the schema of a shop whose users see lists of products."""
    return {
        "name": "shop",
        "fields": [
            {"name": "user", "kind": "categorical", "side": "query", "min_count": 1},
            {"name": "country", "kind": "categorical", "side": "query"},
            {"name": "sku", "kind": "categorical", "side": "ad", "min_count": 1},
            {"name": "brand", "kind": "categorical", "side": "ad"},
            {"name": "price", "kind": "numeric", "side": "ad"},
        ],
        "ad_key": ["sku"],
        "click": "clicked",
        "request_key": "page",
        "user_key": "user",
        "time": "time",
        **changes,
    }


def shop(num_rows, buys=0.1, seed=0):
    """Returns lists of five of 60 products, priced in euros; a country clicks on its brands.

    Args:
        num_rows: Number of rows.
        buys: Share of the clicks that a purchase follows.
        seed: Seed of the draw.
    """
    rng = np.random.default_rng(seed)
    page = np.arange(num_rows) // 5
    user = (page * 7) % 90
    product = rng.integers(60, size=num_rows)
    countries = np.array(["AT", "CH", "DE"])
    clicked = rng.random(num_rows) < np.where(product % 3 == user % 3, 0.4, 0.05)
    bought = clicked & (rng.random(num_rows) < buys)
    price = np.round(np.exp(rng.normal(3.5, 0.8, 60)), 2)[product]
    return pd.DataFrame(
        {
            "page": page,
            "time": 1_700_000_000 + 60 * page,
            "user": np.char.add("u", user.astype(str)),
            "country": countries[user % 3],
            "sku": np.char.add("s", product.astype(str)),
            "brand": np.char.add("b", (product % 3).astype(str)),
            "price": price,
            "clicked": clicked.astype(int),
            "paid": np.where(bought, price, 0.0),
        }
    )


def one_subscription():
    """Returns a shop in which one click led to a subscription."""
    rows = shop(3_000)
    rows["subscribed"] = 0
    rows.loc[rows.index[rows["clicked"] == 1][0], "subscribed"] = 1
    return rows


def clicks_alone():
    rows = shop(3_000)
    return rows[rows["clicked"] == 1]


LOGS = {
    "euros": (one_subscription, {"engagement": "subscribed", "revenue": "paid"}),
    "clicks_alone": (clicks_alone, {"click": None, "request_key": None}),
}


@dataclasses.dataclass(frozen=True)
class Released:
    said: str
    report: evaluation.EvaluationReport
    manifest: manifest.Manifest
    answer: requests.Answer


@pytest.fixture(scope="module")
def released(retrieval_config, ranker_config, tmp_path_factory):
    """Returns the release of a log by its name: trains, evaluates, exports, requests ten ads."""
    options = {
        "retrieval": dataclasses.replace(retrieval_config, epochs=1, refit=False),
        "ranking": dataclasses.replace(ranker_config, num_blocks=0, epochs=1),
    }

    @functools.cache
    def release_of(name):
        rows, changes = LOGS[name]
        directory, said = tmp_path_factory.mktemp(name), io.StringIO()
        with contextlib.redirect_stdout(said):
            data_set = tfrecords.from_pandas(
                rows(), schema(**changes), directory / "data", progress=False
            )
            stages = tfrec.train(data_set, directory / "work", **options)
            report = stages.evaluate(FEW, index=FLAT)
            exported = stages.export(report, index=FLAT)
        with exported.client() as client:
            answer = client.recommend(context={"country": "CH", "user": "u1"}, k=10)
        found = manifest.read(exported.base, exported.version)
        # Undoes the wrapping of lines.
        return Released(" ".join(said.getvalue().split()), report, found, answer)

    return release_of


@pytest.mark.parametrize("name", LOGS)
def test_every_small_log_gives_a_release_and_ten_ads(released, name):
    release = released(name)
    found, report = release.manifest, release.report
    assert found.version == 1
    assert len({ad.ad_id for ad in release.answer.ads}) == 10
    assert release.answer.degraded is None
    # The report, the manifest and the terminal agree.
    assert report.weights == {h: found.utility_weights[h] for h in found.present_heads}
    assert report.weak_heads == found.weak_heads
    assert report.weights_source == found.weights_source
    for head, why in found.weak_heads.items():
        assert f"{head} is weak: {why}" in release.said
    recommenders = report.retrieval.recommenders
    assert {"two_tower", "popularity", "item_knn", "ease"} <= set(recommenders)
    assert {"corpus_recall_at_20", "ndcg_at_20"} <= set(recommenders["ease"].metrics)


def test_prices_in_euros_do_not_decide_the_order(released):
    release = released("euros")
    found = release.manifest
    assert found.weights_source == "standardized"
    # Sums of money are tens of times as large as probabilities.
    assert found.utility_weights["revenue"] < 0.2
    assert "click: " in release.said
    assert "positive in training" in release.said


def test_one_engagement_gives_a_weak_head_of_weight_0_and_no_refusal(released):
    release = released("euros")
    found = release.manifest
    assert found.present_heads == ("click", "engagement", "revenue")
    assert "positive, so it cannot be evaluated" in found.weak_heads["engagement"]
    assert found.utility_weights["engagement"] == 0
    assert "engagement" not in release.answer.weak_heads
    assert "rows with engagement, so the engagement head cannot be evaluated" in release.said


def test_clicks_alone_are_served_by_retrieval_and_the_tools_say_so(released):
    release = released("clicks_alone")
    found, report, answer = release.manifest, release.report, release.answer
    assert found.parts == ("query_tower", "ad_tower", "ad_index")
    assert found.present_heads == ()
    assert "[3/6] no ranker: every training row is a click" in release.said
    assert "no ranker: answers are in retrieval order" in release.said
    assert report.without_ranker.startswith("every training row is a click")
    assert (report.ranker, report.curves, report.weights) == ({}, {}, {})
    assert list(report.funnel.survived) == ["tower", "index", "filters", "retrieval_order"]
    assert answer.order == "retrieval"
    scores = [ad.retrieval_score for ad in answer.ads]
    assert scores == sorted(scores, reverse=True)
    assert all(ad.click_probability is None for ad in answer.ads)
