"""The metrics of a ranker's heads, and their standard errors."""

import dataclasses
import math

import logs
import numpy as np
import pytest

from tfrec import ranking
from tfrec.ranking import ranker_training
from tfrecords import schema

RATINGS = schema.Schema(
    "ratings",
    (
        schema.Field("device", "categorical", "query", min_count=1),
        schema.Field("film", "categorical", "ad", min_count=1),
    ),
    ad_key=("film",),
    click="liked",
    user_key="user",
)


def logit(p):
    return np.log(p) - np.log1p(-np.asarray(p))


def click_only(probability, labels):
    logits = {"click": logit(np.asarray(probability)).astype(np.float32)}
    return logits, {"click": np.asarray(labels, np.float32)}, np.arange(len(labels))


def test_figures_of_four_rows():
    found = ranking.measure_heads(*click_only([0.5, 0.5, 0.75, 0.25], [0, 1, 1, np.nan]))
    click = found["click"]
    assert (click["labeled"], click["positives"]) == (3, 2)
    assert click["base_rate"] == click["mean_label"] == pytest.approx(2 / 3)
    # Log loss (2 log 2 − log 0.75) / 3; entropy of 2/3: log 3 − (2/3) log 2.
    losses = (2 * math.log(2) - math.log(0.75)) / 3
    entropy = math.log(3) - 2 / 3 * math.log(2)
    assert click["normalized_entropy"] == pytest.approx(losses / entropy)
    # Predicted 0.5 + 0.5 + 0.75, observed 2.
    assert click["calibration_ratio"] == pytest.approx(1.75 / 2)
    # The pairs (0, 1) and (0, 1) are a tie and a win.
    assert click["auc"] == pytest.approx(0.75)


@pytest.mark.parametrize("labels", [[0, 0, np.nan], [1, 1, 1], [np.nan] * 3])
def test_rows_of_one_kind_are_counted_and_not_judged(labels):
    found = ranking.measure_heads(*click_only([0.2, 0.3, 0.4], labels))["click"]
    assert set(found) == {"labeled", "positives"}
    assert found["labeled"] == 3 - sum(map(math.isnan, labels))


def test_rows_of_one_user_are_counted_and_not_judged():
    """Their errors cancel out in sums, so standard errors would be 0."""
    logits, labels, _ = click_only([0.2, 0.3, 0.4, 0.5], [0, 1, 1, np.nan])
    found = ranking.measure_heads(logits, labels, np.array([7, 7, 7, 8]))
    assert found == {"click": {"labeled": 3, "positives": 2}}


def test_engagement_is_measured_in_impression_space_and_revenue_by_its_amount():
    ones = np.ones(4, np.float32)
    logits = {
        "click": logit(0.5 * ones).astype(np.float32),
        "engagement": logit(0.4 * ones).astype(np.float32),
        # Positive with probability 1/4, then exp(log 2 − 1.05² / 2 + 1.05² / 2) = 2.
        "revenue": np.stack([logit(0.25 * ones), math.log(2) * ones - 1.05**2 / 2, 0 * ones], 1),
    }
    labels = {
        "click": np.array([1, 0, 1, 0], np.float32),
        "engagement": np.array([1, 0, 0, 0], np.float32),
        "revenue": np.array([4, 0, 0, 0], np.float32),
    }
    found = ranking.measure_heads(logits, labels, np.arange(4))
    # 4 · 0.5 · 0.4 engagements predicted, one observed.
    assert found["engagement"]["calibration_ratio"] == pytest.approx(0.8, rel=1e-6)
    # 4 · 0.25 · 2 predicted, 4 observed; the probability of being positive is the rate itself.
    assert found["revenue"]["calibration_ratio"] == pytest.approx(0.5, rel=1e-6)
    assert found["revenue"]["normalized_entropy"] == pytest.approx(1.0, rel=1e-6)
    assert found["revenue"]["mean_label"] == 1.0


OWNER = np.repeat(np.arange(400), 4)


