"""The transformed space of the cells and codes of an IVFPQ index."""

import faiss
import numpy as np
import pytest

from serving.index import exact_search, index_build, ivfpq, ivfpq_space, kinds, tuning

pytestmark = pytest.mark.slow

DIMENSION = 32


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def in_a_cone(num_rows, seed):
    """Returns ads around one direction. Queries lie in the first 4 of the 32 dimensions."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(num_rows, DIMENSION))
    vectors[:, 0] += 8
    return unit(vectors)


def narrow(num_queries, seed):
    vectors = np.random.default_rng(seed).normal(size=(num_queries, DIMENSION))
    vectors[:, 4:] *= 0.05
    return unit(vectors)


def wide(num_queries, seed):
    return unit(np.random.default_rng(seed).normal(size=(num_queries, DIMENSION)))


def parameters():
    chosen = faiss.ClusteringParameters()
    chosen.niter = 10
    return chosen


def test_weights_by_hand():
    # E[q qᵀ] of unit queries along the first axis: 1 there and 0 elsewhere; its mean is 1 / 4.
    queries = np.zeros((40, 4), np.float32)
    queries[:, 0] = np.tile([1, -1], 20)
    ridge = 3.0
    expected = np.sqrt([(4 + ridge) / (1 + ridge), *3 * [ridge / (1 + ridge)]])
    np.testing.assert_allclose(ivfpq_space.weighted(queries), np.diag(expected), atol=1e-6)


def test_weights_preserve_inner_products():
    ads, queries = in_a_cone(50, seed=1), narrow(20, seed=2)
    matrix = ivfpq_space.weighted(queries)
    moved = (queries @ ivfpq_space.counterpart(matrix).T) @ (ads @ matrix.T).T
    np.testing.assert_allclose(moved, queries @ ads.T, atol=1e-5)


def test_weights_are_used_only_if_they_improve_recall(script):
    ads = in_a_cone(20_000, seed=1)
    assert ivfpq_space.weights(ads, narrow(200, seed=2), parameters()) is not None
    # Queries are like ads of the same topics and campaigns: these ads do not differ in the
    # directions in which queries vary the most.
    space = script("workload.tower_embeddings").Space.drawn(64)
    alike = next(space.chunks(20_000))
    assert ivfpq_space.weights(alike, space.queries(200), parameters()) is None
    # Too few queries, or none.
    assert ivfpq_space.weights(ads, narrow(31, seed=2), parameters()) is None
    assert ivfpq_space.weights(ads, None, parameters()) is None


def test_zero_queries_do_not_fail():
    matrix = ivfpq_space.weighted(np.zeros((40, 4), np.float32))
    assert np.isfinite(ivfpq_space.counterpart(matrix)).all()


def test_a_rotation_preserves_lengths_and_reduces_the_error_of_codes():
    rng = np.random.default_rng(3)
    # Nearly all variance is in 4 of 32 dimensions, which are covered by 2 of the 16 codes.
    scales = np.where(np.arange(DIMENSION) < 4, 1, 0.05)
    residuals = (rng.normal(size=(20_000, DIMENSION)) * scales).astype(np.float32)
    # With a single cell at the origin, residuals are the ads themselves.
    rotation = ivfpq_space.rotation(residuals, np.zeros((1, DIMENSION), np.float32), 16)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(DIMENSION), atol=1e-4)

    def lost(vectors):
        quantizer = faiss.ProductQuantizer(DIMENSION, 16, 4)
        quantizer.train(vectors)
        return ((quantizer.decode(quantizer.compute_codes(vectors)) - vectors) ** 2).sum()

    assert lost(np.ascontiguousarray(residuals @ rotation.T)) < 0.5 * lost(residuals)


@pytest.fixture(scope="module")
def index():
    config = kinds.IndexConfig(kind="IVFPQ", refine="RFlat", num_lists=64)
    built, _, build = index_build.build(in_a_cone(8_000, seed=1), config, narrow(256, seed=2))
    assert build["weighted_by_queries"]
    return built


def test_weights_reduce_the_number_of_cells_to_probe(index):
    ads, queries = in_a_cone(8_000, seed=1), narrow(100, seed=9)
    wanted = exact_search.exact_rows([ads], queries, 100)
    config = kinds.IndexConfig(kind="IVFPQ", refine="RFlat", num_lists=64)
    plain, _, build = index_build.build(ads, config)
    assert not build["weighted_by_queries"]
    found = []
    for built in (index, plain):
        faiss.extract_index_ivf(built).nprobe = 4
        rows = built.search(queries, 100)[1]
        found.append(tuning.recall_of_rows(rows, wanted).mean())
    assert found[0] > found[1] + 0.1


def test_ads_are_assigned_to_the_nearest_centroids(index):
    ads = in_a_cone(8_000, seed=1)
    ivf, matrix = ivfpq.first_stage(index)
    # The inverse transpose of the queries' matrix is the ads' matrix.
    moved = ads @ np.linalg.inv(matrix)
    centroids = ivf.quantizer.reconstruct_n(0, 64)
    nearest = ((moved[:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1)
    sizes = [ivf.invlists.list_size(cell) for cell in range(64)]
    # Because of rounding, a few ads between two cells may be in the other one.
    assert np.abs(np.bincount(nearest, minlength=64) - sizes).sum() <= 8


def test_plain_faiss_reads_and_searches_the_index(index, tmp_path):
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    again = faiss.read_index(str(tmp_path / "index.faiss"))
    faiss.extract_index_ivf(again).nprobe = 64
    again.k_factor = 4.0
    queries, ads = narrow(20, seed=5), in_a_cone(8_000, seed=1)
    scores, rows = again.search(queries, 50)
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ ads.T, rows, axis=1), atol=1e-5)
    wanted = exact_search.exact_rows([ads], queries, 50)
    assert tuning.recall_of_rows(rows, wanted).mean() > 0.95
