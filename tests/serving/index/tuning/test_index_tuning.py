import dataclasses
import itertools
import json

import faiss
import numpy as np
import pytest

from serving.index import ad_index, exact_search, index_build
from serving.index import kinds as index_kinds
from serving.index.tuning import index_choice, index_recall, index_trials, search_cost

pytestmark = pytest.mark.slow

CONFIG = index_kinds.IndexConfig(num_candidates=20, latency_budget_ms=None)


def clustered(num_rows, seed=0, dimension=16):
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(30, dimension))
    points = centers[rng.integers(0, 30, num_rows)] + 0.5 * rng.normal(size=(num_rows, dimension))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def trial(recall, distances, megabytes, kind="IVFPQ", recall_error=0.0, p99_ms=None):
    config = dataclasses.replace(CONFIG, kind=kind)
    name = f"{recall} {distances} {megabytes}"
    return index_trials.Trial(
        name, config, recall, recall_error, distances, megabytes, 1.0, 100, p99_ms, p99_ms
    )


def targets(**options):
    return dataclasses.replace(CONFIG, target_recall=0.9, **options)


def test_the_least_work_that_reaches_the_recall_is_chosen():
    trials = [trial(0.95, 3, 10), trial(0.91, 2, 10), trial(0.89, 1, 10)]
    chosen, verdict = index_choice.choose(trials, targets())
    assert chosen is trials[1]
    assert "meet the targets" in verdict


def test_recall_must_be_reached_by_more_than_its_standard_error():
    trials = [trial(0.95, 3, 10, recall_error=0.01), trial(0.905, 2, 10, recall_error=0.01)]
    assert index_choice.choose(trials, targets())[0] is trials[0]


def test_exact_search_is_chosen_if_it_is_fast_enough():
    trials = [trial(1.0, 9, 10, kind="Flat", p99_ms=3), trial(0.95, 1, 10, p99_ms=1)]
    assert index_choice.choose(trials, targets(latency_budget_ms=3.0))[0] is trials[0]
    assert index_choice.choose(trials, targets(latency_budget_ms=2.0))[0] is trials[1]


def test_the_least_work_is_chosen_if_none_meets_the_latency_budget():
    # On this busy machine the one with less work was timed slower.
    trials = [
        trial(0.95, 3, 10, p99_ms=4),
        trial(0.92, 2, 10, p99_ms=5),
        trial(0.5, 1, 10, p99_ms=0.1),
    ]
    chosen, verdict = index_choice.choose(trials, targets(latency_budget_ms=1.0))
    assert chosen is trials[1]
    assert verdict.startswith("no index reaches recall 0.9 within 1 ms")


def test_the_highest_recall_is_chosen_if_none_reaches_the_target():
    trials = [trial(0.7, 1, 10), trial(0.8, 2, 10)]
    chosen, verdict = index_choice.choose(trials, targets())
    assert chosen is trials[1]
    assert verdict.startswith("no index reaches recall 0.9")


def test_the_memory_limit_takes_precedence():
    trials = [trial(0.95, 1, 20), trial(0.8, 2, 10)]
    assert index_choice.choose(trials, targets(memory_limit_mb=15.0))[0] is trials[1]
    chosen, verdict = index_choice.choose(trials, targets(memory_limit_mb=5.0))
    assert chosen is trials[1]
    assert verdict.startswith("no index is within 5 MB")


def test_the_pareto_front_omits_dominated_trials():
    best, beaten, smaller = trial(0.9, 1, 10), trial(0.9, 2, 10), trial(0.8, 2, 5)
    assert index_choice.pareto_front([best, beaten, smaller]) == [smaller, best]


def test_the_choice_is_measured_with_held_out_queries():
    ads, queries = clustered(3000), clustered(61, seed=1)
    tried = [dataclasses.replace(CONFIG, kind="IVFPQ")]
    choice = index_choice.tune_index(ads, queries, CONFIG, tried)
    # 61 queries: 0, 2, … 60 choose, 1, 3, … 59 are held out.
    assert choice.chosen.num_queries == 31
    assert choice.held_out.num_queries == 30
    recall = index_recall.recall_against_exact(choice.structure.searcher, ads, queries[1::2], 20)
    assert choice.held_out.recall == pytest.approx(recall)
    assert choice.held_out.recall > 0.95
    assert json.loads(json.dumps(choice.summary()))["held_out"]["recall"] == pytest.approx(recall)


