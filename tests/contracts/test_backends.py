"""The contract of an index backend, over FAISS with each kind, milvus-lite and a Milvus server."""

import dataclasses
import functools
import sys

import index_fixtures
import numpy as np
import pyarrow as pa
import pytest
import requirements

from serving import errors, index, requests
from serving.index import AD_ID, ad_index, exact_search
from serving.index.milvus import connection, milvus_build
from serving.live import live_state, live_update

NUM_ADS, DIMENSION, K = 3000, 32, 100
FIELDS = {
    "advertiser": "categorical",
    "price": "numeric",
    "tags": "categorical_list",
}
LITE = [pytest.mark.engines, requirements.NEEDS_MILVUS]
# The tests of a server need its address, such as TFREC_TEST_MILVUS_URI=http://127.0.0.1:19530.
SERVED_KINDS = ["Flat", "HNSW"] if requirements.MILVUS_SERVER else []
BACKENDS = [
    pytest.param(("faiss", "Flat"), id="faiss-Flat"),
    pytest.param(("faiss", "IVF"), id="faiss-IVF"),
    pytest.param(("faiss", "IVFPQ"), id="faiss-IVFPQ"),
    pytest.param(("faiss", "HNSW"), id="faiss-HNSW"),
    pytest.param(("lite", "Flat"), id="lite-Flat", marks=LITE),
    pytest.param(("lite", "HNSW"), id="lite-HNSW", marks=LITE),
    *(pytest.param(("server", k), id=f"server-{k}", marks=LITE) for k in SERVED_KINDS),
]


def config_of(backend, kind, directory, **options):
    if backend == "faiss":
        return index.IndexConfig(kind=kind, **options)
    uri = requirements.MILVUS_SERVER if backend == "server" else str(directory / "milvus.db")
    return index.IndexConfig(kind=kind, backend="milvus", milvus_uri=uri, **options)


@functools.cache
def embeddings():
    return index_fixtures.clustered(NUM_ADS, dimension=DIMENSION)


@functools.cache
def queries():
    return index_fixtures.clustered(40, dimension=DIMENSION)


@functools.cache
def ads():
    """Every seventh ad has no price, two thirds have no tags, every fifth no advertiser."""
    rows = range(NUM_ADS)
    return pa.table(
        {
            AD_ID: [f"ad-{row}" for row in rows],
            "advertiser": [f"a\"{row % 9}'" if row % 5 else None for row in rows],
            "price": [float("nan") if row % 7 == 0 else row / 2 for row in rows],
            "tags": pa.array(
                [[None, [], ["new", f"t{row}"]][row % 3] for row in rows], pa.list_(pa.string())
            ),
        }
    )


@dataclasses.dataclass(frozen=True)
class Opened:
    """An index that was built and opened again, with the entry of its manifest."""

    ads: index.AdIndex
    entry: dict
    directory: object


