"""The commands release, doctor and serve."""

import asyncio
import contextlib
import dataclasses
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import types

import children
import httpx
import numpy as np
import pytest
import scripts_in_forks
import serving_fixtures
import waiting
from absl import flags
from absl.testing import flagsaver
from head_figures import figures
from repository import ROOT, TLS

from serving import (
    client,
    errors,
    export,
    live,
    manifest,
    model_server,
    operations,
    releases,
    workflow,
)
from serving.cli import entry
from serving.config import HttpConfig
from serving.operations import local_service
from serving.releases import bundle
from serving.requests import Request

pytestmark = pytest.mark.process

BODY = {"user": {"country": "CH", "age": 33}, "k": 5}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A base directory with the releases 1 and 2 of different trainings. Read only."""
    base = tmp_path_factory.mktemp("published") / "bundles"
    return serving_fixtures.publish_trainings(base, 2)


@pytest.fixture
def base(published, tmp_path):
    return shutil.copytree(published, tmp_path / "bundles")


@pytest.fixture
def call(script, capsys):
    """Runs a script's main in this process; returns its exit status and what it printed."""

    def run(name, *argv):
        module = script(entry.MODULES[name])
        # Restores the flags afterward.
        with flagsaver.flagsaver():
            flags.FLAGS([name, *argv])
            try:
                module.main()
                status = 0
            except SystemExit as ended:
                status = ended.code
        return status, capsys.readouterr().out

    return run


@contextlib.contextmanager
def served(base):
    """Runs scripts/serve.py until Ctrl-C; yields the doctor's flags and the ranker's URL."""
    port, model_port, model_rest = (serving_fixtures.free_port() for _ in range(3))
    command = [
        sys.executable, str(ROOT / "scripts" / "serve.py"), f"--bundle={base}",
        f"--port={port}", f"--model_server_port={model_port}",
        f"--model_server_rest_port={model_rest}", "--deadline_ms=60000",
        f"--impression_log={base.parent / 'log'}",
        '--rules={"caps": [{"field": "advertiser", "max": 1}]}',
    ]  # fmt: skip
    # A module of the user with the name of one of tfrec's packages.
    (base.parent / "serving.py").write_text("raise SystemExit('not the one of tfrec')\n")
    with children.started(command, cwd=base.parent, stdout=subprocess.PIPE, text=True) as process:
        assert any(line.startswith("recommendations on") for line in process.stdout)
        waiting.until(lambda: is_ready(process, port))
        places = {"service": f"http://127.0.0.1:{port}", "model_server": f"127.0.0.1:{model_port}"}
        yield places, f"http://127.0.0.1:{model_rest}/v1/models/ranker"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    for number in (port, model_port, model_rest):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", number)) != 0, "a process was left behind"


def is_ready(process, port):
    assert process.poll() is None, "serve.py has ended"
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=60, verify=False).is_success
    except httpx.ConnectError:
        return False


def versions_of(service_url, ranker_url):
    """Versions that the service and the model server have loaded."""
    service = httpx.get(f"{service_url}/v1/bundle", timeout=60, verify=False).json()
    status = httpx.get(ranker_url, timeout=60, verify=False).json()["model_version_status"]
    available = {int(row["version"]) for row in status if row["state"] == "AVAILABLE"}
    return {row["version"] for row in service["releases"]}, available


def is_answered_by(version, answers):
    """Whether the latest of the answers is of a release."""
    return bool(answers) and answers[-1].json().get("bundle_version") == version