def test_only_the_best_setting_of_an_index_is_timed_and_the_choice_is_deterministic():
    ads, queries = clustered(3000), clustered(40, seed=1)
    tried = [dataclasses.replace(CONFIG, kind=kind) for kind in ("IVF", "IVFPQ")]
    first, second = (index_choice.tune_index(ads, queries, CONFIG, tried) for _ in range(2))
    timed = [t for t in first.trials if t.p99_ms is not None]
    assert [t.config.kind for t in timed] == ["IVF", "IVFPQ"]
    assert first.chosen in timed
    assert first.held_out.p50_ms <= first.held_out.p99_ms
    assert first.chosen.config == second.chosen.config
    assert [t.distances for t in first.trials] == [t.distances for t in second.trials]


def test_the_work_of_exact_search_and_of_cells_is_counted():
    ads, queries = clustered(2048), clustered(20, seed=1)
    flat = index_choice.build(ads, dataclasses.replace(CONFIG, kind="Flat")).searcher
    assert search_cost.count_distances(flat, queries, 20) == 2048
    config = dataclasses.replace(CONFIG, kind="IVF", num_lists=16, num_probes=16)
    cells = index_choice.build(ads, config)
    # 16 centroids, and the vectors of all cells.
    assert search_cost.count_distances(cells.searcher, queries, 20) == 16 + 2048
    cells.set(dataclasses.replace(config, num_probes=1))
    faiss.cvar.indexIVF_stats.reset()
    cells.searcher.index.search(queries, 20)
    counted = search_cost.count_distances(cells.searcher, queries, 20)
    assert counted == pytest.approx(16 + faiss.cvar.indexIVF_stats.ndis / 20)


def test_the_work_of_codes_includes_the_scan_and_the_rescored_ads():
    ads, queries = clustered(2048), clustered(20, seed=1)
    config = dataclasses.replace(CONFIG, kind="IVFPQ", num_lists=16, num_probes=16)
    codes = index_choice.build(ads, dataclasses.replace(config, refine_factor=50.0))
    # The matrix [16, 16], 16 centroids, 2,048 codes of 16 / 2 parts, and 50 · 20 vectors.
    expected = 16 + 16 + 0.12 * 2048 + 3.3 * 1000
    assert search_cost.count_distances(codes.searcher, queries, 20) == pytest.approx(expected)


def test_timing_ends_at_its_limit_but_measures_at_least_ten_queries():
    ads, queries = clustered(100), clustered(30, seed=1)
    flat = index_choice.build(ads, dataclasses.replace(CONFIG, kind="Flat")).searcher

    def timed(max_seconds):
        # The clock is read before and after each query, so a query takes a second.
        return index_recall.time_alone(
            flat, queries, 5, max_seconds, clock=map(float, itertools.count()).__next__
        )

    assert timed(1e9).tolist() == [[1_000.0] * 30] * 15
    # The clock is at 0 when it starts, and at 1 + 2 q before query q: 40 queries until 80.
    assert np.isfinite(timed(80.5)).sum(axis=1).tolist() == [30, 10, *[0] * 13]
    assert np.isfinite(timed(0.0)).sum(axis=1).tolist() == [10, *[0] * 14]


def test_the_chosen_config_rebuilds_the_same_search():
    ads, queries = clustered(3000), clustered(40, seed=1)
    choice = index_choice.tune_index(
        ads, queries, CONFIG, [dataclasses.replace(CONFIG, kind="IVFPQ")]
    )
    again = ad_index.build_index(ads, choice.chosen.config).searcher
    assert again.search_parameters() == choice.structure.searcher.search_parameters()
    assert again.search(queries, 20)[1].tolist() == choice.structure.searcher.search(
        queries, 20
    )[1].tolist()  # fmt: skip


def test_auto_is_exact_search_for_small_catalogs_without_any_measurement():
    built = ad_index.build_index(clustered(500), tuning_queries=clustered(20, seed=1))
    assert built.manifest_index(1.0)["build"] == {"factory": "Flat"}


