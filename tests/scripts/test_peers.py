"""The peers of the ranker's benchmark: same rows, known structure found, a fair measure."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import scripts_in_forks

from tfrec import calibration, metrics, ranking

pytestmark = pytest.mark.slow

NUM_VALUES, NUM_BUCKETS, LIST_LENGTH = 12, 10, 3
NETWORKS = ("dnn", "dcn_v2", "deepfm", "fwfm", "dlrm", "final_mlp", "din")
PEERS = ("lightgbm", "hashed_logistic_regression", *NETWORKS)


def simulated_rows(peer_data, rng, count):
    """A string, a number, a list of up to three, and a position, with independent effects."""
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
    return peer_data.PeerRows(
        ids, {"click": labels}, np.arange(count), np.arange(count), np.ones(count, bool)
    )


def simulated_data(peer_data):
    fields = (
        peer_data.PeerField("string", "categorical", slice(0, 1), NUM_VALUES),
        peer_data.PeerField("number", "numeric", slice(1, 2), NUM_BUCKETS + 1),
        peer_data.PeerField("list", "categorical_list", slice(2, 5), 6),
        peer_data.PeerField("(position)", "numeric", slice(5, 6), 5),
    )
    rng = np.random.default_rng(3)
    return peer_data.PeerData(
        fields, *(simulated_rows(peer_data, rng, n) for n in (4_000, 800, 1_500))
    )


def interaction_rows(peer_data, rng, count):
    """Two strings whose parity decides the click; the first and a number decide later labels."""
    first, second = rng.integers(0, 6, (2, count))
    number = rng.integers(1, NUM_BUCKETS + 1, count)
    click = rng.random(count) < np.where((first + second) % 2, 0.85, 0.15)
    engagement = click & (rng.random(count) < np.where(first % 2, 0.7, 0.2))
    revenue = engagement * np.exp(0.3 * number + rng.normal(0, 0.2, count))
    labels = {"click": click, "engagement": engagement, "revenue": revenue}
    return peer_data.PeerRows(
        np.column_stack([first, second, number]).astype(np.int32),
        {name: values.astype(np.float32) for name, values in labels.items()},
        np.arange(count),
        np.arange(count),
        np.ones(count, bool),
    )


@pytest.fixture
def interactions(script):
    peer_data = script("peers.peer_data")
    fields = (
        peer_data.PeerField("first", "categorical", slice(0, 1), 6),
        peer_data.PeerField("second", "categorical", slice(1, 2), 6, is_ad=True),
        peer_data.PeerField("number", "numeric", slice(2, 3), NUM_BUCKETS + 1),
    )
    rng = np.random.default_rng(3)
    return peer_data.PeerData(
        fields, *(interaction_rows(peer_data, rng, n) for n in (4_000, 800, 1_500))
    )


def with_few_passes(models, name, monkeypatch, **others):
    peer = models.PEERS[name]
    if hasattr(peer.defaults[0], "epochs"):
        few = dataclasses.replace(peer.defaults[0], epochs=5, checks=1, **others)
        monkeypatch.setitem(models.PEERS, name, dataclasses.replace(peer, defaults=[few]))


@pytest.mark.trains
@pytest.mark.parametrize("name", ["lightgbm", "hashed_logistic_regression", "dnn"])
def test_peers_find_the_true_effects_of_all_kinds_of_fields(script, name, monkeypatch, tmp_path):
    data = simulated_data(script("peers.peer_data"))
    models = script("peers.models")
    with_few_passes(models, name, monkeypatch)
    fitted = models.fit(name, data, 1, 0.0, tmp_path)
    assert fitted.validation["click"].shape == (800,)
    probabilities = 1 / (1 + np.exp(-fitted.test["click"]))
    # The base rate has 1 and 0.5, the true logits reach 0.748 and 0.819.
    assert metrics.normalized_entropy(data.test.labels["click"], probabilities) < 0.85
    assert metrics.auc(data.test.labels["click"], probabilities) > 0.78


@pytest.mark.trains
# Without a history, DIN is the DNN.
@pytest.mark.parametrize("name", ["lightgbm", *(n for n in NETWORKS if n != "din")])
def test_each_peer_but_the_linear_one_finds_an_interaction_and_later_labels(
    script, interactions, name, monkeypatch, tmp_path
):
    models = script("peers.models")
    with_few_passes(models, name, monkeypatch, hidden=64, embedding_l2=3.0, learning_rate=5e-3)
    fitted = models.fit(name, interactions, 1, 0.0, tmp_path)
    values = calibration.calibrated_values(fitted.test, calibration.Calibrators())
    labels = interactions.test.labels
    # The truth reaches 0.85, 0.86 and 0.87; without the interaction the click AUC is 0.5.
    assert metrics.auc(labels["click"], values["click_probability"]) > 0.8
    assert metrics.auc(labels["engagement"], values["engagement_probability"]) > 0.8
    assert metrics.auc(labels["revenue"], values["expected_revenue"]) > 0.7
    paid = labels["revenue"] > 0
    # A bucket of the number multiplies the amount by 1.35; a tenth bucket pays 15 times the first.
    expected = np.exp(fitted.test["revenue"][paid, 1])
    by_bucket = [
        expected[interactions.test.ids[paid, 2] == bucket].mean() for bucket in (1, NUM_BUCKETS)
    ]
    assert by_bucket[1] / by_bucket[0] > 4


def seen_rows(peer_data, rng, count):
    """Ads that are clicked with probability 0.9 if they are in a history of three, else 0.1."""
    seen = np.array([rng.choice(12, 3, replace=False) + 1 for _ in range(count)])
    ad = np.where(rng.random(count) < 0.5, seen[:, 0], rng.integers(1, 13, count))
    clicked = rng.random(count) < np.where((seen == ad[:, None]).any(axis=1), 0.9, 0.1)
    # Ages, which peers do not read, are between the history and the ad.
    ids = np.column_stack([seen, rng.integers(100, 250, (count, 3)), ad]).astype(np.int32)
    labels = {"click": clicked.astype(np.float32)}
    number, known = np.arange(count), np.ones(count, bool)
    return peer_data.PeerRows(ids, labels, number, number, known)


@pytest.mark.trains
def test_din_finds_that_the_candidate_is_in_the_history(script, monkeypatch, tmp_path):
    peer_data, models = script("peers.peer_data"), script("peers.models")
    fields = (
        peer_data.PeerField("seen", "categorical_list", slice(0, 3), 13),
        peer_data.PeerField("ad", "categorical", slice(6, 7), 13, is_ad=True),
    )
    rng = np.random.default_rng(3)
    rows = [seen_rows(peer_data, rng, n) for n in (6_000, 800, 1_500)]
    data = peer_data.PeerData(fields, *rows, histories={"seen": np.arange(13)[:, None]})
    with_few_passes(models, "din", monkeypatch, hidden=64, embedding_l2=3.0, learning_rate=5e-3)
    fitted = models.fit("din", data, 1, 0.0, tmp_path)
    # The rule itself reaches 0.9.
    assert metrics.auc(data.test.labels["click"], fitted.test["click"]) > 0.85


@pytest.mark.trains
def test_a_finished_cell_is_read_and_another_seed_budget_or_row_is_another_cell(
    script, tmp_path, monkeypatch
):
    models = script("peers.models")
    data = simulated_data(script("peers.peer_data"))
    name = "hashed_logistic_regression"
    first = models.fit(name, data, 1, 0.0, tmp_path)
    assert first.trials == 7
    assert first.settings["click"]["C"] in (0.1, 0.3, 1.0)
    trained = []
    fit = models.PEERS[name].fit
    counting = dataclasses.replace(
        models.PEERS[name], fit=lambda *given: trained.append(given) or fit(*given)
    )
    monkeypatch.setitem(models.PEERS, name, counting)
    again = models.fit(name, data, 1, 0.0, tmp_path)
    assert not trained
    np.testing.assert_array_equal(again.test["click"], first.test["click"])
    assert again.settings == first.settings
    # A damaged or unfinished write leaves no cell: only whole files have the name of one.
    assert len(list(tmp_path.iterdir())) == 1
    other = dataclasses.replace(data.test, labels={"click": 1 - data.test.labels["click"]})
    models.fit(name, data, 2, 0.0, tmp_path)
    models.fit(name, dataclasses.replace(data, test=other), 1, 0.0, tmp_path)
    assert len(trained) == 14
    tuned = models.fit(name, data, 1, 1e-4, tmp_path)
    assert tuned.trials >= 7
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.trains
def test_a_search_proposes_options_until_its_budget_is_spent_and_keeps_the_best(
    script, interactions, monkeypatch, tmp_path
):
    models, search = script("peers.models"), script("peers.search")
    now = [0.0]
    monkeypatch.setattr(search.time, "process_time", lambda: now[0])
    tried = []

    def fit(data, options, seed):
        now[0] += 10.0
        tried.append(options)
        # The more leaves, the closer to the labels.
        share = options.num_leaves / 128

        def predict(rows):
            return np.nan_to_num(data.values(rows) - 0.5) * share

        return predict, {}

    peer = models.PEERS["lightgbm"]
    monkeypatch.setitem(models.PEERS, "lightgbm", dataclasses.replace(peer, fit=fit))
    fitted = models.fit("lightgbm", interactions, 1, 3.0, tmp_path)
    # Three minutes are 18 trials of ten seconds, four of them defaults.
    assert fitted.trials == len(tried) == 18
    assert [options.num_leaves for options in tried[:4]] == [15] * 4
    for options in tried:
        for name, values in peer.space.items():
            assert values._contains(values.to_internal_repr(getattr(options, name)))
    best = max(options.num_leaves for options in tried)
    assert best > 15
    assert fitted.settings["click"]["num_leaves"] == best


@pytest.mark.parametrize("name", PEERS)
def test_the_defaults_are_in_the_space_of_the_search(script, name):
    peer = script("peers.models").PEERS[name]
    for options in peer.defaults:
        assert dataclasses.replace(peer.defaults[0], **{
            key: getattr(options, key) for key in peer.space
        }) == options  # fmt: skip
        for key, values in peer.space.items():
            assert values._contains(values.to_internal_repr(getattr(options, key)))


def test_labels_after_a_click_are_learned_from_clicked_rows(script):
    peer_data = script("peers.peer_data")
    nan = np.nan

    def rows(click, engagement, revenue):
        labels = {"click": click, "engagement": engagement, "revenue": revenue}
        return peer_data.PeerRows(
            np.zeros((4, 1), np.int32),
            {name: np.array(values, np.float32) for name, values in labels.items()},
            np.arange(4),
            np.arange(4),
            np.ones(4, bool),
        )

    own = rows([0, 1, 1, 1], [0, 0, 1, nan], [0, 0, np.e, 1])
    data = peer_data.PeerData((), own, own, own)
    assert [t.name for t in data.targets] == ["click", "engagement", "revenue", "revenue_amount"]
    np.testing.assert_allclose(
        data.values(own),
        [[0, nan, nan, nan], [1, 0, 0, nan], [1, 1, 1, 1], [1, nan, 1, 0]],
    )
    # Revenue without a click is learned from all rows.
    without = rows([0, 1, 1, 1], [0, 0, 1, nan], [5, 0, np.e, 1])
    data = peer_data.PeerData((), without, without, without)
    np.testing.assert_array_equal(data.values(without)[:, 2], [1, 0, 1, 1])
    # A head without positives is not learned.
    none = rows([0, 1, 1, 1], [0, 0, 0, nan], [0, 0, 0, 0])
    assert peer_data.PeerData((), none, none, none).heads == ("click",)


def test_outputs_of_targets_become_logits_of_heads(script, interactions):
    # Probabilities of a click of 1/2 and of revenue after it of 1/2 give one of 1/4.
    outputs = np.array([[0.0, 2.0, 0.0, 3.0]])
    logits = interactions.logits(outputs, spread=0.5)
    assert logits["click"].tolist() == [0.0]
    assert logits["engagement"].tolist() == [2.0]
    np.testing.assert_allclose(logits["revenue"][0, :2], [np.log(1 / 3), 3.0], rtol=1e-6)
    values = calibration.calibrated_values(logits, calibration.Calibrators())
    # The mean of a log-normal amount is exp(mean + variance / 2).
    np.testing.assert_allclose(values["expected_revenue"], 0.25 * np.exp(3.125), rtol=1e-4)
    np.testing.assert_allclose(
        values["engagement_probability"], 0.5 / (1 + np.exp(-2.0)), rtol=1e-6
    )


def rate_columns(script, requests, ids, labels, held_out):
    """Statistics of a field of four ids; for training rows, and for held-out ids."""
    peer_data, rates = script("peers.peer_data"), script("peers.rates")
    learned = rates.IdRates((peer_data.PeerField("a", "categorical", slice(0, 1), 4),))
    column, values = np.array(ids, np.int32)[:, None], np.array(labels, np.float32)
    own = rates.encode_earlier(learned, column, values, np.array(requests))
    return own, learned.encode(np.array(held_out, np.int32)[:, None])


def test_rates_never_read_the_row_s_own_label_its_request_or_later_rows(script):
    rng = np.random.default_rng(0)
    requests = np.repeat(np.arange(60), 3)
    ids, labels = rng.integers(0, 4, 180), rng.integers(0, 2, 180)
    before, _ = rate_columns(script, requests, ids, labels, [0])
    assert np.isnan(before[:3, 0]).all()  # nothing is known of the first request
    assert not np.isnan(before[3:]).any()
    for row in (0, 70, 179):
        other = labels.copy()
        other[row] = 1 - other[row]
        after, held_out = rate_columns(script, requests, ids, other, [0, 1, 2, 3])
        request = requests[row]
        np.testing.assert_array_equal(after[requests <= request], before[requests <= request])
        later = (requests > request) & (ids == ids[row])
        assert (after[later, 0] != before[later, 0]).all()
        # Rows need not be stored in time order.
        shuffled = rng.permutation(180)
        again, _ = rate_columns(
            script, *(values[shuffled] for values in (requests, ids, other)), [0]
        )
        np.testing.assert_array_equal(again, after[shuffled])
        # Held-out rows use all training rows.
        np.testing.assert_allclose(np.expm1(held_out[:, 1]), np.bincount(ids), rtol=1e-6)


def test_rates_are_shrunk_by_the_variances_within_and_between_ids(script):
    # Ids 1 and 2 with 4 rows each and means 3/4 and 1/4 around 1/2. Within: 2 x 4 x 3/16 over 8 - 2
    # rows = 1/4. Between: 2 x 4 x 1/16 = 1/2 of which chance explains 1/4; over 8 - 32/8 = 4 it is
    # 1/16. So 4 rows with the mean are added: (3 + 2) / 8 and (1 + 2) / 8.
    ids, labels = [1, 1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 0, 1, 0, 0, 0]
    _, held_out = rate_columns(script, range(8), ids, labels, [1, 2, 3])
    np.testing.assert_allclose(held_out[:, 0], [5 / 8, 3 / 8, 1 / 2], rtol=1e-6)
    np.testing.assert_allclose(np.expm1(held_out[:, 1]), [4, 4, 0], atol=1e-6)
    # Ids that do not differ have the common mean.
    _, held_out = rate_columns(script, range(8), ids, [1, 0] * 4, [1, 2])
    np.testing.assert_allclose(held_out[:, 0], 0.5, atol=1e-5)


def test_rates_of_a_list_are_means_over_its_values(script):
    peer_data, rates = script("peers.peer_data"), script("peers.rates")
    learned = rates.IdRates((peer_data.PeerField("a", "categorical_list", slice(0, 2), 4),))
    learned.add(np.array([[1, 2], [1, 0], [0, 0]], np.int32), np.array([1.0, 1.0, 0.0]))
    encoded = learned.encode(np.array([[1, 0], [1, 2], [0, 0]], np.int32))
    assert encoded[1].tolist() == pytest.approx(
        [encoded[0, 0], (np.log(3) + np.log(2)) / 2], rel=1e-6
    )
    assert np.isnan(encoded[2]).all()


def test_pairs_combine_strings_of_requests_and_ads_with_few_ids(script):
    peer_data, rates = script("peers.peer_data"), script("peers.rates")

    def field(name, kind, column, cardinality, is_ad):
        own = slice(column, column + 1)
        return peer_data.PeerField(name, kind, own, cardinality, is_ad)

    fields = (
        field("user", "categorical", 0, 5, False),
        field("hour", "numeric", 1, 24, False),
        field("category", "categorical", 2, 7, True),
        field("ad", "categorical", 3, 601, True),
        field("price", "numeric", 4, 10, True),
    )
    pairs = rates.pairs_of(fields, 3_000)
    # A user and an ad have 3,005 ids.
    (both,) = rates.fields_of_pairs(pairs)
    assert (both.name, both.cardinality) == ("user × category", 35)
    ids = rates.ids_of_pairs(pairs, np.array([[4, 9, 6, 600, 1], [1, 9, 2, 0, 1]], np.int32))
    np.testing.assert_array_equal(ids, [[4 * 7 + 6], [1 * 7 + 2]])


@pytest.mark.trains
def test_trees_with_rates_of_pairs_learn_which_requests_like_which_ads(script, interactions):
    """Parity is not in the order of ids: without rates, a tree needs a split for each id."""
    trees = script("peers.trees")

    def loss(pair_rates):
        options = trees.TreeOptions(pair_rates=pair_rates, num_leaves=4, rounds=20)
        predict, _ = trees.fit(interactions, options, 1)
        return interactions.losses(interactions.test, predict(interactions.test))[0]

    assert loss(True) < loss(False) - 0.1


@pytest.mark.trains
def test_trees_with_rates_learn_the_ids_of_a_wide_field(script):
    """Of 300 ids with 10 rows each, a tree without rates separates few."""
    peer_data, trees = script("peers.peer_data"), script("peers.trees")
    rng = np.random.default_rng(1)
    effect = rng.normal(0, 2.0, 301)

    def rows(count):
        ids = rng.integers(1, 301, count)
        click = rng.random(count) < 1 / (1 + np.exp(-effect[ids]))
        labels = {"click": click.astype(np.float32)}
        own = ids[:, None].astype(np.int32)
        return peer_data.PeerRows(
            own, labels, np.arange(count), np.arange(count), np.ones(count, bool)
        )

    field = peer_data.PeerField("a", "categorical", slice(0, 1), 301)
    data = peer_data.PeerData((field,), rows(3_000), rows(600), rows(1_000))

    def auc(id_rates):
        predict, _ = trees.fit(data, trees.TreeOptions(id_rates=id_rates), 1)
        return metrics.auc(data.test.labels["click"], predict(data.test)[:, 0])

    assert auc(True) > auc(False) + 0.03


def test_peers_read_the_rows_that_the_ranker_is_measured_on(script, data_set, ranker_config):
    data = script("peers.peer_data").read(data_set, with_position=True)
    model = ranking.build_ranker(data_set, ranker_config)
    predictions = ranking.predict_split(model, data_set, "test")
    for label in ("click", "engagement", "revenue"):
        np.testing.assert_array_equal(data.test.labels[label], predictions.labels[label])
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


@pytest.mark.benchmark
def test_ours_and_peers_are_measured_on_one_split(data_set, trained, tmp_path):
    shutil.copytree(data_set.directory, tmp_path / "data")
    shutil.copytree(trained / "ranker", tmp_path / "ranker")
    peers = ("lightgbm", "hashed_logistic_regression")

    def run():
        done = scripts_in_forks.run(
            "benchmarks/quality.py", f"--workdir={tmp_path}", f"--peers={','.join(peers)}",
            "--bootstrap_samples=20",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    result = run()
    assert result["rows"]["test"] == data_set.num_rows("test")
    assert result["intervals_of"] == "requests"
    assert result["heads"] == ["click", "engagement", "revenue"]
    models = ("tfrec", *peers, "base_rate", "ground_truth")
    of_probability = {"auc", "normalized_entropy", "log_loss", "expected_calibration_error"}
    for head in result["heads"]:
        assert result["test_positives"][head] == data_set.label_positives("test", head)
        for name in models:
            keys = {"auc", "normalized_gini"} if head == "revenue" else of_probability
            assert keys <= set(result[name][head]), (name, head)
            assert ("auc_share" in result[name][head]) == (head != "revenue")
        for name in peers:
            second = "normalized_gini" if head == "revenue" else "normalized_entropy"
            assert set(result[name][head]["ours_minus_this"]) == {"auc", second}
        assert result["base_rate"][head]["auc"] == 0.5
    for name in models:
        assert result[name]["click"]["auc"] <= result["ground_truth"]["click"]["auc"]
    assert result["ground_truth"]["click"]["auc_share"] == 1
    model, own, _ = ranking.load_ranker(data_set, trained / "ranker")
    predictions = ranking.predict_split(model, data_set, "test")
    served = ranking.served_values(predictions, own)
    assert result["tfrec"]["click"]["log_loss"] == pytest.approx(
        metrics.log_loss(predictions.labels["click"], served["click_probability"]), abs=1e-6
    )
    assert result["tfrec"]["revenue"]["normalized_gini"] == pytest.approx(
        metrics.resampled_normalized_gini(
            metrics.Resamples(np.zeros(len(predictions.ad_rows), int), 0, 0),
            predictions.labels["revenue"],
            served["expected_revenue"],
        )[0]
    )
    for name in peers:
        assert result[name]["seconds"] > 0
    # A second run reads the finished peers and measures the same.
    again = run()
    assert again["lightgbm"] == result["lightgbm"]


@pytest.mark.benchmark
def test_an_unknown_peer_is_named(tmp_path):
    done = scripts_in_forks.run("benchmarks/quality.py", f"--workdir={tmp_path}", "--peers=xgboost")
    assert done.returncode == 1
    assert "--peers takes some of lightgbm, hashed_logistic_regression" in done.stderr
    assert "got 'xgboost'" in done.stderr
