"""The benchmark of serving: its load, its summaries, and its generated catalog."""

import json
import shutil

import numpy as np
import pytest
import serving_fixtures

from serving import export, index, manifest
from serving.config import OrchestratorConfig

pytestmark = pytest.mark.process


@pytest.fixture
def load(script):
    return script("workload.poisson_load")


def target_of(load, url, *bodies):
    return load.Target(url, [json.dumps(body).encode() for body in bodies])


def test_requests_one_after_another_keep_their_stages(load, service_url):
    target = target_of(load, service_url, {"k": 1}, {"k": 2})
    found = load.one_by_one(target, count=7, warm_up=2)
    assert (len(found["milliseconds"]), found["failed"], found["degraded"]) == (7, 0, 0)
    for milliseconds, stages in zip(found["milliseconds"], found["stage_ms"], strict=True):
        assert milliseconds > stages["total"] > stages["ranker"] > 0


def test_an_open_load_sends_at_random_times_and_counts_the_outcomes(
    load, tiny_bundle, ranker_address
):
    config = OrchestratorConfig(max_in_flight=1, default_deadline_ms=30_000)
    service = serving_fixtures.make_orchestrator(tiny_bundle, ranker_address, config)
    with serving_fixtures.serve_app(service) as url:
        bodies = [{"k": 1}, {"deadline_ms": 1}, {"k": 0}]
        found = load.poisson(target_of(load, url, *bodies), rate=100.0, seconds=1.0, seed=3)
        at_once = load.poisson(target_of(load, url, {"k": 1}), rate=400.0, seconds=0.25, seed=3)
    # The count of a Poisson process of 100: within four deviations.
    assert 60 <= found["sent"] <= 140
    # Every third one fails with 400, unless it is refused with 429 first.
    assert found["failed"] >= found["sent"] // 3 - found["refused"]
    assert found["degraded"] > 0
    answered = len(found["milliseconds"])
    assert answered + found["failed"] + found["refused"] == found["sent"]
    assert at_once["refused"] > 0
    unreachable = target_of(load, f"http://127.0.0.1:{serving_fixtures.free_port()}", {})
    found = load.poisson(unreachable, rate=20.0, seconds=0.5, seed=1)
    assert found["failed"] == found["sent"] > 0


def test_the_summary_has_the_overhead_and_the_highest_sustained_rate(script):
    benchmark = script("http_service")
    stages = {"query_tower": 1.0, "index": 2.0, "features": 0.5, "ranker": 5.0, "total": 9.0}
    single = {"milliseconds": [10.0, 10.0], "stage_ms": [stages] * 2, "failed": 0, "degraded": 0}

    def rate(per_second, milliseconds, **changes):
        counts = {"sent": 200, "failed": 0, "refused": 0, "degraded": 0, **changes}
        return {"rate": per_second, **counts, "milliseconds": [milliseconds] * 200}

    rates = [
        rate(20.0, 12.0),
        rate(40.0, 99.0, degraded=2),
        rate(60.0, 101.0),
        rate(80.0, 12.0, degraded=3),
        rate(90.0, 12.0, failed=1),
        rate(95.0, 12.0, refused=1),
    ]
    found = benchmark.summary(single, rates)
    assert found["p50_ms"] == found["p99_ms"] == 10.0
    # 9 ms less 1 + 2 + 5, and 10 ms less 9.
    assert found["overhead_ms"]["p50_ms"] == pytest.approx(1.0)
    assert found["http_ms"]["p50_ms"] == pytest.approx(1.0)
    assert [row["sustained"] for row in found["rates"]] == [True, True, *[False] * 4]
    assert found["max_sustained_rps"] == 40.0


def test_clients_that_wait_for_answers_measure_the_capacity(load, service_url):
    assert load.saturate(target_of(load, service_url, {"k": 1}), num_clients=3, seconds=0.3) > 0


def test_the_summary_of_overload_counts_answers_in_time(script):
    benchmark = script("http_service")
    counts = {"sent": 400, "failed": 0, "refused": 200, "degraded": 0}
    # In 2 s, 190 of 200 answers within 100 ms.
    raw = {"rate": 200.0, **counts, "milliseconds": [100.0] * 190 + [101.0] * 10}
    found = benchmark.overload_summary(100.0, [raw], deadline_ms=100.0, seconds=2.0)
    assert found["capacity_rps"] == 100.0
    (row,) = found["overload"]
    assert (row["load"], row["goodput_rps"], row["late_share"]) == (2.0, 95.0, 0.05)
    assert (row["refused"], row["p50_ms"]) == (200, 100.0)


def test_a_wide_catalog_has_the_values_of_known_ads_in_new_combinations(script, data_set):
    wide = script("workload.wide_catalog").WideDataSet(data_set.directory, 5_000)
    made_up, known = wide.catalog(), data_set.catalog()
    assert len(made_up) == made_up.table.num_rows == 5_000
    assert len(set(made_up.ad_ids.to_pylist())) == 5_000
    assert made_up.features.dtype == known.features.dtype
    for column in range(known.features.shape[1]):
        assert set(made_up.features[:, column]) <= set(known.features[:, column])
    # Encoded and raw values agree: both were drawn together.
    name = next(field.name for field in data_set.schema.ad_fields if field.kind == "categorical")
    column = [field.name for field in data_set.schema.ad_fields].index(name)
    encoded = dict(zip(known.fields[name].to_pylist(), known.features[:, column], strict=True))
    assert [encoded[value] for value in made_up.fields[name].to_pylist()] == list(
        made_up.features[:, column]
    )
    assert len(np.unique(made_up.features, axis=0)) > len(known)
    again = script("workload.wide_catalog").WideDataSet(data_set.directory, 5_000).catalog()
    np.testing.assert_array_equal(made_up.features, again.features)


def test_a_release_is_reused_only_for_the_same_models_and_index(
    script, data_set, trained, learned_from_clicks, tmp_path, monkeypatch
):
    benchmark = script("http_service")
    work, base = tmp_path / "work", tmp_path / "base"
    work.mkdir()
    (work / "data").symlink_to(data_set.directory)
    (work / "ranker").symlink_to(trained / "ranker")
    (work / "retrieval").symlink_to(trained / "retrieval")
    benchmark.build(work, base, 1024, index.IndexConfig(kind="Flat"))
    first = manifest.read(base, 1)
    assert first.index["kind"] == "Flat"
    exported = []

    def record(base, data_set, two_tower, model, calibrators, config, metrics):
        base.mkdir()
        exported.append((config.kind, export.training_id_of(data_set, two_tower, model)))

    monkeypatch.setattr(benchmark.export, "export_release", record)

    def build_over_copy(kind):
        copy = shutil.copytree(base, tmp_path / "copy", dirs_exist_ok=True)
        benchmark.build(work, copy, 1024, index.IndexConfig(kind=kind))

    build_over_copy("Flat")
    assert not exported
    build_over_copy("HNSW")
    assert exported == [("HNSW", first.training_id)]
    (work / "retrieval").unlink()
    (work / "retrieval").symlink_to(learned_from_clicks)
    build_over_copy("Flat")
    assert len(exported) == 2
    assert exported[1][1] != first.training_id
