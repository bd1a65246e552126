"""The pages as they are served, and the parts of the REST service that the console uses."""

import re

import httpx
import pyarrow.parquet as pq
import pytest
import serving_fixtures

from serving import impressions, orchestrator, ranker
from serving.config import OrchestratorConfig


@pytest.fixture
def http(service_url):
    with httpx.Client(base_url=service_url, timeout=60) as client:
        yield client


@pytest.mark.parametrize(
    "path", ["console", "docs", "console/main.js", "console/swagger/swagger-ui-bundle.js"]
)
def test_the_content_security_policy_allows_only_files_of_the_service(http, path):
    reply = http.get(path)
    assert reply.status_code == 200
    policy = dict(
        part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["connect-src"] == "'self'"
    # FastAPI's page has an inline script.
    assert policy["script-src"] == ("'self' 'unsafe-inline'" if path == "docs" else "'self'")
    assert ("require-trusted-types-for" in policy) == (path != "docs")
    # For the pictures of ads.
    assert policy["img-src"] == "'self' data: http: https:"
    assert reply.headers["x-content-type-options"] == "nosniff"


def test_pages_name_only_files_of_the_service(http):
    page = http.get("console").text + http.get("docs").text
    named = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert "console/main.js" in named
    assert "console/swagger/swagger-ui.css" in named
    for name in named:
        assert name.startswith("#") or http.get(name).status_code == 200, name


def test_an_unchanged_file_is_not_sent_again(http):
    first = http.get("console/main.js")
    again = http.get("console/main.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["nothing.js", "../app.py", "..%2fapp.py", "%2e%2e/app.py"])
def test_no_other_file_is_served(http, path):
    reply = http.get(f"console/{path}")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
    assert http.post("console/main.js").status_code == 405


def test_pages_require_no_token_and_data_does(tiny_bundle, ranker_address):
    service = serving_fixtures.make_orchestrator(tiny_bundle, ranker_address)
    with (
        serving_fixtures.serve_app(service, token="a-secret") as url,
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        start = http.get("/", follow_redirects=True)
        assert (start.status_code, start.url.path) == (200, "/console")
        for path in ("docs", "console/main.js", "console/swagger/swagger-ui.css"):
            assert http.get(path).status_code == 200
        assert http.get("openapi.json").json()["security"] == [{"token": []}]
        for path in ("consoles", "v1/bundle", "metrics"):
            assert http.get(path).status_code == 401


def test_the_bundle_has_limits_and_sample_requests(http):
    document = http.get("v1/bundle").json()
    assert document["limits"] == {
        "num_candidates": 500,
        "default_k": 10,
        "max_k": 1000,
        "max_ads_per_call": 10_000,
        "default_deadline_ms": 30_000,
    }
    assert document["outputs"] == serving_fixtures.OUTPUTS
    assert document["weights"] == dict.fromkeys(serving_fixtures.OUTPUTS, 1.0)
    assert document["sample_requests"] == serving_fixtures.PROBE_REQUESTS
    # Without a canary it is the stable release.
    assert http.get("v1/bundle?release=canary").json()["version"] == document["version"]
    other = http.get("v1/bundle?release=canry")
    assert other.status_code in (400, 422)
    assert "canry" in other.text


def test_a_dry_run_gets_the_same_answer_and_is_neither_logged_nor_counted(
    tiny_bundle, ranker_address, tmp_path
):
    client = ranker.RankerClient(
        ranker_address, version=1, outputs=tiny_bundle.manifest.outputs.values()
    )
    log = impressions.ImpressionLog(tmp_path)
    config = OrchestratorConfig(default_deadline_ms=30_000)
    service = orchestrator.Orchestrator(tiny_bundle, client, config, impressions=log)
    with serving_fixtures.serve_app(service) as url:
        answers = [
            httpx.post(
                f"{url}/v1/recommend", json={"k": 3, "request_id": "r", **more}, timeout=60
            ).json()
            for more in ({}, {"dry_run": True}, {"dry_run": None})
        ]
        metrics = httpx.get(f"{url}/metrics", timeout=60).text
    log.close()
    assert answers[0]["ads"] == answers[1]["ads"] == answers[2]["ads"]
    assert 'tfrec_answers_total{outcome="full",version="1"} 2.0' in metrics
    rows = [pq.read_table(path) for path in tmp_path.glob(impressions.FILE_PATTERN)]
    assert sum(table.num_rows for table in rows) == 6
