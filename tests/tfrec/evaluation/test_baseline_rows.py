"""The retrieval baselines know the clicks that the refitted two-tower model learns from."""

import collections

import numpy as np
import pytest
import split_logs

from tfrec import config, evaluation, retrieval
from tfrec.evaluation import retrieval_comparison
from tfrec.retrieval import refit
from tfrecords import records

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    return split_logs.convert(tmp_path_factory.mktemp("splits") / "log")


@pytest.fixture(scope="module")
def clicks(data_set):
    return split_logs.count_clicks(data_set, "train", "validation")


def test_each_split_has_clicks_of_its_own(data_set):
    train, validation, test = (
        set(split_logs.count_clicks(data_set, split)) for split in split_logs.NUM_REQUESTS
    )
    assert validation - train
    assert test - train - validation


def test_the_refit_reads_training_and_validation_clicks(data_set, clicks):
    read = collections.Counter()
    for batch in refit.refit_batches(data_set, 16, seed=1):
        users, ads = batch[records.USER].numpy().tolist(), batch["ad_row"].numpy().tolist()
        read.update(zip(users, ads, strict=True))
    assert read == clicks


def test_baselines_know_training_and_validation_clicks(data_set, clicks, monkeypatch):
    """Checked on what `evaluate_retrieval` hands to the comparison."""
    two_tower = retrieval.build_two_tower(
        data_set, config.RetrievalConfig(embedding_dim=8, hidden_dim=8), data_set.catalog()
    )
    compare, handed = retrieval_comparison.compare_recommenders, []
    monkeypatch.setattr(
        retrieval_comparison,
        "compare_recommenders",
        lambda *arguments: handed.append(arguments) or compare(*arguments),
    )
    evaluation.evaluate_retrieval(data_set, two_tower)
    ((_, recommenders, history, _),) = handed
    ad_clicks = np.zeros(split_logs.NUM_ADS)
    for (_, ad), count in clicks.items():
        ad_clicks[ad] += count
    np.testing.assert_array_equal(recommenders["popularity"](None)[0], ad_clicks)
    for known in (history, recommenders["item_knn"]._history):
        users, ads = known.matrix.nonzero()
        assert set(zip(known.users[users].tolist(), ads.tolist(), strict=True)) == set(clicks)


def test_ads_that_the_refit_learned_from_validation_clicks_are_not_unseen(tmp_path):
    # Training shows ad 0 only. Of the ads that are clicked in the test split, validation has
    # clicks on some and not on others.
    data_set = split_logs.convert(tmp_path / "log", train=[lambda row: {**row, "ad": "a0"}])
    clicked = split_logs.count_clicks(data_set, "validation")
    ad_0 = data_set.catalog().ad_ids.to_pylist().index("a0")
    seen = {ad_0, *(ad for _, ad in clicked)}
    tested = split_logs.count_clicks(data_set, "test")
    unseen = sum(count for (_, ad), count in tested.items() if ad not in seen)
    not_in_training = sum(count for (_, ad), count in tested.items() if ad != ad_0)
    assert 0 < unseen < not_in_training
    measured = evaluation.compare_recommenders(data_set, {}, None)
    assert measured.num_clicks == tested.total()
    assert measured.num_clicks_on_unseen_ads == unseen
