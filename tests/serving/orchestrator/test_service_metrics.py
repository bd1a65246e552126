"""Metrics of the service for Prometheus."""

import datetime
import os
import subprocess
import sys

import httpx
import pytest
import serving_fixtures
from prometheus_client import parser
from repository import ROOT

from serving import orchestrator
from serving.config import OrchestratorConfig


def samples(url):
    """Returns (name, labels as a frozen set) -> value."""
    page = httpx.get(f"{url}/metrics", timeout=60)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parser.text_string_to_metric_families(page.text)
        for sample in family.samples
    }


def value(found, name, **labels):
    return found.get((name, frozenset(labels.items())))


def test_answers_are_counted_under_their_version(tiny_bundle, ranker_address):
    config = OrchestratorConfig(num_candidates=100, default_deadline_ms=30_000)
    created = datetime.datetime.fromisoformat(tiny_bundle.manifest.created).timestamp()
    metrics = orchestrator.ServiceMetrics(clock=lambda: created + 60)
    service = serving_fixtures.make_orchestrator(
        tiny_bundle, ranker_address, config, metrics=metrics
    )
    with serving_fixtures.serve_app(service) as url:
        shown = []
        for country in ("CH", "AT", "LI"):
            body = {"user": {"country": country}, "k": 4}
            shown += httpx.post(f"{url}/v1/recommend", json=body, timeout=60).json()["ads"]
        httpx.post(f"{url}/v1/recommend", json={"deadline_ms": 1}, timeout=60)
        httpx.post(f"{url}/v1/recommend", json={"k": 0}, timeout=60)
        httpx.get(f"{url}/nothing/here", timeout=60)
        httpx.get(f"{url}/v1/users/u17", timeout=60)
        found = samples(url)
    assert not [name for name, _ in found if name.endswith("_created")]
    outcomes = {"full": 3, "retrieval_order": 1, "fewer_candidates": 0}
    for outcome, count in outcomes.items():
        assert value(found, "tfrec_answers_total", version="1", outcome=outcome) == count
    assert value(found, "tfrec_candidates_sum", version="1", kind="found") == 400
    assert value(found, "tfrec_candidates_sum", version="1", kind="ranked") == 300
    for stage in ("query_tower", "index", "features", "ranker", "total"):
        assert value(found, "tfrec_stage_seconds_count", version="1", stage=stage) == 4
    clicks = [ad["click_probability"] for ad in shown]
    assert value(found, "tfrec_score_count", version="1", head="click") == 12
    predicted = value(found, "tfrec_score_sum", version="1", head="click")
    assert predicted == pytest.approx(sum(clicks), rel=1e-5)
    assert value(found, "tfrec_requests_total", path="/v1/recommend", status="200") == 4
    assert value(found, "tfrec_requests_total", path="/v1/recommend", status="422") == 1
    assert value(found, "tfrec_requests_total", path="other", status="404") == 1
    assert value(found, "tfrec_requests_total", path="/v1/users", status="404") == 1
    assert value(found, "tfrec_resident_bytes") > 0
    assert value(found, "tfrec_in_flight") == 0
    assert value(found, "tfrec_breaker_open", version="1") == 0
    assert value(found, "tfrec_release_age_seconds", version="1") == pytest.approx(60)


def test_a_release_that_is_closed_leaves_no_series(tiny_bundle, ranker_address):
    service = serving_fixtures.make_orchestrator(tiny_bundle, ranker_address)
    with serving_fixtures.serve_app(service) as url:
        serving_fixtures.wait_until_ready(url)
        httpx.post(f"{url}/v1/recommend", json={"k": 2}, timeout=60)
        assert 'version="1"' in service.metrics.render().decode()
    assert 'version="1"' not in service.metrics.render().decode()
    # Served again, it is counted from 0.
    service.metrics.begin(1)
    service.metrics.ranker_calls(1)("a:1", "ok")
    found = 'tfrec_ranker_calls_total{outcome="ok",replica="a:1",version="1"} 1.0'
    assert found in service.metrics.render().decode()
    # Series without a version remain.
    assert 'path="/v1/recommend",status="200"} 1.0' in service.metrics.render().decode()


