"""The index of a catalog: its search parameters, and factory strings of FAISS."""

import dataclasses

import faiss
import index_fixtures
import numpy as np
import pytest

from serving import index
from serving.index import ad_index, exact_search, index_build, kinds, search, tuning

CONFIG = kinds.IndexConfig(kind="IVFPQ", num_candidates=20, target_recall=0.9)


def measured(searcher, ads, queries, config):
    exact = exact_search.exact_rows([ads], queries, config.num_candidates)
    return tuning.recall_of_rows(searcher.search(queries, exact.shape[1])[1], exact)


@pytest.mark.parametrize("kind", ["IVF", "IVFPQ", "HNSW"])
def test_the_least_work_that_reaches_the_recall_is_set(kind):
    ads, queries = np.split(index_fixtures.clustered(4_050), [4_000])
    config = dataclasses.replace(CONFIG, kind=kind, num_lists=64)
    searcher = search.Searcher(index_build.build(ads, config)[0])
    tuning.tune(searcher, ads, queries, config)
    chosen = searcher.search_parameters()
    tried = tuning.settings(searcher, config)
    for setting in tried[: tried.index(chosen) + 1]:
        searcher.set_search_parameters(setting)
        recalls = measured(searcher, ads, queries, config)
        lower = recalls.mean() - recalls.std() / np.sqrt(50)
        assert (lower >= 0.9 or recalls.mean() == 1) == (setting == chosen)


def test_the_highest_recall_is_set_if_none_reaches_the_target():
    ads, queries = np.split(index_fixtures.clustered(4_050), [4_000])
    config = dataclasses.replace(CONFIG, kind="IVF64,SQ4", target_recall=1.0)
    searcher = search.Searcher(index_build.build(ads, config)[0])
    tuning.tune(searcher, ads, queries, config)
    found = measured(searcher, ads, queries, config).mean()
    assert found < 1
    for setting in tuning.settings(searcher, config):
        searcher.set_search_parameters(setting)
        assert measured(searcher, ads, queries, config).mean() < found + 5e-4


def test_a_minimum_of_probed_cells_is_kept():
    ads = index_fixtures.clustered(4_000)
    config = dataclasses.replace(CONFIG, num_lists=64, num_probes=40)
    searcher = search.Searcher(index_build.build(ads, config)[0])
    assert {setting["num_probes"] for setting in tuning.settings(searcher, config)} == {40, 64}


def test_auto_is_exact_search_for_small_catalogs():
    built = ad_index.build_index(index_fixtures.clustered(500))
    assert built.manifest_index(1.0)["build"] == {"factory": "Flat"}


@pytest.mark.parametrize("kind", ["IVF", "IVFPQ", "HNSW"])
def test_the_same_seed_gives_the_same_bytes(kind):
    config, ads = kinds.IndexConfig(kind=kind), index_fixtures.clustered(4_000)
    first, second = (index_build.build(ads, config)[0] for _ in range(2))
    assert faiss.serialize_index(first).tobytes() == faiss.serialize_index(second).tobytes()
    other = index_build.build(ads, dataclasses.replace(config, seed=1))[0]
    if kind != "HNSW":
        assert faiss.serialize_index(other).tobytes() != faiss.serialize_index(first).tobytes()


def test_adding_in_chunks_gives_the_same_index():
    ads = index_fixtures.clustered(5000)
    config = kinds.IndexConfig(kind="IVFPQ")
    whole = index_build.build(ads, config)[0]
    built, _, _ = index_build.train_index(ads, config, len(ads))
    for start in range(0, 5000, 1700):
        index_build.add_vectors(built, ads[start : start + 1700])
    assert faiss.serialize_index(built).tobytes() == faiss.serialize_index(whole).tobytes()


def test_exact_rows_in_chunks_equal_a_full_sort():
    ads, queries = np.split(index_fixtures.clustered(705), [700])
    expected = np.argsort(-(queries @ ads.T), axis=1)[:, :20]
    chunks = (ads[start : start + 64] for start in range(0, 700, 64))
    assert exact_search.exact_rows(chunks, queries, 20).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refine": "SQ6"}, "refine: expected one of"),
        ({"target_recall": 1.5}, "target_recall: expected"),
        ({"num_candidates": 2**31}, "num_candidates: expected a positive integer below 2.31"),
        ({"num_probes": 0}, "num_probes: expected a positive integer below 2.31, got 0"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        kinds.IndexConfig(**options)


@pytest.mark.parametrize("factory", ["SQ4", "IVF50,SQ8", "HNSW16,SQ8", "PCA16,Flat"])
def test_a_factory_string_is_built_tuned_saved_and_filtered(factory, tmp_path):
    ads = index_fixtures.clustered(3000)
    config = index.IndexConfig(kind=factory)
    index.check_kind(config, ads.shape[1])
    built = index.build_index(ads, config, tuning_queries=ads[::100])
    entry = built.manifest_index(1.0)
    assert (entry["kind"], entry["build"]) == (factory, {"factory": factory})
    saved = ad_index.AdIndex.open(index_fixtures.save(built, tmp_path), entry)
    assert saved.searcher.kind == factory
    assert index.recall_against_exact(saved, ads, index_fixtures.clustered(60), 500) > 0.6
    allowed = index.RowSet.from_rows(np.arange(0, 3000, 7), 3000)
    _, rows = saved.searcher.search(index_fixtures.clustered(5), 100, allowed)
    assert rows.shape == (5, 100)
    assert not (rows % 7).any()


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("IVF8,PQ7", "which FAISS refuses for 32 dimensions"),
        ("IVF8,PQ16x4fs,RFlat", "which rescores"),
        ("IDMap,Flat", "whose labels are not the rows"),
        ("IVF8,PQ16x4fs", "whose vectors cannot be read from its file"),
    ],
)
def test_a_factory_string_that_cannot_be_served_is_refused_before_long_work(factory, reason):
    config = index.IndexConfig(kind=factory)
    with pytest.raises(ValueError, match=f"expected auto, Flat, .* got .*{reason}"):
        index.check_kind(config, 32)
    with pytest.raises(ValueError, match="such as IVF4096,SQ8"):
        index.build_index(index_fixtures.clustered(1500), config)


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("PQ8x4", "which fails"),
        ("IVF8,FlatDedup", "which fails"),
        ("IVF400,Flat", "which fails .*clusters"),
        ("NSG32,Flat", "which fails"),
        ("PCA8,HNSW16,Flat", "which finds fewer ads than there are"),
        ("IVF64_HNSW2,Flat", "which finds fewer ads than there are"),
    ],
)
def test_an_index_that_cannot_be_built_or_filtered_is_refused(factory, reason):
    num_ads = 100 if factory == "NSG32,Flat" else 300
    config = index.IndexConfig(kind=factory)
    index.check_kind(config, 32)
    with pytest.raises(ValueError, match=f"got '{factory}', {reason}"):
        index.build_index(index_fixtures.clustered(num_ads), config)
