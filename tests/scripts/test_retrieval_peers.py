"""The peers of retrieval: which clicks they learn, how they are tuned, what they find."""

import collections
import dataclasses

import logs
import numpy as np
import pytest
import split_logs

from tfrec import retrieval
from tfrec.evaluation import corpus_ranking
from tfrecords import schema as schema_lib

pytestmark = pytest.mark.slow

PEERS = ("popularity", "item_knn", "ease", "matrix_factorization", "tfrs_tutorial")


@pytest.mark.parametrize("name", PEERS)
def test_retrieval_peers_learn_training_and_validation_clicks(script, tmp_path, monkeypatch, name):
    data_set = split_logs.convert(tmp_path / "log")
    recommenders = script("peers.recommenders")
    peer, learned = recommenders.PEERS[name], []
    recording = lambda own, **options: learned.append(own) or peer.build(own, **options)  # noqa: E731
    monkeypatch.setitem(recommenders.PEERS, name, dataclasses.replace(peer, build=recording))
    recommender, told = recommenders.fit(name, data_set, 1, 0.0)
    assert told["trials"] == 1
    (own,) = learned
    expected = split_logs.count_clicks(data_set, "train", "validation")
    users, ads = own.history.matrix.nonzero()
    pairs = zip(own.history.users[users].tolist(), ads.tolist(), strict=True)
    assert set(pairs) == set(expected)
    query, ad = own.pairs()
    assert len(query) == len(ad) == sum(expected.values())
    queries = corpus_ranking.queries_of(retrieval.read_clicks(data_set, "test"))
    scores = recommender(queries)
    assert scores.shape[1] == len(data_set.catalog())
    assert len(scores) in (1, len(queries))
    assert np.isfinite(scores).all()


def test_a_retrieval_peer_is_tuned_on_validation_clicks_alone(script, tmp_path, monkeypatch):
    data_set = split_logs.convert(tmp_path / "log")
    recommenders, search = script("peers.recommenders"), script("peers.search")
    now = [0.0]
    monkeypatch.setattr(search.time, "process_time", lambda: now[0])
    clicked = collections.Counter(
        ad for _, ad in split_logs.count_clicks(data_set, "validation").elements()
    )
    of_validation = np.array([clicked[ad] for ad in range(len(data_set.catalog()))], np.float32)
    tried = []

    def build(learned, factors, **others):
        now[0] += 6.0
        tried.append((tuple(learned.splits), factors))
        # The more factors, the more like the popularity of the validation split.
        noise = np.random.default_rng(0).permutation(len(of_validation)) / 1e3
        return lambda queries: (factors * of_validation / 64 + noise)[None]

    peer = recommenders.PEERS["matrix_factorization"]
    monkeypatch.setitem(
        recommenders.PEERS, "matrix_factorization", dataclasses.replace(peer, build=build)
    )
    _, told = recommenders.fit("matrix_factorization", data_set, 1, 1.0)
    # A minute of trials that take six seconds; then the best once more, with more clicks.
    assert told["trials"] == 10
    assert [splits for splits, _ in tried] == [("train",)] * 10 + [("train", "validation")]
    assert tried[-1][1] == told["options"]["factors"]
    assert told["options"]["factors"] > 16


@pytest.mark.trains
@pytest.mark.parametrize("name", ["matrix_factorization", "tfrs_tutorial"])
def test_a_retrieval_peer_finds_what_similar_users_click(script, tmp_path, name):
    """Even users click ads below 30 and odd ones the others; there is nothing else to learn."""
    rng = np.random.default_rng(0)
    lines = ["user,ad,split"]
    for user in range(40):
        ads = rng.choice(30, 14, replace=False) + 30 * (user % 2)
        splits = ["train"] * 10 + ["validation"] * 2 + ["test"] * 2
        lines += [f"u{user},a{ad:02},{split}" for ad, split in zip(ads, splits, strict=True)]
    log = tmp_path / "log.csv"
    log.write_text("\n".join(lines) + "\n")
    fields = tuple(
        schema_lib.Field(name, "categorical", side, min_count=1)
        for name, side in (("user", "query"), ("ad", "ad"))
    )
    schema = schema_lib.Schema("halves", fields, ("ad",), None, user_key="user", split="split")
    data_set = logs.converted_table(log, tmp_path / "data", schema)
    recommenders = script("peers.recommenders")
    peer = recommenders.PEERS[name]
    more = {"epochs": 40, "batch_size": 64} if name == "tfrs_tutorial" else {}
    learned = recommenders.Learned(data_set, ("train",), 1)
    recommender = peer.build(learned, **{**peer.defaults, **more})
    clicks = retrieval.read_clicks(data_set, "test")
    scores = recommender(corpus_ranking.queries_of(clicks))
    half = np.array([int(ad[1:]) >= 30 for ad in data_set.catalog().ad_ids.to_pylist()])
    own = half[clicks.ad_rows][:, None] == half
    gaps = [row[mine].mean() - row[~mine].mean() for row, mine in zip(scores, own, strict=True)]
    assert np.mean(np.array(gaps) > 0) > 0.95


@pytest.mark.trains
def test_sasrec_predicts_the_ad_that_follows_the_last_one(script, tmp_path):
    """Users walk through 30 ads in a circle from different starts; the last step is held out."""
    lines = ["user,ad,time"]
    for user in range(40):
        lines += [f"u{user},a{(7 * user + step) % 30:02},{1e9 + step}" for step in range(24)]
    log = tmp_path / "log.csv"
    log.write_text("\n".join(lines) + "\n")
    fields = tuple(
        schema_lib.Field(name, "categorical", side, min_count=1)
        for name, side in (("user", "query"), ("ad", "ad"))
    )
    history = schema_lib.Field("clicks", "history", "query", of="ad", event="click", max_length=8)
    recommenders = script("peers.recommenders")
    data_sets = [
        logs.converted_table(
            log,
            tmp_path / name,
            schema_lib.Schema(name, own, ("ad",), None, user_key="user", time="time"),
            split="leave_last_out",
        )
        for name, own in (("ids", fields), ("walks", (*fields, history)))
    ]
    of_ids, of_walks = (recommenders.peers_of(own) for own in data_sets)
    assert set(of_walks) - set(of_ids) == {"sasrec"}
    data_set, peer = data_sets[1], of_walks["sasrec"]
    learned = recommenders.Learned(data_set, ("train",), 1)
    recommender = peer.build(learned, **{**peer.defaults, "dropout": 0.2, "learning_rate": 3e-3})
    clicks = retrieval.read_clicks(data_set, "test")
    best = recommender(corpus_ranking.queries_of(clicks)).argmax(axis=1)
    # A history of eight clicks names no ad that follows; by chance one of 30 is right.
    assert np.mean(best == clicks.ad_rows) > 0.9
    with pytest.raises(ValueError, match="has no history of ads"):
        peer.build(recommenders.Learned(data_sets[0], ("train",), 1), **peer.defaults)


@pytest.mark.parametrize("name", [*PEERS, "sasrec"])
def test_the_defaults_of_a_retrieval_peer_are_in_its_space(script, name):
    peer = script("peers.recommenders").PEERS[name]
    assert set(peer.defaults) == set(peer.space)
    for key, values in peer.space.items():
        assert values._contains(values.to_internal_repr(peer.defaults[key]))