def test_a_release_that_another_orchestrator_serves_keeps_its_series():
    metrics = orchestrator.ServiceMetrics()
    for _ in range(2):
        metrics.begin(1)
    metrics.observe_breaker(1, True)
    metrics.end(1)
    assert 'tfrec_breaker_open{version="1"} 1.0' in metrics.render().decode()
    metrics.end(1)
    assert "tfrec_breaker_open{" not in metrics.render().decode()


_SHARED = """
from serving import orchestrator
metrics = orchestrator.ServiceMetrics()
for version in (1, 2):
    metrics.begin(version)
    metrics.observe_replicas(version, {"a:1": True, "b:1": False})
    metrics.ranker_calls(version)("b:1", "ok")
metrics.end(1)
metrics.observe_replicas(2, {"a:1": True})
metrics.observe_request("/", 200, 1.0)
print(metrics.render().decode())
"""


@pytest.mark.process
def test_pages_of_several_processes_leave_out_removed_series(tmp_path):
    # Left by a process that was killed while it created the file.
    (tmp_path / "counter_1.db").touch()
    # The library looks for the directory when it is imported.
    page = subprocess.run(
        [sys.executable, "-c", _SHARED],
        env={**os.environ, orchestrator.METRICS_DIRECTORY_VARIABLE: str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert 'tfrec_requests_total{path="/",status="200"} 1.0' in page
    assert 'tfrec_ranker_replicas{version="2"} 1.0' in page
    assert 'version="1"' not in page
    assert "b:1" not in page
    assert "_created" not in page


def test_drift_is_what_was_predicted_over_what_the_release_recorded(
    tiny_bundle, ranker_address, monkeypatch
):
    validation = {"click": {"mean_label": 0.25}, "revenue": {"mean_label": 0.0}}
    monkeypatch.setitem(tiny_bundle.manifest.metrics, "validation", validation)
    service = serving_fixtures.make_orchestrator(tiny_bundle, ranker_address)
    with serving_fixtures.serve_app(service) as url:
        ads = httpx.post(f"{url}/v1/recommend", json={"k": 2}, timeout=60).json()["ads"]
        found = samples(url)
    mean = (ads[0]["click_probability"] + ads[1]["click_probability"]) / 2
    assert value(found, "tfrec_recorded_mean", version="1", head="click") == 0.25
    drift = value(found, "tfrec_calibration_drift", version="1", head="click")
    assert drift == pytest.approx(mean / 0.25, rel=1e-5)
    # Nothing to divide by.
    assert value(found, "tfrec_calibration_drift", version="1", head="revenue") is None
    assert value(found, "tfrec_recorded_mean", version="1", head="engagement") is None


def test_replicas_are_counted_and_those_that_left_have_no_series():
    metrics = orchestrator.ServiceMetrics()
    metrics.observe_replicas(1, {"a:1": True, "b:1": False, "c:1": True})
    text = metrics.render().decode()
    assert 'tfrec_ranker_replicas{version="1"} 2.0' in text
    assert 'tfrec_ranker_replica_down{replica="b:1",version="1"} 1.0' in text
    assert 'tfrec_ranker_replica_down{replica="a:1",version="1"} 0.0' in text
    count = metrics.ranker_calls(1)
    count("b:1", "ok")
    metrics.observe_replicas(1, {"a:1": True})
    text = metrics.render().decode()
    assert 'tfrec_ranker_replicas{version="1"} 1.0' in text
    assert 'tfrec_ranker_replica_down{replica="a:1",version="1"} 0.0' in text
    assert "b:1" not in text
    # A call that ends later.
    count("b:1", "failed")
    metrics.observe_replicas(1, {"a:1": False})
    assert "b:1" not in metrics.render().decode()
    count("a:1", "ok")
    found = 'tfrec_ranker_calls_total{outcome="ok",replica="a:1",version="1"} 1.0'
    assert found in metrics.render().decode()