def test_serve_changes_both_servers_under_load_and_the_doctor_passes(base, call):
    releases.promote(base, 1)
    answers, stop = [], threading.Event()

    def ask(url):
        with httpx.Client(base_url=url, timeout=60) as client:
            while not stop.wait(waiting.PAUSE_SECONDS):
                answers.append(client.post("/v1/recommend", json=BODY))

    with served(base) as (places, ranker_url):
        url = places["service"]
        threads = [threading.Thread(target=ask, args=(url,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            waiting.until(lambda: is_answered_by(1, answers))
            releases.promote(base, 2)
            waiting.until(lambda: versions_of(url, ranker_url) == ({2}, {1, 2}))
            waiting.until(lambda: is_answered_by(2, answers))
            releases.roll_back(base)
            waiting.until(lambda: versions_of(url, ranker_url) == ({1}, {1, 2}))
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        named = [f"--{name}={place}" for name, place in places.items()]
        status, text = call("doctor", f"--bundle={base}", "--norows", "--json", *named)
        checks = json.loads(text)
        assert all(check["ok"] for check in checks), checks
        assert (status, len(checks)) == (0, 6)
        # The service does not answer with the other release.
        status, text = call("doctor", f"--bundle={base}", "--norows", "--version=2", *named)
        assert status == 1
        assert "Expected release 2, got release 1." in text
        assert "Run tfrec release --action=promote --version=2" in text
    for reply in answers:
        assert reply.status_code == 200
        assert reply.json()["degraded"] is None
        advertisers = [ad["fields"]["advertiser"] for ad in reply.json()["ads"]]
        assert len(set(advertisers)) == len(advertisers) == 5
    assert {reply.json()["bundle_version"] for reply in answers} == {1, 2}
    assert list((base.parent / "log").glob("impressions-*.parquet"))


def test_the_doctor_names_the_state_of_each_model_server(base, published, call):
    foreign = base.with_name("foreign")
    shutil.copytree(published / "ranker/2", foreign / "ranker/1")
    nobody = f"127.0.0.1:{serving_fixtures.free_port()}"
    options = [f"--bundle={base}", "--version=1", "--norows", "--service=", "--timeout_seconds=5"]
    with (
        serving_fixtures.serve_ranker(base, all_versions=True) as good,
        model_server.ModelServer({"ranker": foreign / "ranker"}) as bad,
    ):
        addresses = [f"127.0.0.1:{good.port}", f"127.0.0.1:{bad.port}", nobody]
        status, text = call("doctor", *options, f"--model_server={','.join(addresses)}")
    lines = text.splitlines()
    assert lines[2].startswith(f"ok      model server {addresses[0]}: ")
    assert lines[3].startswith(f"failed  model server {addresses[1]}: ")
    assert "differs by" in lines[3]
    assert lines[4].startswith(f"failed  model server {nobody}: ")
    assert (status, lines[-1]) == (1, "3 ok, 2 failed")


def test_the_doctor_names_unreachable_servers_and_damaged_files(base, call):
    nobody = f"http://127.0.0.1:{serving_fixtures.free_port()}"
    status, text = call("doctor", f"--bundle={base}", "--model_server=", f"--service={nobody}")
    assert (status, text.splitlines()[-1]) == (1, "2 ok, 1 failed")
    assert "Is the service running at this address?" in text
    status, text = call("doctor", f"--bundle={base}", "--norows", "--service=x", "--model_server=")
    assert "failed  service x: base_url: expected a URL such as http://127.0.0.1:8080, got" in text
    path = base / "ranker/2/saved_model.pb"
    path.write_bytes(path.read_bytes()[:-1])
    status, text = call("doctor", f"--bundle={base}")
    assert (status, text.splitlines()[-1]) == (1, "0 ok, 1 failed")
    assert "ranker/2/saved_model.pb has" in text


def test_no_release_is_pruned_while_the_doctor_checks_it(base, call, monkeypatch):
    pruned = []
    check_release = operations.check_release

    def check_and_prune(base, version):
        yield from check_release(base, version)
        pruned.append(releases.prune(base, 1))

    pointer = {"format_version": 1, "stable": 2, "canary": None, "previous": []}
    (base / "releases.json").write_text(json.dumps(pointer))
    monkeypatch.setattr(operations, "check_release", check_and_prune)
    options = [f"--bundle={base}", "--norows", "--service=", "--model_server=", "--version=1"]
    assert call("doctor", *options)[0] == 0
    assert [found.in_use for found in pruned] == [(1,)]


@pytest.fixture
def guarded_url(tiny_bundle, ranker_address):
    """URL of a service that requires a token, with a self-signed certificate."""
    guard = HttpConfig(tls_certificate=str(TLS / "certificate.pem"), tls_key=str(TLS / "key.pem"))
    service = serving_fixtures.make_orchestrator(tiny_bundle, ranker_address)
    with serving_fixtures.serve_app(service, http=guard, token="a-secret") as url:
        yield url


# The service starts before `call`: uvicorn sets up its logs before capsys replaces standard error.
def test_the_doctor_uses_a_token_and_tls(guarded_url, tiny_base, call, tmp_path, monkeypatch):
    (tmp_path / "token").write_text("a-secret\n")
    named = [f"--bundle={tiny_base}", "--norows", "--model_server=", f"--service={guarded_url}"]
    trusting = [*named, f"--tls_authorities={TLS / 'certificate.pem'}"]
    token = f"--token_file={tmp_path / 'token'}"
    status, text = call("doctor", *trusting, token)
    assert (status, text.splitlines()[-1]) == (0, "5 ok, 0 failed")
    status, text = call("doctor", *named, token)
    assert status == 1
    assert "CERTIFICATE_VERIFY_FAILED" in text
    status, text = call("doctor", *trusting)
    assert status == 1
    assert "Expected the header 'authorization: Bearer TOKEN'" in text
    monkeypatch.setenv("TFREC_TOKEN", "a-secret")
    assert call("doctor", *trusting)[0] == 0


def test_inference_uses_a_token_and_tls(guarded_url, call, tmp_path):
    (tmp_path / "token").write_text("a-secret\n")
    (tmp_path / "request.json").write_text('{"k": 2}')
    named = [f"--server={guarded_url}", f"--request={tmp_path / 'request.json'}", "--json"]
    trusting = [*named, f"--tls_authorities={TLS / 'certificate.pem'}"]
    status, text = call("inference", *trusting, f"--token_file={tmp_path / 'token'}")
    assert (status, len(json.loads(text)["ads"])) == (0, 2)
    with pytest.raises(errors.ClientRequestError, match="Expected the header 'authorization"):
        call("inference", *trusting)


@pytest.mark.trains
def test_held_out_rows_get_the_same_scores_from_training_code_and_server(
    data_set, trained, exported_base, tmp_path, script
):
    (tmp_path / "data").symlink_to(data_set.directory)
    for stage in ("ranker", "retrieval"):
        (tmp_path / stage).symlink_to(trained / stage)
    release = bundle.load(exported_base)
    assert set(release.manifest.signatures["ranker"]["inputs"]) == {
        "ad_features",
        *(field.name for field in data_set.schema.query_fields),
    }
    _, found = export.logged_requests(tmp_path, 12)
    logged = list(found)
    assert len(logged) == 12
    # The logged lists, with each ad once.
    first = next(iter(data_set.batches("test", 64)))
    shown = [set(ads[mask]) for ads, mask in zip(first["ad_row"].numpy(), first["mask"].numpy())]  # noqa: B905
    assert [len(one.ad_ids) for one in logged] == [len(ads) for ads in shown[:12]]
    with serving_fixtures.serve_ranker(exported_base) as server:
        service = serving_fixtures.make_orchestrator(release, f"127.0.0.1:{server.port}")
        with serving_fixtures.serve_app(service) as url, client.Client(url) as connected:
            serving_fixtures.wait_until_ready(url)
            checked = operations.ServiceCheck(connected, release)
            rows = str(sum(len(ads) for ads in shown[:12]))
            table = checked.skew(logged).splitlines()[2:]
            assert [line.split()[1] for line in table] == [rows] * len(release.manifest.outputs)
            assert all(float(line.split()[-1]) < 1e-4 for line in table)
            off = {name: values * np.float32(1.05) for name, values in logged[3].scores.items()}
            logged[3] = dataclasses.replace(logged[3], scores=off)
            with pytest.raises(operations.CheckFailedError, match="differ by more than 1%"):
                checked.skew(logged)


def test_a_release_that_is_not_the_latest_is_served_with_its_own_ranker(published, script):

    async def answer():
        async with local_service.open_service(published, 1, None) as service:
            await service.verify_ranker(60.0)
            return await service.recommend(Request(k=2, deadline_ms=60_000))

    found = asyncio.run(answer())
    assert (found.bundle_version, found.degraded) == (1, None)
    outputs = manifest.read(published, 1).outputs
    text = local_service.describe_answer(found)
    assert "release 1, 2 ads by utility\n" in text
    assert text.splitlines()[1].split() == ["rank", "ad", "title", "stock", "utility", *outputs]
    partly = found.model_copy(update={"degraded": "Ranked the best 250 of 500."})
    text = local_service.describe_answer(partly)
    assert "2 ads by utility: Ranked the best 250 of 500.\n" in text


def test_a_release_is_published_from_elsewhere_promoted_listed_and_pruned(base, call, tmp_path):
    target = tmp_path / "target"
    flag = f"--bundle={target}"
    source = f"--source={base}"
    status, text = call("release", flag, "--action=publish", source, "--source_version=1")
    assert (status, text) == (0, f"release 1 is published in {target}\n")
    call("release", flag, "--action=promote", "--version=1")
    # The copy has a new version, and does not become stable by itself.
    _, text = call("release", flag, "--action=publish", source, "--source_version=2")
    assert text == (
        f"release 2 is published in {target}\n"
        "release 1 remains stable; to switch to release 2, use --action=promote --version=2, or "
        "--action=canary first\n"
    )
    assert manifest.read(target, 2).training_id == manifest.read(base, 2).training_id
    _, text = call("release", flag, "--action=canary", "--version=2", "--share=0.25")
    assert text == (
        "before: release 1 is stable\n"
        "now:    release 1 is stable, canary 2 answers 25.0% of the users\n"
    )
    _, text = call("release", flag)
    lines = text.splitlines()
    assert lines[1].split()[:4] == ["2", "canary", "25.0%", "no"]
    assert lines[2].split()[:3] == ["1", "stable", "no"]
    rows = json.loads(call("release", flag, "--json")[1])
    assert [(row["version"], row["role"], row["num_ads"]) for row in rows] == [
        (2, "canary", 300), (1, "stable", 300)
    ]  # fmt: skip
    _, text = call("release", flag, "--action=verify", "--version=2")
    assert text.splitlines()[1:] == [
        "release 2: query tower and index reproduce the probes",
        "release 2: the ad tower reproduces its probes",
        "release 2: the ranker reproduces its probes",
    ]
    call("release", flag, "--action=promote", "--version=2")
    # A rollback goes to release 1.
    assert call("release", flag, "--action=prune", "--keep=1") == (0, "removed: none\n")
    call("release", flag, "--action=publish", source, "--source_version=2")
    call("release", flag, "--action=promote", "--version=3")
    assert call("release", flag, "--action=prune", "--keep=1") == (0, "removed: 1\n")
    assert manifest.versions(target) == [2, 3]


def test_a_publish_copies_the_export_of_a_work_directory_not_its_stable_release(
    base, call, tmp_path, monkeypatch
):
    releases.promote(base, 1)
    (tmp_path / "steps").mkdir()
    exported = workflow.ExportedRelease(base, 2)
    stages = types.SimpleNamespace(export=lambda force: exported)
    monkeypatch.setattr(workflow, "open_stages", lambda _: stages)
    call("release", f"--bundle={tmp_path}/target", "--action=publish", f"--source={tmp_path}")
    published = manifest.read(tmp_path / "target", 1)
    assert published.training_id == manifest.read(base, 2).training_id
    releases.copy_release(base, 1, base)
    _, text = call("release", f"--bundle={base}", "--action=publish", f"--source={tmp_path}")
    assert text.startswith("release 2 is published")


def live_ids(base, version, ids):
    """Which of the ads a release has, with its live updates."""
    view = live.LiveIndex(releases.load(base, version)).view()
    return view.ad_ids(view.rows_of(ids))


def update_index(base, *flags):
    """Runs the command; returns what it printed."""
    done = scripts_in_forks.run("update_index.py", f"--bundle={base}", *flags)
    return done.stderr if done.returncode else done.stdout


def test_updates_reach_the_stable_release_and_the_canary(base, call, tmp_path):
    flag, removed, added = f"--bundle={base}", tmp_path / "removed", tmp_path / "added.jsonl"
    removed.write_text("ad-5\nad-6\n")
    added.write_text('{"ad_id": "new-1", "fields": {"price": 2.5}}\n')
    call("release", flag, "--action=promote", "--version=1")
    call("release", flag, "--action=canary", "--version=2", "--share=0.5")
    text = update_index(base, f"--remove={removed}", f"--add={added}")
    assert text.splitlines() == [
        "release 1: 1 ad added, 0 changed, 2 removed",
        "live: 299 ads; 1 of them added or changed, 2 of the release removed or changed",
        "release 2: 1 ad added, 0 changed, 2 removed",
        "live: 299 ads; 1 of them added or changed, 2 of the release removed or changed",
    ]
    for version in (1, 2):
        assert live_ids(base, version, ["ad-5", "ad-6", "ad-7", "new-1"]) == ["ad-7", "new-1"]
    call("release", flag, "--action=promote", "--version=2")
    rows = json.loads(update_index(base, "--json"))["releases"]
    assert [row["version"] for row in rows] == [2]


def test_an_update_that_the_canary_refuses_changes_no_release(base, call, tmp_path):
    flag, removed = f"--bundle={base}", tmp_path / "removed"
    removed.write_text("ad-5\n")
    call("release", flag, "--action=promote", "--version=1")
    call("release", flag, "--action=canary", "--version=2")
    (base / "live" / "2").mkdir(parents=True)
    (base / "live" / "2" / "journal").write_bytes(b"damaged")
    text = update_index(base, f"--remove={removed}")
    assert text.startswith("error: release 2: ")
    assert "No release was updated; --version=N updates only release N." in text
    assert live_ids(base, 1, ["ad-5"]) == ["ad-5"]
    update_index(base, "--version=1", f"--remove={removed}")
    assert live_ids(base, 1, ["ad-5"]) == []


def test_impossible_actions_on_releases_are_refused(base, call, tmp_path):
    with pytest.raises(ValueError, match="--action=promote requires --version=N"):
        call("release", f"--bundle={base}", "--action=promote")
    # It would go to the previous stable release.
    with pytest.raises(ValueError, match="--version has no effect on --action=rollback: expected"):
        call("release", f"--bundle={base}", "--action=rollback", "--version=1")
    nowhere = tmp_path / "nowhere"
    with pytest.raises(bundle.errors.BundleNotFoundError, match="has no published bundle"):
        call("release", f"--bundle={base}", "--action=publish", f"--source={nowhere}")
    with pytest.raises(bundle.errors.BundleNotFoundError, match="has no published bundle"):
        call("release", f"--bundle={nowhere}", "--action=rollback")
    assert not nowhere.exists()
    for version, click in ((1, figures()), (2, figures(normalized_entropy=0.97))):
        metrics = {"validation": {"click": click}}
        measured = dataclasses.replace(manifest.read(base, version), metrics=metrics)
        with manifest.writing(base, version, manifest.encode(measured)):
            pass
    target = tmp_path / "target"
    publish = ("release", f"--bundle={target}", "--action=publish", f"--source={base}")
    call(*publish, "--source_version=1")
    with pytest.raises(bundle.errors.PublishError, match=r"click: .* rose from 0\.9000"):
        call(*publish, "--source_version=2")
    _, text = call(*publish, "--source_version=2", "--force")
    assert text.startswith("forced: click: the normalized entropy rose from 0.9000")
    assert manifest.versions(target) == [1, 2]
    decision = manifest.read(target, 2).metrics["gate"]
    assert decision["forced"]
    assert "rose from 0.9000" in decision["refusals"][0]
    listed = call("release", f"--bundle={target}")[1].splitlines()
    assert [row.endswith("published with --force") for row in listed[1:]] == [True, False]


def test_a_copy_that_lacks_ads_of_the_last_release_is_announced(base, call, tmp_path):
    few = serving_fixtures.publish_trainings(tmp_path / "few", 1, num_ads=200)
    _, text = call("release", f"--bundle={base}", "--action=publish", f"--source={few}")
    assert text.startswith("! 100 of the 300 ads of release 2 are missing. To keep those ")
    (note,) = manifest.read(base, 3).metrics["gate"]["notes"]
    assert text.startswith(note)


def test_a_copy_has_the_decision_of_the_gate_in_its_own_base_directory(base, call, tmp_path):
    forced = {"forced": True, "refusals": ["worse than release 1"], "notes": []}
    release = dataclasses.replace(manifest.read(base, 2), metrics={"gate": forced})
    with manifest.writing(base, 2, manifest.encode(release)):
        pass
    call("release", f"--bundle={tmp_path}/target", "--action=publish", f"--source={base}")
    copied = manifest.read(tmp_path / "target", 1)
    assert copied.metrics == {"gate": {"forced": False, "refusals": [], "notes": []}}


def test_a_publish_says_which_heads_were_not_compared(base, call, tmp_path):
    for version, click in ((1, figures(normalized_entropy=1.1)), (2, figures())):
        metrics = {"validation": {"click": click}}
        measured = dataclasses.replace(manifest.read(base, version), metrics=metrics)
        with manifest.writing(base, version, manifest.encode(measured)):
            pass
    publish = ("release", f"--bundle={tmp_path}/target", "--action=publish", f"--source={base}")
    call(*publish, "--source_version=1")
    _, text = call(*publish, "--source_version=2")
    lines = text.splitlines()
    assert lines[0] == "click is not compared: it is weak in release 1"
