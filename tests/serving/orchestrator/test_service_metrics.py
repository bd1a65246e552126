"""What the service tells Prometheus."""

import asyncio
import datetime

import httpx
import pytest
import serving_fixtures
from prometheus_client import parser

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
        found = samples(url)
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
    assert value(found, "tfrec_requests_total", path="/v1/recommend", status="400") == 1
    assert value(found, "tfrec_requests_total", path="other", status="404") == 1
    assert value(found, "tfrec_resident_bytes") > 0
    assert value(found, "tfrec_in_flight") == 0
    assert value(found, "tfrec_breaker_open", version="1") == 0
    assert value(found, "tfrec_release_age_seconds", version="1") == pytest.approx(60)


def test_the_breaker_of_a_release_that_goes_is_not_open(tiny_bundle):
    service = serving_fixtures.make_orchestrator(tiny_bundle, "127.0.0.1:1")
    service.metrics.observe_breaker(tiny_bundle.version, True)
    asyncio.run(service.close())
    assert 'tfrec_breaker_open{version="1"} 0.0' in service.metrics.render().decode()


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


def test_replicas_are_counted_and_those_that_left_are_not_down():
    metrics = orchestrator.ServiceMetrics()
    metrics.observe_replicas(1, {"a:1": True, "b:1": False, "c:1": True})
    text = metrics.render().decode()
    assert 'tfrec_ranker_replicas{version="1"} 2.0' in text
    assert 'tfrec_ranker_replica_down{replica="b:1",version="1"} 1.0' in text
    assert 'tfrec_ranker_replica_down{replica="a:1",version="1"} 0.0' in text
    metrics.observe_replicas(1, {"a:1": True})
    text = metrics.render().decode()
    assert 'tfrec_ranker_replicas{version="1"} 1.0' in text
    assert 'tfrec_ranker_replica_down{replica="b:1",version="1"} 0.0' in text
    metrics.ranker_calls(1)("a:1", "ok")
    found = 'tfrec_ranker_calls_total{outcome="ok",replica="a:1",version="1"} 1.0'
    assert found in metrics.render().decode()
