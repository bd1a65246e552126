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
    service = serving_fixtures.make_orchestrator(tiny_bundle, ranker_address, config)
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
    assert value(found, "tfrec_ranker_calls_total", version="1", outcome="ok") == 3
    assert value(found, "tfrec_release_created_seconds", version="1") == created


_SHARED = """
from serving import orchestrator
metrics = orchestrator.ServiceMetrics()
metrics.observe_problem("ranker", True)
metrics.observe_request("/", 200, 1.0)
print(metrics.render().decode())
"""


@pytest.mark.process
def test_a_page_adds_up_all_processes(tmp_path):
    for requests in (1, 2):
        # The library looks for the directory when it is imported.
        page = subprocess.run(
            [sys.executable, "-c", _SHARED],
            env={**os.environ, orchestrator.METRICS_DIRECTORY_VARIABLE: str(tmp_path)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert f'tfrec_requests_total{{path="/",status="200"}} {requests}.0' in page
    assert 'tfrec_problem{part="ranker"}' in page
    assert "_created" not in page


def test_the_recorded_mean_is_that_of_the_validation_split(
    tiny_bundle, ranker_address, monkeypatch
):
    monkeypatch.setitem(tiny_bundle.manifest.metrics, "validation", {"click": {"mean_label": 0.25}})
    service = serving_fixtures.make_orchestrator(tiny_bundle, ranker_address)
    with serving_fixtures.serve_app(service) as url:
        httpx.post(f"{url}/v1/recommend", json={"k": 2}, timeout=60)
        found = samples(url)
    assert value(found, "tfrec_recorded_mean", version="1", head="click") == 0.25
    assert value(found, "tfrec_recorded_mean", version="1", head="engagement") is None
