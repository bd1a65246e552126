import dataclasses
import functools
import pathlib

import faiss
import index_fixtures
import numpy as np
import pyarrow as pa
import pytest
import serving_fixtures

from serving import errors
from serving.index import ad_index, kinds, tuning

KINDS = ("Flat", "IVF", "IVFPQ", "HNSW")


@functools.cache
def built(num_ads, **options):
    """Builds an index of `index_fixtures.clustered(num_ads)`. Read only."""
    return ad_index.build_index(index_fixtures.clustered(num_ads), kinds.IndexConfig(**options))


@pytest.mark.parametrize("kind", KINDS)
def test_recall_against_exact_search_is_high_after_saving(kind, tmp_path):
    embeddings = index_fixtures.clustered(3000)
    tuned = ad_index.build_index(
        embeddings, kinds.IndexConfig(kind=kind), tuning_queries=embeddings[::100]
    )
    index = ad_index.AdIndex.open(index_fixtures.save(tuned, tmp_path))
    assert index.searcher.kind == kind
    assert index.searcher.search_parameters() == tuned.searcher.search_parameters()
    recall = tuning.recall_against_exact(index, embeddings, index_fixtures.clustered(60), 500)
    assert recall == 1.0 if kind == "Flat" else recall >= 0.98


def test_exact_scores_and_order_by_hand(tmp_path):
    embeddings = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    index = ad_index.AdIndex.open(index_fixtures.save(ad_index.build_index(embeddings), tmp_path))
    scores, rows = index.search(np.array([[0, 1], [1, 0]], dtype=np.float32), 2)
    # Inner products with (0, 1): 0, 1, 0.8; with (1, 0): 1, 0, 0.6.
    assert rows.tolist() == [[1, 2], [0, 2]]
    assert rows.dtype == np.int64
    np.testing.assert_allclose(scores, [[1.0, 0.8], [1.0, 0.6]], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_ads", [1, 3, 100])
def test_searches_of_tiny_catalogs_return_all_ads(kind, num_ads, tmp_path):
    small = built(num_ads, kind=kind)
    index = ad_index.AdIndex.open(index_fixtures.save(small, tmp_path))
    scores, rows = index.search(index_fixtures.clustered(4), 500)
    assert scores.shape == rows.shape == (4, num_ads)
    assert all(sorted(row) == list(range(num_ads)) for row in rows.tolist())
    if kind in ("IVF", "IVFPQ"):
        assert index.searcher.kind == small.manifest_index(1.0)["kind"] == "Flat"
        assert (
            small.build_parameters["fallback"] == f"{kind} needs at least 1024 ads, got {num_ads}"
        )


@pytest.mark.parametrize("kind", ["IVF", "IVFPQ", "HNSW"])
@pytest.mark.parametrize("k", [500, 2000, 10_000])
def test_narrow_searches_still_return_k_rows(kind, k):
    searcher = built(2000, kind=kind, num_probes=1).searcher
    scores, rows = searcher.search(index_fixtures.clustered(7), k)
    assert rows.shape == (7, min(k, 2000))
    assert (rows >= 0).all()
    assert all(len(set(row)) == len(row) for row in rows.tolist())
    assert np.isfinite(scores).all()
    assert (np.diff(scores, axis=1) <= 0).all()


def test_an_index_tuned_for_large_k_has_high_recall_for_small_k():
    embeddings, queries = np.split(index_fixtures.clustered(6_200, dimension=64), [6_000])
    config = kinds.IndexConfig(kind="IVFPQ", target_recall=0.97)
    index = ad_index.build_index(embeddings, config, tuning_queries=queries[:100]).searcher
    exact = np.argsort(-(queries[100:] @ embeddings.T), axis=1)
    for k in (500, 50, 10):
        found = index.search(queries[100:], k)[1]
        pairs = zip(found, exact[:, :k], strict=True)
        assert np.mean([np.isin(*pair).mean() for pair in pairs]) > 0.9


def test_ads_with_equal_codes_are_all_found():
    # Fast scan omits codes with the minimum score, which are all codes if ads are equal.
    same = np.repeat(np.eye(1, 8, dtype=np.float32), 1200, axis=0)
    line = np.random.default_rng(0).normal(size=(1200, 1)).astype(np.float32)
    for ads in (same, np.zeros((1200, 8), np.float32), line):
        searcher = ad_index.build_index(ads, kinds.IndexConfig(kind="IVFPQ")).searcher
        for queries, k in [(ads[:1], 500), (ads[:3], 500), (ads[:1], 1200), (ads[:3], 1200)]:
            scores, rows = searcher.search(queries, k)
            assert rows.min() >= 0
            assert [len(set(found)) for found in rows.tolist()] == [k] * len(queries)
            assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_finds_the_same_ads_as_single_queries(kind):
    searcher = built(3000, kind=kind).searcher
    queries = index_fixtures.clustered(9)
    _, together = searcher.search(queries, 50)
    alone = [searcher.search(query[None], 50)[1][0] for query in queries]
    assert together.tolist() == np.stack(alone).tolist()


def test_an_l2_index_is_refused(tmp_path):
    index_fixtures.save(ad_index.build_index(index_fixtures.clustered(10)), tmp_path)
    index = faiss.IndexFlatL2(32)
    index.add(index_fixtures.clustered(10))
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    with pytest.raises(errors.BundleError, match="expected an inner-product index"):
        ad_index.AdIndex.open(tmp_path)


def test_files_of_different_length_are_refused(tmp_path):
    small = built(10)
    with pytest.raises(errors.BundleError, match=r"same number .* got \(10, 9, 10\)"):
        index_fixtures.save(small, tmp_path, ad_features=serving_fixtures.ad_features(9))
    index_fixtures.save(small, tmp_path)
    np.save(tmp_path / "ad_features.npy", serving_fixtures.ad_features(9))
    with pytest.raises(errors.BundleError, match=r"got \(10, 9, 10\)"):
        ad_index.AdIndex.open(tmp_path)


def test_a_duplicate_ad_id_is_refused(tmp_path):
    ads = pa.table({ad_index.AD_ID: ["a", "a", "b"]})
    with pytest.raises(errors.BundleError, match="ad_id__ with 3 distinct values"):
        index_fixtures.save(ad_index.build_index(index_fixtures.clustered(3)), tmp_path, ads=ads)


def test_an_unreadable_index_is_named(tmp_path):
    index_fixtures.save(ad_index.build_index(index_fixtures.clustered(3)), tmp_path)
    (tmp_path / "index.faiss").write_bytes(b"no index")
    with pytest.raises(errors.BundleError, match="cannot be opened"):
        ad_index.AdIndex.open(tmp_path)


def test_an_empty_features_file_is_named(tmp_path):
    index_fixtures.save(ad_index.build_index(index_fixtures.clustered(3)), tmp_path)
    (tmp_path / "ad_features.npy").write_bytes(b"")
    with pytest.raises(errors.BundleError, match="cannot be opened"):
        ad_index.AdIndex.open(tmp_path)


def test_bad_embeddings_are_refused():
    with pytest.raises(errors.BundleError, match="N ≥ 1"):
        ad_index.build_index(np.zeros((0, 4), np.float32))
    embeddings = index_fixtures.clustered(5)
    embeddings[3, 1] = np.nan
    with pytest.raises(errors.BundleError, match="Ad row 3 has a non-finite embedding"):
        ad_index.build_index(embeddings)


def test_config_errors_name_the_field():
    with pytest.raises(ValueError, match="num_probes: expected a positive integer"):
        kinds.IndexConfig(num_probes=0)


def test_k_must_be_positive():
    with pytest.raises(ValueError, match="k: expected a positive integer"):
        ad_index.build_index(index_fixtures.clustered(3)).searcher.search(
            index_fixtures.clustered(1), 0
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_non_finite_query_is_refused(kind):
    searcher = built(3000, kind=kind).searcher
    with pytest.raises(errors.BundleError, match="finite query embeddings"):
        searcher.search(np.full((1, 32), np.nan, np.float32), 5)


def test_features_and_fields_are_in_catalog_order(tiny_bundle):
    index = tiny_bundle.ad_index
    rows = np.array([[0, 299], [7, 7]])
    expected = serving_fixtures.ad_features()[rows]
    assert index.features(rows).tolist() == expected.tolist()
    assert index.features(rows).dtype == np.int32
    assert index.ad_ids(np.array([299, 0])) == ["ad-299", "ad-0"]
    assert [ad.fields for ad in index.listed(np.array([7, 11]))] == [
        # 7 % 9, 7 % 4; every seventh price is NaN, which JSON lacks. 7 % 3 = 1, 11 % 3 = 2.
        {"advertiser": "advertiser-7", "category": "c3", "price": None, "tags": []},
        {"advertiser": "advertiser-2", "category": "c3", "price": 5.5, "tags": ["new", "t11"]},
    ]


def test_default_parameters_at_a_million_ads():
    kind, build = kinds.resolve(kinds.IndexConfig(), 1_000_000, 256)
    assert kind == "IVFPQ"
    # The power of two below 4 * sqrt(1e6) = 4000, and one code per two dimensions.
    assert build["factory"] == "OPQ128,IVF2048,PQ128x4fs,Refine(SQ8)"


def test_a_config_survives_conversion_to_a_dict():
    config = kinds.IndexConfig(kind="HNSW")
    assert kinds.IndexConfig(**dataclasses.asdict(config)) == config


@pytest.mark.parametrize(
    "options",
    [
        *({"kind": kind} for kind in KINDS),
        {"kind": "IVF64,SQ8"},
        {"kind": "HNSW32,SQ8"},
    ],
    ids=str,
)
def test_an_opened_index_is_memory_mapped_and_finds_the_same_ads(options, tmp_path):
    saved = built(3000, **options)
    index = ad_index.AdIndex.open(index_fixtures.save(saved, tmp_path))
    queries = index_fixtures.clustered(9)
    expected = saved.searcher.search(queries, 100)
    found = index.search(queries, 100)
    assert found[1].tolist() == expected[1].tolist()
    np.testing.assert_array_equal(found[0], expected[0])
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists():
        assert str(tmp_path / "index.faiss") in maps.read_text()


def test_a_truncated_index_file_is_refused(tmp_path):
    index_fixtures.save(built(3000, kind="IVFPQ"), tmp_path)
    path = tmp_path / "index.faiss"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(errors.BundleError, match="cannot be opened"):
        ad_index.AdIndex.open(tmp_path)
