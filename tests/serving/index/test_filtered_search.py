import concurrent.futures
import functools

import faiss
import index_fixtures
import numpy as np
import pytest

from serving import requests
from serving.index import ad_index, filtered_search, kinds, tuning
from serving.index.filters import row_set

KINDS = ("Flat", "IVF", "IVFPQ", "HNSW")
NUM_ADS = 3000
K = 50


@functools.cache
def built(kind: str) -> ad_index.BuiltIndex:
    """Builds an index of `index_fixtures.clustered(NUM_ADS)`."""
    embeddings = index_fixtures.clustered(NUM_ADS)
    return ad_index.build_index(
        embeddings, kinds.IndexConfig(kind=kind), tuning_queries=embeddings[::100]
    )


def eligible_rows(share: float, seed: int = 1) -> np.ndarray:
    """Returns a random share of the rows, in ascending order."""
    rng = np.random.default_rng(seed)
    count = max(1, round(share * NUM_ADS))
    return np.sort(rng.choice(NUM_ADS, count, replace=False))


def exact(embeddings: np.ndarray, queries: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """Returns the k best of the given rows, by a matrix product."""
    order = np.argsort(-(queries @ embeddings[rows].T), axis=1, kind="stable")
    return rows[order[:, :k]]


def recall(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.mean([np.isin(w, f).mean() for w, f in zip(wanted, found, strict=True)]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.98, 0.5, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("always_exact", [None, 0], ids=["as measured", "selector preferred"])
def test_filtered_search_returns_the_best_of_the_eligible_ads(kind, share, always_exact):
    embeddings, queries = index_fixtures.clustered(NUM_ADS), index_fixtures.clustered(20)
    rows = eligible_rows(share)
    searcher = built(kind).searcher
    search = filtered_search.FilteredSearch(searcher.index, always_exact=always_exact)
    scores, found = search.search(queries, K, row_set.RowSet.from_rows(rows, NUM_ADS))
    assert found.shape == scores.shape == (20, min(K, len(rows)))
    assert np.isin(found, rows).all()
    assert all(len(set(row)) == len(row) for row in found.tolist())
    assert (np.diff(scores, axis=1) <= 0).all()
    np.testing.assert_allclose(
        scores, np.einsum("bd,bkd->bk", queries, embeddings[found]), atol=0.02
    )
    # The codes of the index also lose recall at this k without a filter.
    unfiltered = tuning.recall_against_exact(searcher, embeddings, queries, K)
    assert recall(found, exact(embeddings, queries, rows, K)) >= unfiltered - 0.03
    if search.is_exact(row_set.RowSet.from_rows(rows, NUM_ADS), K):
        assert recall(found, exact(embeddings, queries, rows, K)) >= 0.97


@pytest.mark.parametrize("kind", KINDS)
def test_ads_far_from_the_query_are_found_when_only_they_are_eligible(kind):
    embeddings = index_fixtures.clustered(NUM_ADS)
    query = embeddings[:1]
    # The 300 worst ads: no cell near the query contains one.
    rows = np.sort(np.argsort(embeddings @ query[0])[:300])
    search = filtered_search.FilteredSearch(built(kind).searcher.index, always_exact=0)
    _, found = search.search(query, K, row_set.RowSet.from_rows(rows, NUM_ADS))
    assert np.isin(found, rows).all()
    assert found.shape == (1, K)
    # The coarse codes of IVFPQ are less exact for ads that are far from the query.
    wanted = exact(embeddings, query, rows, K)
    assert recall(found, wanted) >= (0.7 if kind == "IVFPQ" else 0.95)


@pytest.mark.parametrize("kind", KINDS)
def test_the_searcher_applies_a_filter_unless_all_ads_are_eligible(kind):
    queries = index_fixtures.clustered(5)
    searcher = built(kind).searcher
    everything = row_set.RowSet.full(NUM_ADS)
    for plain, filtered in zip(
        searcher.search(queries, K), searcher.search(queries, K, everything), strict=True
    ):
        np.testing.assert_array_equal(plain, filtered)
    rows = eligible_rows(0.2)
    _, found = searcher.search(queries, K, row_set.RowSet.from_rows(rows, NUM_ADS))
    assert np.isin(found, rows).all()
    scores, nothing = searcher.search(queries, K, row_set.RowSet.from_rows(rows[:0], NUM_ADS))
    assert scores.shape == nothing.shape == (5, 0)
    assert (scores.dtype, nothing.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_index_is_filtered_by_the_fields_of_its_ads(kind, tmp_path):
    embeddings, queries = index_fixtures.clustered(NUM_ADS), index_fixtures.clustered(5)
    index_fixtures.save(built(kind), tmp_path)
    index = ad_index.AdIndex.open(tmp_path)
    # Ad r has advertiser r % 9, and tags only if r is 2, 5, 8, …
    for field, value, rows in (
        ("advertiser", "advertiser-4", np.arange(4, NUM_ADS, 9)),
        ("tags", "new", np.arange(2, NUM_ADS, 3)),
    ):
        filters = requests.Filters(conditions=(requests.Condition(field=field, any_of=(value,)),))
        _, found = index.search(queries, K, index.eligible(filters))
        assert np.isin(found, rows).all()
        assert recall(found, exact(embeddings, queries, rows, K)) >= 0.97
        _, found = index.searcher.search_exactly(queries, K, index.eligible(filters))
        assert recall(found, exact(embeddings, queries, rows, K)) >= 0.97


@pytest.mark.parametrize("kind", KINDS)
def test_all_eligible_ads_are_returned_if_there_are_fewer_than_k(kind):
    queries = index_fixtures.clustered(5)
    rows = eligible_rows(0.1)
    for always_exact in (None, 0):
        search = filtered_search.FilteredSearch(
            built(kind).searcher.index, always_exact=always_exact
        )
        _, found = search.search(queries, 500, row_set.RowSet.from_rows(rows, NUM_ADS))
        assert [sorted(row) for row in found.tolist()] == [rows.tolist()] * 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_finds_the_same_ads_as_single_queries(kind):
    queries = index_fixtures.clustered(6)
    search = filtered_search.FilteredSearch(built(kind).searcher.index, always_exact=0)
    eligible = row_set.RowSet.from_rows(eligible_rows(0.3), NUM_ADS)
    _, together = search.search(queries, K, eligible)
    alone = np.concatenate([search.search(query[None], K, eligible)[1] for query in queries])
    # Fast scan quantizes its lookup tables per batch, so the last positions may swap.
    assert recall(together, alone) >= (0.95 if kind == "IVFPQ" else 1.0)


def test_the_method_depends_on_the_number_of_eligible_ads_and_of_ads_searched():
    # 2,048 ads in 32 cells, 2 of them probed.
    embeddings = index_fixtures.clustered(2048)
    config = kinds.IndexConfig(kind="IVF", num_lists=32, num_probes=2)
    index = ad_index.build_index(embeddings, config).searcher.index
    search = filtered_search.FilteredSearch(index, always_exact=4)

    def of(count: int) -> row_set.RowSet:
        return row_set.RowSet.from_rows(np.arange(count), 2048)

    # 32 of 2,048 are 1/64, so 8 times as many cells are probed: 16 cells with 1,024 ads. Gathering
    # an ad costs as much as comparing 32, and 32 * 32 = 1,024. With 34 eligible ads, there are
    # still 16 cells, and 1,088 > 1,024.
    assert search.is_exact(of(32), K)
    assert not search.is_exact(of(34), K)
    assert search.is_exact(of(4), K)
    assert filtered_search.FilteredSearch(index).is_exact(of(1024), K)


def test_most_ads_of_a_flat_index_are_not_gathered():
    # With 10,000 ads, a new filter such as a user's frequency cap took 6 ms instead of 0.7 ms, and
    # its copy of the ads displaced others.
    search = filtered_search.FilteredSearch(built("Flat").searcher.index)
    for share, is_gathered in ((1.0, False), (0.5, False), (1 / 40, True)):
        eligible = row_set.RowSet.from_rows(eligible_rows(share, seed=1), NUM_ADS)
        assert search.is_exact(eligible, K) == is_gathered
        search.search(index_fixtures.clustered(1), K, eligible)
        assert (eligible in search._kept) == is_gathered


def test_vectors_are_gathered_for_frequent_filters():
    embeddings, queries = index_fixtures.clustered(2048), index_fixtures.clustered(1)
    config = kinds.IndexConfig(kind="IVF", num_lists=32, num_probes=2)
    index = ad_index.build_index(embeddings, config).searcher.index
    search = filtered_search.FilteredSearch(index, always_exact=0)
    # With 128 of 2,048, 4 times as many cells are probed: 512 ads. Searching a gathered ad costs as
    # much as comparing 4, and 128 * 4 = 512. With 512, 2 times as many cells are probed: 256 ads,
    # so gathering would pay for up to 64.
    often, many = (row_set.RowSet.from_rows(np.arange(n), 2048) for n in (128, 512))
    for eligible, is_gathered in ((often, True), (many, False)):
        for _ in range(2):
            search.search(queries, K, eligible)
        assert not search.is_exact(eligible, K)
        _, found = search.search(queries, K, eligible)
        assert search.is_exact(eligible, K) == is_gathered
    rows = np.arange(128)
    _, found = search.search(queries, K, often)
    assert recall(found, exact(embeddings, queries, rows, K)) == 1.0


@pytest.mark.parametrize(("name", "limit"), [("_MAX_KEPT_BYTES", 84_000), ("_MAX_KEPT", 2)])
def test_gathered_vectors_are_cached_within_a_limit(monkeypatch, name, limit):
    queries = index_fixtures.clustered(2)
    # 300 ads of 32 float32 and a row number take 40,800 bytes, and the bitmap 376: two filters fit,
    # and a third evicts the oldest.
    monkeypatch.setattr(filtered_search, name, limit)
    search = filtered_search.FilteredSearch(built("Flat").searcher.index, always_exact=NUM_ADS)
    filters = [row_set.RowSet.from_rows(eligible_rows(0.1, seed), NUM_ADS) for seed in range(3)]
    first = [search.search(queries, K, eligible)[1] for eligible in filters]
    kept = list(search._kept)
    assert kept == filters[1:]
    for eligible, rows in zip(filters, first, strict=True):
        np.testing.assert_array_equal(search.search(queries, K, eligible)[1], rows)


def test_filtered_searches_are_thread_safe():
    embeddings, queries = index_fixtures.clustered(NUM_ADS), index_fixtures.clustered(40)
    index = built("IVF").searcher.index
    search = filtered_search.FilteredSearch(index)
    rows = [eligible_rows(0.05, seed) for seed in range(8)]
    sets = [row_set.RowSet.from_rows(r, NUM_ADS) for r in rows]

    def find(number: int) -> np.ndarray:
        return search.search(queries[number : number + 1], K, sets[number % 8])[1]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(find, range(40)))
    for number, got in enumerate(found):
        wanted = exact(embeddings, queries[number : number + 1], rows[number % 8], K)
        assert set(got[0].tolist()) == set(wanted[0].tolist())


@pytest.mark.parametrize("factory", ["IVF16,SQ8", "HNSW16,SQ8", "SQ8", "PCA16,IVF16,Flat"])
def test_other_faiss_indexes_return_only_eligible_ads(factory):
    embeddings, queries = index_fixtures.clustered(NUM_ADS), index_fixtures.clustered(5)
    index = faiss.index_factory(32, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(embeddings)
    index.add(embeddings)
    for share in (0.5, 0.02):
        rows = eligible_rows(share)
        for always_exact in (None, 0):
            search = filtered_search.FilteredSearch(index, always_exact=always_exact)
            _, found = search.search(queries, K, row_set.RowSet.from_rows(rows, NUM_ADS))
            assert found.shape == (5, K)
            assert np.isin(found, rows).all()
