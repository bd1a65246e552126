"""The script that measures the index, at sizes too small to measure speed."""

import json

import numpy as np
import pytest
import scripts_in_forks


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Embeddings of 2,000 ads and 60 queries, as flags."""
    directory = tmp_path_factory.mktemp("embeddings")
    rng = np.random.default_rng(0)
    for name, count in (("ads", 2_000), ("queries", 60)):
        vectors = rng.normal(size=(count, 32)).astype(np.float32)
        np.save(directory / f"{name}.npy", vectors / np.linalg.norm(vectors, axis=1)[:, None])
    return [f"--embeddings={directory / 'ads.npy'}", f"--queries={directory / 'queries.npy'}"]


@pytest.mark.benchmark
def test_the_index_is_measured_next_to_its_peers(files, tmp_path):
    done = scripts_in_forks.run(
        "benchmarks/index.py", *files, "--k=20", "--kind=Flat", "--kind=IVFPQ",
        "--target_recall=0.9", f"--output_dir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["scann"] == "not measured, for lack of --scann_python"
    libraries = {row["library"]: row for row in result["best"]}
    assert set(libraries) == {"faiss", "tensorflow_recommenders"}
    assert libraries["tensorflow_recommenders"]["recall"] == 1.0
    for row in result["best"]:
        assert row["num_ads"] == 2_000
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["batch_queries_per_second"] > 0
    faiss = libraries["faiss"]
    assert faiss["recall"] >= 0.9
    # 2,000 ads of 32 dimensions: at least 4-bit codes and 8-bit vectors, at most floats.
    assert 2_000 * (8 + 32) / 1e6 < faiss["megabytes"] < 1
    assert faiss["load_seconds"] > 0


@pytest.mark.benchmark
def test_an_interpreter_without_scann_is_reported(files, tmp_path):
    missing = tmp_path / "python"
    done = scripts_in_forks.run(
        "benchmarks/index.py", *files, "--k=20", "--kind=Flat", f"--scann_python={missing}",
        f"--output_dir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 1
    assert "--scann_python: expected an interpreter with scann and numpy" in done.stderr


@pytest.mark.benchmark
def test_growth_is_plotted(tmp_path):
    plot = tmp_path / "plots" / "growth.png"
    done = scripts_in_forks.run(
        "benchmarks/index.py", "--sweep=500,1000", "--dimension=16", "--k=10", "--kind=Flat",
        "--num_queries=20", "--nopeers", f"--plot={plot}", f"--output_dir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [r["num_ads"] for r in json.loads(done.stdout.splitlines()[-1])["best"]] == [500, 1000]
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_generated_embeddings_have_the_structure_they_state(script):
    space = script("workload.tower_embeddings").Space.drawn()
    ads = next(space.chunks(20_000))
    queries = space.queries(100)
    np.testing.assert_allclose(np.linalg.norm(ads, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5)
    variances = np.linalg.eigvalsh(np.cov(ads.T))
    assert 20 < variances.sum() ** 2 / (variances**2).sum() < 36
    cosines = queries @ ads.T
    assert abs(cosines.mean()) < 0.05
    assert 0.5 < cosines.max(axis=1).mean() < 0.85


def test_more_generated_ads_begin_with_the_same_ones(script):
    tower_embeddings = script("workload.tower_embeddings")
    space = tower_embeddings.Space.drawn(8, seed=3)
    few = np.concatenate(list(space.chunks(70)))
    more = np.concatenate(list(space.chunks(tower_embeddings.CHUNK + 5)))
    assert more.shape == (tower_embeddings.CHUNK + 5, 8)
    np.testing.assert_array_equal(few, more[:70])
    other = np.concatenate(list(tower_embeddings.Space.drawn(8, seed=4).chunks(70)))
    assert not np.allclose(few, other)


def test_the_best_of_each_library_reaches_the_recall(script):
    best = script("index").best
    rows = [
        {"num_ads": 1, "library": "faiss", "recall": 0.99, "p99_ms": 2.0},
        {"num_ads": 1, "library": "faiss", "recall": 0.98, "p99_ms": 1.0},
        {"num_ads": 1, "library": "faiss", "recall": 0.995, "p99_ms": 1.5},
        {"num_ads": 1, "library": "scann", "recall": 0.9, "p99_ms": 1.0},
        {"num_ads": 2, "library": "faiss", "recall": 1.0, "p99_ms": 9.0},
    ]
    assert best(rows, 0.99) == [rows[2], rows[4]]