@pytest.fixture(scope="module", params=BACKENDS)
def opened(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("backend")
    config = config_of(*request.param, directory, num_candidates=K)
    built = index.build_index(embeddings(), config, tuning_queries=queries(), ads=ads())
    built.save(directory, np.zeros((NUM_ADS, 2), np.int32), ads())
    entry = built.manifest_index(1.0)
    yield Opened(ad_index.AdIndex.open(directory, entry), entry, directory)
    index.drop_index(entry)


@functools.cache
def exact():
    features = np.zeros((NUM_ADS, 2), np.int32)
    flat = index.build_index(embeddings(), index.IndexConfig(kind="Flat")).searcher
    return index.AdIndex(flat, features, ads())


def checked(filters):
    return requests.FilterFields(FIELDS).check(requests.parse(requests.Filters, filters))


def assert_found(opened, scores, rows, eligible, k=K, recall=0.95):
    """Checks that scores and rows are complete, in order, and of eligible ads."""
    wanted = exact().search(queries()[: len(rows)], k, eligible)[1]
    assert rows.shape == scores.shape == wanted.shape
    assert index.recall_of_rows(rows, wanted).mean() >= recall
    products = np.einsum("qd,qkd->qk", queries()[: len(rows)], embeddings()[rows])
    # Some kinds store rounded vectors.
    np.testing.assert_allclose(scores, products, atol=0.02)
    assert (np.diff(scores, axis=1) <= 1e-5).all()
    if eligible is not None:
        assert eligible.contains(rows).all()
    assert all(len(set(own)) == len(own) for own in rows.tolist())


def test_an_opened_index_knows_its_kind_and_counts_its_ads(opened):
    assert (opened.ads.searcher.kind, opened.ads.num_ads) == (opened.entry["kind"], NUM_ADS)
    assert opened.ads.searcher.num_ads == opened.entry["num_ads"] == NUM_ADS
    assert opened.ads.dimension == opened.entry["dimension"] == DIMENSION
    assert opened.ads.searcher.search_parameters() == opened.entry["search"]


def test_the_best_ads_are_found(opened):
    assert_found(opened, *opened.ads.search(queries(), K), None)
    scores, rows = opened.ads.search(queries()[:1], K, timeout_seconds=60.0)
    np.testing.assert_array_equal(rows[0, :20], opened.ads.search(queries(), K)[1][0, :20])
    assert scores.dtype == np.float32
    assert rows.dtype == np.int64


def test_all_ads_are_returned_to_a_search_for_more(opened):
    _, rows = opened.ads.search(queries()[:1], 2 * NUM_ADS)
    assert sorted(rows[0].tolist()) == list(range(NUM_ADS))


@pytest.mark.parametrize(
    "filters",
    [
        {"conditions": [{"field": "advertiser", "any_of": ["a\"1'", "a\"7'", "nobody"]}]},
        {"conditions": [{"field": "advertiser", "none_of": ["a\"1'"]}]},
        {"conditions": [{"field": "advertiser", "any_of": []}]},
        {"conditions": [{"field": "tags", "any_of": ["new"]}]},
        {"conditions": [{"field": "tags", "all_of": ["new", "t5"]}]},
        {"conditions": [{"field": "tags", "none_of": ["new"]}]},
        {"conditions": [{"field": "price", "at_least": 100, "at_most": 700.5}]},
        {"conditions": [{"field": "price", "at_most": 3}]},
        {"conditions": [{"field": "price", "any_of": [0.5, 1e-7, 1e300]}]},
        {"conditions": [{"field": "price", "none_of": [0.5]}]},
        {
            "conditions": [
                {"field": "tags", "any_of": ["new"]},
                {"field": "advertiser", "any_of": ["a\"2'"], "none_of": ["a\"3'"]},
            ]
        },
        {"allowed_ads": ["ad-3", "ad-2999", "unknown"]},
        {"allowed_ads": []},
        {"excluded_ads": ["ad-3", "unknown"]},
        {
            "conditions": [{"field": "price", "at_least": 1000}],
            "excluded_ads": [f"ad-{row}" for row in range(2000, 2900)],
        },
    ],
)
def test_filters_leave_the_same_ads_on_each_backend_and_lists_are_complete(opened, filters):
    asked = checked(filters)
    wanted = exact().eligible(asked)
    eligible = opened.ads.eligible(asked)
    assert eligible.count == wanted.count
    assert_found(opened, *opened.ads.search(queries(), K, eligible), wanted, recall=0.85)


def test_removed_ads_are_left_out_with_and_without_filters(opened):
    # The 900 best ads of a query are removed.
    gone = index.RowSet.from_rows(exact().search(queries()[:1], 900)[1][0], NUM_ADS)
    alive = index.RowSet.full(NUM_ADS) - gone
    assert_found(opened, *opened.ads.search(queries()[:1], K, alive), alive, recall=0.85)
    asked = checked({"conditions": [{"field": "tags", "any_of": ["new"]}]})
    wanted = exact().eligible(asked) & alive
    found = opened.ads.search(queries()[:1], K, opened.ads.eligible(asked) & alive)
    assert_found(opened, *found, wanted, recall=0.85)
    nothing = opened.ads.eligible(asked) & index.RowSet.from_rows(np.array([0]), NUM_ADS)
    assert opened.ads.search(queries(), K, nothing)[1].shape == (len(queries()), 0)


def test_ads_are_upserted_and_deleted_with_any_backend(opened):
    new = index_fixtures.clustered(60, dimension=DIMENSION)
    removed = tuple(f"ad-{row}" for row in range(10, 200))
    # Sixty ads: ten are new, and fifty replace the first fifty; ad 200 is one of them.
    ids = [f"new-{row}" for row in range(10)] + [f"ad-{row}" for row in range(200, 250)]
    table = ads().slice(0, 60).set_column(0, AD_ID, pa.array(ids))
    features = np.ones((60, 2), np.int32)
    state = live_state.LiveState(opened.ads)
    state.apply(live_update.Update(removed, table, new, features))
    view = state.view()
    assert (view.num_ads, view.num_added, view.num_removed) == (NUM_ADS - 190 + 10, 60, 240)
    everything = np.concatenate([embeddings(), new])
    alive = np.ones(len(everything), bool)
    alive[10:250] = False
    for filters in (None, {"conditions": [{"field": "tags", "any_of": ["new"]}]}):
        eligible, allowed = None, alive
        if filters is not None:
            eligible = view.eligible(checked(filters))
            tagged = np.arange(len(everything)) % 3 == 2  # Added ads have the first sixty's tags.
            allowed = alive & tagged
        scores, rows = view.search(queries(), K, eligible)
        assert allowed[rows].all()
        scores_of_all = np.where(allowed, queries() @ everything.T, -np.inf)
        wanted = np.argsort(-scores_of_all, axis=1)[:, :K]
        assert rows.shape == wanted.shape
        assert index.recall_of_rows(rows, wanted).mean() >= 0.85
        # Added ads are compared exactly, and merged in order.
        assert (np.diff(scores, axis=1) <= 1e-5).all()
        for own, found in zip(wanted, rows, strict=True):
            assert set(own[own >= NUM_ADS]) - set(found) <= set(own[-2:])
        assert view.features(rows[:, :1]).max() <= 1


def test_exact_search_compares_every_eligible_ad(opened):
    alive = index.RowSet.full(NUM_ADS) - index.RowSet.from_rows(np.arange(0, 900), NUM_ADS)
    scores, rows = opened.ads.searcher.search_exactly(queries(), K, alive)
    assert_found(opened, scores, rows, alive, recall=0.97)


def test_an_invalid_search_is_refused(opened):
    with pytest.raises(ValueError, match="k: expected a positive integer, got 0"):
        opened.ads.search(queries(), 0)
    with pytest.raises(errors.BundleError, match="finite query embeddings, got NaN"):
        opened.ads.search(np.full((1, DIMENSION), np.nan), K)


@pytest.mark.parametrize("backend", [param for param in BACKENDS if "HNSW" in param.id])
def test_indexes_are_independent_and_dropping_one_leaves_the_other(backend, tmp_path):
    config = config_of(*backend, tmp_path)
    few = ads().slice(0, 50)
    old, new = (
        index.build_index(own, config, ads=few).manifest_index(1.0)
        for own in (embeddings()[:50], embeddings()[50:100])
    )
    if backend[0] == "faiss":
        index.drop_index(old)
        return
    both = [ad_index.milvus_index.MilvusIndex(entry) for entry in (old, new)]
    first = [one.search(queries()[:1], 1)[0][0, 0] for one in both]
    best = [(queries()[:1] @ own.T).max() for own in (embeddings()[:50], embeddings()[50:100])]
    np.testing.assert_allclose(first, best, atol=1e-5)
    index.drop_index(old)
    index.drop_index(old)
    with pytest.raises(errors.BundleError, match=f"no collection {old['milvus']['collection']}"):
        ad_index.milvus_index.MilvusIndex(old)
    assert both[1].search(queries()[:1], 50)[1].shape == (1, 50)
    index.drop_index(new)


@pytest.mark.engines
@requirements.NEEDS_MILVUS
def test_the_parts_of_a_search_share_its_deadline(tmp_path, monkeypatch):
    config = index.IndexConfig(kind="Flat", backend="milvus", milvus_uri=str(tmp_path / "a.db"))
    searcher = index.build_index(embeddings()[:50], config, ads=ads().slice(0, 50)).searcher
    given, search = [], searcher._client.search

    def noted(*args, timeout, **options):
        given.append(timeout)
        return search(*args, timeout=timeout, **options)

    monkeypatch.setattr(searcher._client, "search", noted)
    # 40 queries are two parts.
    assert searcher.search(queries(), 10, timeout_seconds=30.0)[1].shape == (40, 10)
    assert 30.0 > given[0] > given[1]
    searcher.close()


def test_no_inverted_indexes_are_built_for_milvus():
    own = index.AdIndex(exact().searcher, np.zeros((NUM_ADS, 2), np.int32), ads())
    own.prepare_filters()
    assert own._eligibility._postings.keys() == FIELDS.keys()
    remote = object.__new__(ad_index.milvus_index.MilvusIndex)
    filtering = index.AdIndex(remote, np.zeros((NUM_ADS, 2), np.int32), ads())
    filtering.prepare_filters()
    assert not filtering._eligibility._postings
    assert filtering._eligibility._ids is not None


@pytest.mark.engines
@requirements.NEEDS_MILVUS
def test_a_build_without_progress_is_aborted(tmp_path, monkeypatch):
    monkeypatch.setattr(milvus_build, "_STALLED_SECONDS", 0.0)
    client = connection.connect(str(tmp_path / "a.db"))
    monkeypatch.setattr(type(client), "describe_index", lambda *_: {"indexed_rows": 20})
    monkeypatch.setattr(milvus_build, "_POLL_SECONDS", 0.0)
    config = index.IndexConfig(kind="Flat", backend="milvus", milvus_uri=str(tmp_path / "a.db"))
    with pytest.raises(errors.IndexUnavailableError, match=r"has indexed 20 of 50 ads of tfrec_"):
        index.build_index(embeddings()[:50], config, ads=ads().slice(0, 50))


def test_merged_lists_contain_the_exact_best():
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(300, 8)).astype(np.float32), 2, axis=0)
    asked = rng.normal(size=(5, 8)).astype(np.float32)
    # Each vector occurs twice, maybe in different parts. Ties go to the smaller row.
    merged = []
    for query in asked:
        parts = np.array_split(rng.permutation(600), 7)
        found = []
        for rows in parts:
            part = exact_search.BestRows(query[None], 40)
            part.add(vectors[rows], rows)
            found.append((part.found()[0][0], part.found()[1][0]))
        merged.append(exact_search.best_of_lists(found, 40))
    scores = asked @ vectors.T
    for (found_scores, found_rows), own in zip(merged, scores, strict=True):
        wanted = np.lexsort((np.arange(600), -own))[:40]
        np.testing.assert_array_equal(found_rows, wanted)
        np.testing.assert_allclose(found_scores, own[wanted], rtol=1e-5)
    assert len(exact_search.best_of_lists([(np.empty(0), np.empty(0, int))] * 2, 40)[1]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "redis"}, "backend: expected one of .*'faiss', 'milvus'.*, got 'redis'"),
        ({"backend": "milvus"}, "milvus_uri: expected the address of Milvus.*, got None"),
        ({"backend": "milvus", "milvus_uri": "milvus:19530"}, "http://HOST:19530.*'milvus:19530'"),
        ({"backend": "milvus", "milvus_uri": "a.db", "kind": "IVF"}, "in Milvus, got 'IVF'"),
        ({"milvus_uri": "a.db"}, "expected none for the backend 'faiss', got 'a.db'"),
    ],
)
def test_an_invalid_config_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        index.IndexConfig(**options)


def test_a_missing_pymilvus_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    config = index.IndexConfig(backend="milvus", milvus_uri="a.db")
    with pytest.raises(errors.BundleError, match=r"needs pymilvus.*pip install .*\[milvus\]"):
        index.build_index(embeddings(), config, ads=ads())