def world(seed):
    """Clicks of requests with a random effect that their rows share."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(0, 1, 400)[OWNER]
    z = rng.normal(-1, 1, len(OWNER))
    labels = rng.random(len(z)) < 1 / (1 + np.exp(-z - shared))
    return {"click": z.astype(np.float32)}, {"click": labels.astype(np.float32)}, z


@pytest.mark.parametrize("figure", ["normalized_entropy", "calibration_ratio"])
def test_standard_errors_are_the_spread_over_logs_with_dependent_rows(figure):
    found = []
    for seed in range(200):
        logits, labels, _ = world(seed)
        found.append(ranking.measure_heads(logits, labels, OWNER)["click"])
    spread = np.std([click[figure] for click in found])
    # 200 draws know a standard deviation to within 5 %.
    assert np.mean([click[f"{figure}_error"] for click in found]) == pytest.approx(spread, rel=0.15)


def test_the_standard_error_of_two_owners_is_that_of_their_difference():
    logits = {"click": np.zeros(8, np.float32)}  # predicted: two clicks of each owner
    labels = {"click": np.array([1, 1, 1, 0, 1, 0, 0, 0], np.float32)}
    found = ranking.measure_heads(logits, labels, np.repeat([0, 1], 4))["click"]
    assert found["calibration_ratio"] == pytest.approx(1.0)
    # The owners have one click more and one less than predicted, and the sum of two independent
    # owners has a variance of 2 · (1² + 1²) / (2 - 1), of four clicks in all.
    assert found["calibration_ratio_error"] == pytest.approx(2 / 4)


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    """One request a row, as in MovieLens; what users like follows from no field."""
    directory = tmp_path_factory.mktemp("ratings")
    rng = np.random.default_rng(4)
    liking = np.repeat([0.05, 0.95], 15)
    rows = [
        f"{user},{user % 2},{film},{int(rng.random() < liking[user])}"
        for user in range(30)
        for film in rng.choice(20, 16, replace=False)
    ]
    rng.shuffle(rows)
    (directory / "log.csv").write_text("\n".join(["user,device,film,liked", *rows]) + "\n")
    options = {"split": "leave_random_fraction_out", "validation_fraction": 0.25}
    return logs.converted_table(directory / "log.csv", directory / "data", RATINGS, **options)


def test_rows_of_a_user_are_one_unit(ratings, data_set):
    owner = ranking.owner_of_requests(ratings, "validation")
    assert len(owner) == ratings.num_rows("validation") == ratings.num_requests("validation")
    assert np.unique(owner).tolist() == list(range(30))
    requests = ranking.owner_of_requests(data_set, "validation")
    assert requests.tolist() == list(range(data_set.num_requests("validation")))


@pytest.mark.trains
def test_the_figures_stored_with_a_ranker_have_the_errors_of_users(
    ratings, ranker_config, tmp_path
):
    config = dataclasses.replace(ranker_config, num_blocks=0, epochs=1)
    ranking.train_ranker(ratings, config, tmp_path)
    model, calibrators, description = ranking.load_ranker(ratings, tmp_path)
    held_out = ranking.predict_split(model, ratings, "validation")
    logits, name = ranker_training.cross_fitted_predictions(held_out), "normalized_entropy_error"
    users = np.unique(ratings.column("validation", "user"), return_inverse=True)[1]
    by_user, by_row = (
        ranking.measure_heads(logits, held_out.labels, owner)["click"]
        for owner in (users, np.arange(len(users)))
    )
    assert by_user[name] > 1.05 * by_row[name]
    written = description["validation"]["click"]
    assert written[name] == pytest.approx(by_user[name], rel=0.01)
    # The calibrators are fitted on these rows: measured with them, the ranker would look better.
    in_sample = {"click": calibrators.calibrated(held_out.logits)["click"]}
    found = ranking.measure_heads(in_sample, held_out.labels, users)["click"]
    assert found["normalized_entropy"] < by_user["normalized_entropy"]
    assert written["normalized_entropy"] == pytest.approx(by_user["normalized_entropy"], abs=1e-4)


def test_the_error_of_chance_is_that_of_a_calibrated_model():
    found = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        p = rng.beta(1, 9, 3_000)
        logits, labels, owner = click_only(np.clip(p, 1e-4, None), rng.random(3_000) < p)
        found.append(ranking.measure_heads(logits, labels, owner)["click"])
    mean = {name: np.mean([click[name] for click in found]) for name in found[0]}
    assert mean["expected_calibration_error_of_chance"] == pytest.approx(
        mean["expected_calibration_error"], rel=0.1
    )


def test_a_calibration_error_is_compared_with_chance_in_the_same_bins():
    # Half of the rows at 0.5 share a bin, in which 0 and 1 are equally frequent: variance 1/4 of
    # 8 rows. One row each has none around its own mean.
    probability = [0.5] * 8 + [0.9, 0.95]
    found = ranking.measure_heads(*click_only(probability, [0, 1] * 4 + [1, 1]))["click"]
    # Ten bins of a row: the eight are one, the two their own; sqrt(2/pi · 1/4 · 8) of ten rows.
    chance = math.sqrt(2 / math.pi * 2) / 10
    assert found["expected_calibration_error_of_chance"] == pytest.approx(chance, rel=1e-6)
    assert found["expected_calibration_error"] == pytest.approx((0 + 0.1 + 0.05) / 10, rel=1e-6)
