import concurrent.futures
import functools

import faiss
import numpy as np
import pytest

from serving.index import index_build, kinds, refinement, search

pytestmark = pytest.mark.slow


def unit(num_rows, dimension=32, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(num_rows, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@functools.cache
def serialized(refine):
    config = kinds.IndexConfig(kind="IVFPQ", refine=refine, num_probes=64)
    return faiss.serialize_index(index_build.build(unit(2000), config)[0])


def refined(refine):
    """Returns a new copy of the index of `unit(2000)`."""
    return faiss.deserialize_index(serialized(refine))


@pytest.mark.parametrize("refine", kinds.REFINEMENTS)
def test_the_best_codes_are_ordered_by_the_stored_vectors(refine):
    index = refined(refine)
    index.k_factor = 3.0
    queries = unit(20, seed=1)
    scores, rows = refinement.Refinement(index).search(queries, 200)
    _, candidates = index.base_index.search(queries, 600)
    vectors = faiss.downcast_index(index.refine_index).reconstruct_n(0, 2000)
    for query, found, query_rows, query_scores in zip(
        queries, candidates, rows, scores, strict=True
    ):
        expected = vectors[found] @ query
        order = np.argsort(-expected)[:200]
        np.testing.assert_allclose(query_scores, expected[order], atol=2e-6)
        # Sums have another order, so a few ads with almost the same score swap positions.
        assert (query_rows == found[order]).mean() >= 0.99


def test_scores_of_stored_floats_are_the_inner_products():
    index = refined("RFlat")
    ads, query = unit(2000), unit(1, seed=3)[0]
    rows = np.array([5, 1999, 5, 0])
    scores = refinement.Refinement(index).scores(query, rows)
    np.testing.assert_allclose(scores, ads[rows] @ query, atol=1e-6)


@pytest.mark.parametrize("refine", kinds.REFINEMENTS)
def test_unaligned_vectors_of_a_mapped_file_are_not_copied(refine, tmp_path):
    index = refined(refine)
    query, rows = unit(1, seed=3)[0], np.arange(0, 2000, 7)
    expected = refinement.Refinement(index).scores(query, rows)
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    scorer = refinement.Refinement(search.read_index(tmp_path / "index.faiss"))
    # A view of the file: NumPy would copy an unaligned array in each gather.
    assert not scorer._codes.flags.owndata
    assert scorer._codes.flags.aligned
    np.testing.assert_array_equal(scorer.scores(query, rows), expected)


def test_scores_do_not_depend_on_k():
    # More rows than a block of 2**17 / 32 floats = 4,096 rows.
    scorer = refinement.Refinement(refined("SQ8"))
    query, rows = unit(1, seed=4)[0], np.tile(np.arange(2000), 5)
    together = scorer.scores(query, rows)
    np.testing.assert_allclose(together[:2000], together[2000:4000], atol=1e-6)
    np.testing.assert_allclose(together[7], scorer.scores(query, rows[7:8])[0], atol=1e-6)


def test_searches_are_thread_safe():
    scorer = refinement.Refinement(refined("SQ8"))
    queries = unit(200, seed=5)
    alone = [scorer.search(query[None], 50)[1][0].tolist() for query in queries]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda q: scorer.search(q[None], 50)[1][0].tolist(), queries))
    assert together == alone


def test_missing_rows_are_padded_with_minus_one():
    index = refined("SQ8")
    faiss.extract_index_ivf(index).nprobe = 1
    scores, rows = refinement.Refinement(index).search(unit(3, seed=6), 1000)
    assert (rows[:, -1] == -1).all()
    assert np.isneginf(scores[rows == -1]).all()
    assert np.isfinite(scores[rows >= 0]).all()


def test_several_threads_find_the_same_ads_as_one():
    index = refined("SQ8")
    queries = unit(31, seed=7)
    one = search.Searcher(index, 1).search(queries, 50)
    two = search.Searcher(index, 2).search(queries, 50)
    assert one[1].tolist() == two[1].tolist()
