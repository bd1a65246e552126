"""The pages as they are served, and the parts of the REST service that the console uses."""

import pathlib
import re

import httpx
import pyarrow.parquet as pq
import pytest
import serving_fixtures
from repository import ROOT

from serving import impressions, orchestrator, ranker
from serving.config import OrchestratorConfig

BASE_CSS = ROOT / "tfrecords" / "pages" / "templates" / "base.css"
FILES = [*sorted((ROOT / "serving" / "service" / "console" / "static").iterdir()), BASE_CSS]
TOKEN = "a-secret"


@pytest.mark.parametrize("path", ["console", "docs"])
def test_the_content_security_policy_allows_only_files_of_the_service(service_url, path):
    reply = httpx.get(f"{service_url}/{path}", timeout=60)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(
        part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert {policy[f"{kind}-src"] for kind in ("script", "style", "connect")} == {"'self'"}
    # For the pictures of ads.
    assert policy["img-src"] == "'self' http: https:"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert reply.headers["x-content-type-options"] == "nosniff"


def test_files_have_no_external_references_and_no_inline_code():
    names = re.compile(r"https?://|//[a-z]|@import|url\(")
    for file in FILES:
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        code = re.sub(r"(?m)(^|\s)// .*$", "", text)
        assert not names.search(code), file.name
    pages = [file.read_text(encoding="utf-8") for file in FILES if file.suffix == ".html"]
    assert len(pages) == 2
    inline = re.compile(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=|javascript:")
    assert not [page for page in pages if inline.search(page)]


@pytest.mark.parametrize(
    "name", ["innerHTML", "outerHTML", "insertAdjacentHTML", "eval", "document.write"]
)
def test_no_value_can_become_markup(name):
    assert len([file for file in FILES if file.suffix == ".js"]) > 5
    word = re.compile(rf"\b{re.escape(name)}\b")
    assert not [file.name for file in FILES if word.search(file.read_text(encoding="utf-8"))]


def test_every_file_of_the_pages_is_served_with_its_type(service_url):
    types = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    page = "".join(
        httpx.get(f"{service_url}/{path}", timeout=60).text for path in ("console", "docs")
    )
    named = set(re.findall(r'(?:src|href)="(console/[^"]+)"', page))
    for file in FILES:
        named.update(
            f"console/{module}" for module in re.findall(r'from "\./([^"]+)"', file.read_text())
        )
    assert {f"console/{file.name}" for file in FILES if file.suffix != ".html"} == named
    for name in named:
        reply = httpx.get(f"{service_url}/{name}", timeout=60)
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith(types[pathlib.Path(name).suffix])
        assert "content-security-policy" in reply.headers


def test_an_unchanged_file_is_not_sent_again(service_url):
    first = httpx.get(f"{service_url}/console/main.js", timeout=60)
    again = httpx.get(
        f"{service_url}/console/main.js",
        headers={"if-none-match": first.headers["etag"]},
        timeout=60,
    )
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["nothing.js", "../app.py", "..%2fapp.py", "%2e%2e/app.py"])
def test_no_other_file_is_served(service_url, path):
    reply = httpx.get(f"{service_url}/console/{path}", timeout=60)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


def test_pages_require_no_token_and_data_does(tiny_bundle, ranker_address):
    service = serving_fixtures.make_orchestrator(tiny_bundle, ranker_address)
    with serving_fixtures.serve_app(service, token=TOKEN) as url:
        start = httpx.get(f"{url}/", follow_redirects=True, timeout=60)
        assert (start.status_code, start.url.path) == (200, "/console")
        assert httpx.get(f"{url}/console/main.js", timeout=60).status_code == 200
        assert (
            httpx.get(f"{url}/console/", follow_redirects=True, timeout=60).url.path == "/console"
        )
        assert httpx.get(f"{url}/consoles", timeout=60).status_code == 401
        assert httpx.get(f"{url}/v1/bundle", timeout=60).status_code == 401


def test_the_bundle_has_limits_and_sample_requests(service_url):
    document = httpx.get(f"{service_url}/v1/bundle", timeout=60).json()
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
    canary = httpx.get(f"{service_url}/v1/bundle?release=canary", timeout=60).json()
    assert canary["version"] == document["version"]
    other = httpx.get(f"{service_url}/v1/bundle?release=canry", timeout=60)
    assert other.status_code in (400, 422)
    assert "release: expected 'stable' or 'canary', got 'canry'" in other.text


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
        refused = httpx.post(f"{url}/v1/recommend", json={"dry_run": "yes"}, timeout=60)
    log.close()
    assert answers[0]["ads"] == answers[1]["ads"] == answers[2]["ads"]
    assert 'tfrec_answers_total{outcome="full",version="1"} 2.0' in metrics
    rows = [pq.read_table(path) for path in tmp_path.glob(impressions.FILE_PATTERN)]
    assert sum(table.num_rows for table in rows) == 6
    assert refused.status_code == 422
    assert "dry_run: expected true or false, got 'yes' (str)." in refused.json()["error"]["message"]


def _colors(block):
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block))


def _luminance(color):
    """Relative luminance, as WCAG 2 defines it."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_has_enough_contrast_in_light_and_dark():
    light, dark = BASE_CSS.read_text(encoding="utf-8").split("@media (prefers-color-scheme: dark)")
    pairs = [("on-accent", "accent"), ("ink", "warn-page"), ("ink", "bad-page")]
    pairs += [
        (front, back)
        for front in ("ink", "quiet", "accent", "good", "bad", "warn")
        for back in ("panel", "sunk")
    ]
    for colors in (_colors(light), {**_colors(light), **_colors(dark)}):
        for front, back in pairs:
            lighter, darker = sorted(map(_luminance, (colors[front], colors[back])))[::-1]
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (front, back, colors[front])
        # Graphics and the borders of inputs need 3.
        for front in ("train", "test", "third", "edge"):
            lighter, darker = sorted(map(_luminance, (colors[front], colors["panel"])))[::-1]
            assert (lighter + 0.05) / (darker + 0.05) >= 3, front
