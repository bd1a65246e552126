"""The peers of the ranker's benchmark: same rows, planted structure found, a fair measure."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import scripts_in_forks

from tfrec import metrics, ranking

NUM_VALUES, NUM_BUCKETS, LIST_LENGTH = 12, 10, 3
PEERS = ("lightgbm", "hashed_logistic_regression", "dnn", "dcn_v2", "deepfm")


def planted_rows(peer_data, rng, count):
    """A string, a number, a list of up to three, a slot: each has an effect of its own."""
    string = rng.integers(0, NUM_VALUES, count)
    number = rng.integers(0, NUM_BUCKETS + 1, count)
    lists = rng.integers(1, 6, (count, LIST_LENGTH))
    lists[np.arange(LIST_LENGTH) >= rng.integers(0, LIST_LENGTH + 1, count)[:, None]] = 0
    slot = rng.integers(1, 5, count)
    effect_of_string = np.where(np.arange(NUM_VALUES) % 3 == 0, 1.5, -0.75)
    logits = (
        effect_of_string[string]
        + 0.3 * (number - NUM_BUCKETS / 2)
        + 1.0 * (lists == 2).any(axis=1)
        - 0.4 * slot
    )
    labels = (rng.random(count) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    ids = np.column_stack([string, number, lists, slot]).astype(np.int32)
    return peer_data.PeerRows(ids, labels, np.arange(count), np.ones(count, bool))


def planted_data(peer_data):
    fields = (
        peer_data.PeerField("string", "categorical", slice(0, 1), NUM_VALUES),
        peer_data.PeerField("number", "numeric", slice(1, 2), NUM_BUCKETS + 1),
        peer_data.PeerField("list", "categorical_list", slice(2, 5), 6),
        peer_data.PeerField("(position)", "numeric", slice(5, 6), 5),
    )
    rng = np.random.default_rng(3)
    return peer_data.PeerData(
        fields, *(planted_rows(peer_data, rng, n) for n in (4_000, 800, 1_500))
    )


@pytest.mark.trains
@pytest.mark.parametrize("name", PEERS)
def test_each_peer_finds_planted_effects(script, name, monkeypatch):
    data = planted_data(script("peers.peer_data"))
    models = script("peers.models")
    if hasattr(models.DEFAULTS[name][0], "epochs"):
        few_passes = dataclasses.replace(models.DEFAULTS[name][0], epochs=5)
        monkeypatch.setitem(models.DEFAULTS, name, [few_passes])
    fitted = models.fit(name, data, tune=False, seed=1)
    assert fitted.validation.shape == (800,)
    probabilities = 1 / (1 + np.exp(-fitted.test))
    # The base rate has 1 and 0.5, the planted logits themselves reach 0.748 and 0.819.
    assert metrics.normalized_entropy(data.test.labels, probabilities) < 0.85
    assert metrics.auc(data.test.labels, probabilities) > 0.78


def test_peers_read_the_rows_that_the_ranker_is_measured_on(script, data_set, ranker_config):
    data = script("peers.peer_data").read(data_set, with_position=True)
    model = ranking.build_ranker(data_set, ranker_config)
    predictions = ranking.predict_split(model, data_set, "test")
    np.testing.assert_array_equal(data.test.labels, predictions.labels["click"])
    owners = np.repeat(np.arange(len(predictions.list_lengths)), predictions.list_lengths)
    np.testing.assert_array_equal(data.test.requests, owners)
    row = 0
    for batch in data_set.batches("test", 100).as_numpy_iterator():
        for request, ads, mask, slots in zip(
            batch["query"], batch["ad"], batch["mask"], batch["position"], strict=True
        ):
            for ad, slot in zip(ads[mask], slots[mask], strict=True):
                # Slots count from 0 in this log; 0 is missing in a peer's column.
                np.testing.assert_array_equal(data.test.ids[row], [*request, *ad, slot + 1])
                row += 1
    assert row == len(data.test)
    assert len(data.train) == data_set.num_rows("train")


def test_without_positions_peers_read_the_schema_s_fields_alone(script, data_set):
    data = script("peers.peer_data").read(data_set, with_position=False)
    assert [f.name for f in data.fields] == [
        f.name for f in (*data_set.schema.query_fields, *data_set.schema.ad_fields)
    ]
    assert data.train.ids.shape[1] == data.fields[-1].columns.stop


def test_values_of_a_list_share_its_weight_and_missing_is_a_value(script):
    peer_data = script("peers.peer_data")
    fields = (
        peer_data.PeerField("a", "categorical", slice(0, 1), 9),
        peer_data.PeerField("b", "categorical_list", slice(1, 4), 9),
    )
    matrix = script("peers.logistic").hashed(fields, np.array([[0, 4, 7, 0], [3, 0, 0, 0]]))
    # One value weighs 1, each of two weighs 1/2; a list without values is one value, missing.
    assert sorted(matrix[0].data.tolist()) == [0.5, 0.5, 1.0]
    assert matrix[1].data.tolist() == [1.0, 1.0]
    assert len(set(matrix.indices.tolist())) == 5


def test_trees_see_missing_values_and_the_values_of_a_list(script):
    peer_data = script("peers.peer_data")
    fields = (
        peer_data.PeerField("a", "categorical", slice(0, 1), 9),
        peer_data.PeerField("b", "categorical_list", slice(1, 4), 4),
    )
    matrix, categorical = script("peers.trees").inputs(
        fields, np.array([[0, 3, 1, 0], [5, 0, 0, 0]])
    )
    assert categorical == [0]
    # a; then the length of b and whether it holds 1, 2, 3.
    np.testing.assert_array_equal(matrix, [[np.nan, 2, 1, 0, 1], [5, 0, 0, 0, 0]])


def test_the_interval_of_a_better_model_is_on_its_side_and_of_itself_is_zero(script):
    scores = script("peers.scores")
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.05, 0.95, 3_000)
    labels = (rng.random(3_000) < truth).astype(np.float32)
    worse = 1 / (1 + np.exp(-np.log(truth / (1 - truth)) - rng.normal(scale=2.0, size=3_000)))
    resamples = metrics.Resamples(np.repeat(np.arange(1_000), 3), 50, seed=1)
    better = scores.resampled(resamples, labels, truth)
    gaps = scores.difference(better, scores.resampled(resamples, labels, worse))
    assert gaps["auc"][0] > 0
    assert gaps["normalized_entropy"][1] < 0
    assert scores.difference(better, better) == {
        "auc": [0.0, 0.0],
        "normalized_entropy": [0.0, 0.0],
    }


def test_users_are_drawn_with_all_their_rows_wherever_these_stand(script):
    scores = script("peers.scores")
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(100), 20)
    # Users like much or little, and one model knows which.
    truth = rng.uniform(0.05, 0.95, 100)[user]
    labels = (rng.random(2_000) < truth).astype(np.float32)
    shuffled = rng.permutation(2_000)

    def samples(unit, order):
        resamples = metrics.Resamples(unit[order], 200, seed=1)
        return scores.resampled(resamples, labels[order], truth[order])["auc"]

    by_user = samples(user, np.arange(2_000))
    assert samples(user, shuffled) == pytest.approx(by_user)
    # Rows of one user are alike: 20 of them are worth few.
    assert np.std(by_user) > 1.5 * np.std(samples(np.arange(2_000), shuffled))


@pytest.mark.parametrize(
    ("chosen", "edges"),
    [
        ({"C": 3.0, "iterations": 9}, ["C=3"]),
        ({"C": 0.003}, ["C=0.003"]),
        ({"C": 1.0}, []),
        # Of rates two were tried, and of treatments none is the greatest.
        ({"rate": 0.1, "treatment": "categorical", "width": 4}, ["width=4"]),
    ],
)
def test_the_least_and_the_greatest_of_what_was_tried_are_edges(script, chosen, edges):
    models = script("peers.models")
    tried = [{"C": c} for c in models.STRENGTHS]
    tried += [
        {"rate": rate, "treatment": "categorical", "width": width}
        for rate in (0.1, 0.01)
        for width in (4, 8, 16)
    ]
    assert models.at_edges(tried, chosen) == edges


@pytest.mark.trains
def test_a_peer_that_is_best_at_an_edge_of_its_grid_is_warned_of(script, monkeypatch, capsys):
    models = script("peers.models")
    data = planted_data(script("peers.peer_data"))
    name = "hashed_logistic_regression"

    def warnings():
        models.fit(name, data, False, 1)
        return capsys.readouterr().err

    assert warnings() == ""  # 0.3 to 1.0 are best of 4,000 rows
    weak = [dataclasses.replace(models.DEFAULTS[name][0], C=c) for c in (0.001, 0.003, 0.01)]
    monkeypatch.setitem(models.DEFAULTS, name, weak)
    assert f"{name} is best on the validation split with C=0.01, an edge of its grid" in warnings()


@pytest.mark.benchmark
def test_ours_and_peers_are_measured_on_one_split(data_set, trained, tmp_path):
    shutil.copytree(data_set.directory, tmp_path / "data")
    shutil.copytree(trained / "ranker", tmp_path / "ranker")
    peers = ("lightgbm", "hashed_logistic_regression")
    done = scripts_in_forks.run(
        "benchmarks/quality.py", f"--workdir={tmp_path}", f"--peers={','.join(peers)}",
        "--bootstrap_samples=20",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["rows"]["test"] == data_set.num_rows("test")
    assert result["intervals_of"] == "requests"
    assert result["test_clicks"] == data_set.label_sum("test", "click")
    models = ("tfrec", *peers, "click_rate", "planted_truth")
    for name in models:
        keys = {"auc", "normalized_entropy", "log_loss", "ece", "auc_share"}
        assert keys <= set(result[name]), name
        assert result[name]["auc"] <= result["planted_truth"]["auc"]
    assert result["planted_truth"]["auc_share"] == 1
    assert result["click_rate"]["auc"] == 0.5
    model, own, _ = ranking.load_ranker(data_set, trained / "ranker")
    predictions = ranking.predict_split(model, data_set, "test")
    served = ranking.served_values(predictions, own)["click_probability"]
    assert result["tfrec"]["log_loss"] == pytest.approx(
        metrics.log_loss(predictions.labels["click"], served), abs=1e-6
    )
    for name in peers:
        assert result[name]["seconds"] > 0
        assert set(result[name]["ours_minus_this"]) == {"auc", "normalized_entropy"}


@pytest.mark.benchmark
def test_an_unknown_peer_is_named(tmp_path):
    done = scripts_in_forks.run("benchmarks/quality.py", f"--workdir={tmp_path}", "--peers=xgboost")
    assert done.returncode == 1
    assert "--peers: expected some of lightgbm, hashed_logistic_regression" in done.stderr
    assert "got 'xgboost'" in done.stderr
