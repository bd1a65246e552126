"""A world of topics: its click probabilities, titles, vectors and logs."""

import logs
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tfrecords import synthetic

CONFIG = synthetic.TopicWorldConfig(
    num_ads=80, num_users=50, num_topics=4, vector_length=8, words_per_topic=5
)


@pytest.fixture(scope="module")
def world():
    return synthetic.TopicWorld(CONFIG)


@pytest.fixture(scope="module")
def queries(world):
    return world.queries(np.random.default_rng(3), 200)


def correlations(world, queries, of_ad):
    """The mean correlation of p(click) with [Q, N] values over the ads of a query."""
    truth = world.click_probability(queries)
    values = [np.corrcoef(t, v)[0, 1] for t, v in zip(truth, of_ad, strict=True) if v.std() > 0]
    return float(np.mean(values))


def test_titles_and_vectors_predict_clicks(world, queries):
    # Texts and vectors of both sides depend on topics alone, as does the click probability.
    searched = [set(search.split()) for search in queries.search]
    words = np.array([[len(s & set(t.split())) for t in world.titles] for s in searched], float)
    assert correlations(world, queries, words) > 0.2
    assert correlations(world, queries, queries.taste @ world.images.T) > 0.2


def test_the_click_rate_is_that_of_the_config(world, queries):
    rate = world.click_probability(queries)[:, world.is_shown].mean()
    assert rate == pytest.approx(CONFIG.click_rate, abs=0.03)


def test_a_quarter_of_the_ads_is_in_the_table_of_ads_and_never_in_the_log(world, tmp_path):
    log, ads = (pd.DataFrame(pq.read_table(p).to_pydict()) for p in world.write(tmp_path, 4_000))
    assert len(log) == 4_000
    assert len(ads) == 80
    never = {f"a{ad}" for ad in np.flatnonzero(~world.is_shown)}
    assert len(never) == 20
    assert set(ads["ad"]) - set(log["ad"]) == never
    assert (log.groupby("request")["ad"].nunique() == CONFIG.ads_per_request).all()


def test_the_same_config_gives_the_same_bytes(tmp_path):
    written = [
        [path.read_bytes() for path in synthetic.TopicWorld(CONFIG).write(tmp_path / name, 400)]
        for name in ("one", "two")
    ]
    assert written[0] == written[1]


@pytest.mark.parametrize("content", synthetic.CONTENTS)
def test_a_log_is_converted_with_each_schema(world, content, tmp_path):
    log, ads = world.write(tmp_path, 400)
    data_set = logs.converted_table(log, tmp_path / "data", world.schema(content), ads_path=ads)
    known = {field.name for field in data_set.schema.fields if field.is_vector}
    expected = {"ids": set(), "text": {"title", "search"}, "vector": {"image", "taste"}}
    assert known == expected.get(content, {"title", "search", "image", "taste"})
    assert len(data_set.catalog()) == 80
