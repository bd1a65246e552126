"""scripts/serve.py as in production: in its own processes, under load, with faults."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading

import children
import httpx
import pytest
import serving_fixtures
import waiting
from prometheus_client import parser
from repository import ROOT, TLS

from serving import client, errors, impressions
from serving.live import LiveIndex

pytestmark = pytest.mark.process


@contextlib.contextmanager
def served(base, *flags, stderr=None, ranker_address=None, **client_options):
    """Runs serve.py on a tiny bundle; yields the process and its URL when it is ready."""
    port, grpc_port, rest_port = (serving_fixtures.free_port() for _ in range(3))
    command = [
        *(sys.executable, str(ROOT / "scripts" / "serve.py"), f"--bundle={base}"),
        *(f"--port={port}", f"--model_server_port={grpc_port}"),
        *(f"--model_server_rest_port={rest_port}", "--drain_seconds=0.5"),
        # A slow machine must not refuse requests.
        *("--deadline_ms=60000", *flags),
    ]
    if ranker_address:
        command.append(f"--ranker_address={ranker_address}")
    scheme = "https" if client_options.get("verify") else "http"
    url = f"{scheme}://127.0.0.1:{port}"
    with children.started(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr) as process:
        try:
            with client.Client(url, attempts=1, **client_options) as asking:
                waiting.until(lambda: is_ready(process, asking))
            yield process, url
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(60)


def is_ready(process, asking):
    assert process.poll() is None, f"serve.py ended with {process.returncode}"
    try:
        return asking.ready()
    except errors.ClientConnectionError:
        return False


def below(process_id):
    """Returns process id -> command line of the processes below one."""
    found = {}
    for thread in os.listdir(f"/proc/{process_id}/task"):
        children_of = pathlib.Path(f"/proc/{process_id}/task/{thread}/children")
        # Threads and processes end at any time.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in children_of.read_text().split():
                command = pathlib.Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                found[int(child)] = b" ".join(command).decode()
    return found


class Load:
    """Clients that send one request after another in a block, and keep answers and failures."""

    num_clients = 2

    def __init__(self, url, **options):
        self.answers, self.failures = [], []
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(url, number, options))
            for number in range(self.num_clients)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, url, number, options):
        with client.Client(url, timeout_seconds=30, **options) as asking:
            while not self._stopping.wait(waiting.PAUSE_SECONDS):
                try:
                    self.answers.append(asking.recommend(user={"age": number}, k=3))
                except errors.TfrecClientError as error:
                    self.failures.append(error)

    def wait_for(self, wanted):
        """Waits until an answer that arrives from now on satisfies a predicate."""
        seen = len(self.answers)
        waiting.until(lambda: any(wanted(answer) for answer in self.answers[seen:]))


def is_full(answer):
    return answer.degraded is None


def is_in_retrieval_order(answer):
    return answer.order == "retrieval"


def counted(url):
    page = httpx.get(f"{url}/metrics", timeout=60).text
    return sum(
        sample.value
        for family in parser.text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "tfrec_answers_total"
    )


def ads_of_every_process(url, ad_ids, count=6):
    """Yields the ads of requests in new connections, which any process may accept."""
    body = {"k": len(ad_ids), "filters": {"allowed_ads": ad_ids}, "deadline_ms": 30_000}
    for _ in range(count):
        answer = httpx.post(f"{url}/v1/recommend", json=body, timeout=60).json()
        yield {ad["ad_id"] for ad in answer["ads"]}


def test_two_processes_see_updates_and_survive_faults(tiny_base, tiny_bundle, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "bundles")
    live = LiveIndex(dataclasses.replace(tiny_bundle, base=base))
    with served(base, "--workers=2") as (process, url):
        started = below(process.pid)
        (server,) = [pid for pid, command in started.items() if "model_server" in command]
        # It must not outlive a parent that is killed.
        assert "--end_with_input" in started[server]
        # Both map the index rather than read it; the second is ready after the first.
        waiting.until(lambda: len(workers_of(process)) == 2)
        waiting.until(lambda: all(maps_the_index(pid) for pid in workers_of(process)))
        for number in range(10):
            # The next request of a process sees it, even if the clock of the disk stands still.
            live.update([{"ad_id": f"new-{number}"}], [f"new-{number - 1}"])
            os.utime(base / "live/1/journal", (1, 1))
            asked = [f"new-{number - 1}", f"new-{number}"]
            assert all(found == {asked[1]} for found in ads_of_every_process(url, asked))
        check_faults(process, url, server)
        process.terminate()
        assert process.wait(60) == 0


def check_faults(process, url, server):
    """Kills the model server and a worker under load: no request fails."""
    answered = counted(url)
    with Load(url) as load:
        load.wait_for(is_full)
        os.kill(server, signal.SIGKILL)
        load.wait_for(is_in_retrieval_order)
        # It does not remain as a zombie, and another one is started.
        waiting.until(lambda: not pathlib.Path(f"/proc/{server}").exists())
        load.wait_for(is_full)
        assert not load.failures
        # Each process returns the sum of the counts of both.
        pages = [counted(url) for _ in range(6)]
        assert pages == sorted(pages)
        before, count = len(load.answers), counted(url) - answered
        # Each client has at most one request in flight.
        assert before <= count <= len(load.answers) + load.num_clients
        worker = workers_of(process)[0]
        os.kill(worker, signal.SIGKILL)
        waiting.until(lambda: is_replaced(worker, workers_of(process)))
        load.wait_for(is_full)
        # The other worker got its requests: a client retries after a broken connection.
        assert not load.failures


def maps_the_index(process_id):
    return "ad_features.npy" in pathlib.Path(f"/proc/{process_id}/maps").read_text()


def is_replaced(worker, workers):
    return len(workers) == 2 and worker not in workers


def workers_of(process):
    return [pid for pid, command in below(process.pid).items() if "spawn_main" in command]


def test_a_signal_under_load_loses_no_request(tiny_base, ranker_address, tmp_path):
    log_path, shown = tmp_path / "log", tmp_path / "shown"
    flags = (
        # Until a second signal.
        *("--drain_seconds=600", "--log_format=json"),
        f"--tls_certificate={TLS / 'certificate.pem'}",
        *(f"--tls_key={TLS / 'key.pem'}", f"--token_file={tmp_path / 'token'}"),
        *(f"--impression_log={shown}", f"--user_store=sqlite:{tmp_path}/users.db"),
        "--nostore_impressions",
    )
    (tmp_path / "token").write_text("a-secret\n")
    options = {"verify": str(TLS / "certificate.pem"), "token": "a-secret"}
    with (
        open(log_path, "wb") as log,
        served(tiny_base, *flags, stderr=log, ranker_address=ranker_address, **options) as found,
    ):
        process, url = found
        with pytest.raises(errors.ClientConnectionError, match=r"(?i)certificate"):
            client.Client(url, attempts=1).health()
        with Load(url, attempts=1, **options) as load:
            load.wait_for(is_full)
            process.send_signal(signal.SIGTERM)
            with client.Client(url, attempts=1, **options) as asking:
                waiting.until(lambda: not asking.ready())
                # It is not ready, but still answers.
                late = asking.recommend(k=1)
                assert late.bundle_version == 1
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            # A request fails only if the port is closed, or was closed with it in the queue.
            waiting.until(lambda: load.failures)
        for failure in load.failures:
            assert isinstance(failure, errors.ClientConnectionError), failure
    lines = [json.loads(line) for line in log_path.read_text().splitlines()]
    requests = [line for line in lines if line["logger"] == "tfrec.access"]
    ids = {line["request_id"] for line in requests if line["path"] == "/v1/recommend"}
    # No request was lost: each answer of the service has arrived.
    assert ids == {answer.request_id for answer in (*load.answers, late)}
    assert {line["status"] for line in requests} <= {200, 503}
    assert not [line for line in lines if "exception" in line]
    assert "a-secret" not in log_path.read_text()
    assert list(shown.glob(impressions.FILE_PATTERN))