def test_auto_records_the_reason_for_its_choice():
    ads, queries = clustered(10_001), clustered(20, seed=1)
    config = dataclasses.replace(CONFIG, latency_budget_ms=1e6)
    tuning = ad_index.build_index(ads, config, tuning_queries=queries).build_parameters["tuning"]
    assert tuning["verdict"] == "exact search meets the targets"
    assert tuning["trials"] == 1
    assert tuning["held_out"]["recall"] == 1.0


def test_auto_tries_cells_and_codes_for_larger_catalogs():
    kinds = [(c.kind, c.storage) for c in index_choice.structures(CONFIG, 50_000)]
    assert kinds == [("Flat", "float"), ("IVF", "SQ8"), ("IVFPQ", "float")]
    large = [(c.kind, c.refine) for c in index_choice.structures(CONFIG, 1_000_000)]
    assert large == [("IVFPQ", "SQ8"), ("IVFPQ", "SQbf16")]


def test_tuning_needs_two_queries():
    with pytest.raises(ValueError, match="at least 2 query embeddings, got 1"):
        index_choice.tune_index(clustered(50), clustered(1), CONFIG)


@pytest.mark.parametrize("kind", ["IVF", "IVFPQ", "HNSW"])
def test_the_same_seed_gives_the_same_bytes(kind):
    config, ads = index_kinds.IndexConfig(kind=kind, storage="SQ8"), clustered(4_000)
    first, second = (index_build.build(ads, config)[0] for _ in range(2))
    assert faiss.serialize_index(first).tobytes() == faiss.serialize_index(second).tobytes()
    other = index_build.build(ads, dataclasses.replace(config, seed=1))[0]
    if kind != "HNSW":
        assert faiss.serialize_index(other).tobytes() != faiss.serialize_index(first).tobytes()


def test_adding_in_chunks_gives_the_same_index():
    ads = clustered(5000)
    config = index_kinds.IndexConfig(kind="IVFPQ")
    whole = index_build.build(ads, config)[0]
    index, _, _ = index_build.train_index(ads, config, len(ads))
    for start in range(0, 5000, 1700):
        index_build.add_vectors(index, ads[start : start + 1700])
    assert faiss.serialize_index(index).tobytes() == faiss.serialize_index(whole).tobytes()


def test_the_size_is_the_size_of_the_saved_file(tmp_path):
    index = index_build.build(clustered(3000), index_kinds.IndexConfig(kind="IVFPQ"))[0]
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    size = (tmp_path / "index.faiss").stat().st_size
    assert index_build.megabytes(index) == pytest.approx(size / 1e6)


def test_exact_rows_in_chunks_equal_a_full_sort():
    ads, queries = clustered(700), clustered(5, seed=2)
    expected = np.argsort(-(queries @ ads.T), axis=1)[:, :20]
    chunks = (ads[start : start + 64] for start in range(0, 700, 64))
    assert exact_search.exact_rows(chunks, queries, 20).tolist() == expected.tolist()


def test_a_missing_gpu_is_an_error():
    if getattr(faiss, "get_num_gpus", lambda: 0)():
        pytest.skip("there is a GPU")
    config = index_kinds.IndexConfig(kind="IVF", use_gpu=True)
    with pytest.raises(ValueError, match="use_gpu: expected a faiss-gpu build and a GPU"):
        index_build.build(clustered(2000), config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"storage": "SQ4"}, "storage: expected one of"),
        ({"refine": "SQ6"}, "refine: expected one of"),
        ({"latency_budget_ms": 0.0}, "latency_budget_ms: expected a positive number"),
        ({"memory_limit_mb": -1.0}, "memory_limit_mb: expected a positive number"),
        ({"target_recall": 1.5}, "target_recall: expected"),
        ({"refine_factor": 0.5}, "refine_factor: expected a number of at least 1"),
        ({"refine_factor": float("nan")}, "refine_factor: expected a .* finite, got nan"),
        ({"refine_factor": float("inf")}, "refine_factor: expected a .* finite, got inf"),
        *(
            ({"num_neighbors": number}, f"num_neighbors: expected an integer .*, got {number}")
            for number in (-1, 0, 1, 2**31)
        ),
        ({"search_width": 2**31}, "search_width: expected a positive integer below 2.31, got 2147"),
        ({"num_candidates": 2**31}, "num_candidates: expected a positive integer below 2.31"),
        ({"num_probes": 0}, "num_probes: expected a positive integer below 2.31, got 0"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        index_kinds.IndexConfig(**options)
