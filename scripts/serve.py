"""Serves a release bundle: REST in front, the model server behind.

    python scripts/serve.py --workdir=workdir/quickstart
    curl -s localhost:8080/v1/recommend -d '{"k": 3}' -H 'content-type: application/json'
    python scripts/serve.py --workdir=workdir/quickstart --rules=rules.json \
        --impression_log=workdir/impressions

Starts in seconds. The embedded model server runs as a process of its own and speaks
TensorFlow Serving's gRPC (--model_server_port) and REST (--model_server_rest_port);
--ranker_address uses a running TensorFlow Serving instead. While the ranker is away,
answers come in retrieval order and say so. SIGTERM and Ctrl-C end it gracefully.

It follows scripts/release.py (promote, rollback, canary) and, where nothing was ever promoted,
the latest release: without a failed request, and no answer of two releases. --version stays at one.
"""

import contextlib
import functools
import gc
import logging
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import bundle_flags
import command_line
import local_service
import rule_flags
import uvicorn
from absl import flags

from serving import (
    app,
    bundle,
    model_server,
    orchestrator,
    ranker_client,
    release_follower,
    release_router,
    served_versions,
    service_metrics,
)

flags.adopt_module_key_flags(bundle_flags)
flags.adopt_module_key_flags(rule_flags)
flags.DEFINE_string("host", "127.0.0.1", "Address of the REST service.")
flags.DEFINE_integer("port", 8080, "Port of the REST service.", 1, 65535)
flags.DEFINE_string("ranker_address", None, "host:port of a TensorFlow Serving that runs already.")
flags.DEFINE_integer("model_server_port", 8500, "gRPC port of the embedded model server.", 1, 65535)
flags.DEFINE_integer(
    "model_server_rest_port", 8501, "REST port of the embedded model server.", 1, 65535
)
flags.DEFINE_integer(
    "num_candidates", 500, "Ads that the index hands to the ranker.", lower_bound=1
)
flags.DEFINE_float(
    "deadline_ms",
    2_000.0,
    "Time for a request that names none; past it the answer comes in retrieval order. The "
    "default lets a burst through; set what your caller can wait, such as 100.",
    lower_bound=1.0,
)
FLAGS = flags.FLAGS

_STOP_SECONDS = 15


def main() -> None:
    # uvicorn drains on SIGTERM and then raises it again: without a handler that would end this
    # process before the embedded server is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # Changes of release are worth a line, whatever else is quiet.
    logging.getLogger(release_follower.__name__).setLevel(logging.INFO)
    base, rules = bundle_flags.base(), rule_flags.rules()
    _check_port_is_free(FLAGS.host, FLAGS.port)
    # Imports are hundreds of thousands of objects; the collection after each change of release
    # would look at all of them, and stop all requests for as long.
    gc.collect()
    gc.freeze()
    with contextlib.ExitStack() as stack:
        first = [_load_first(base)]
        if FLAGS.ranker_address is None:
            stack.enter_context(_embedded_server(base))
        config = orchestrator.OrchestratorConfig(
            num_candidates=FLAGS.num_candidates,
            default_deadline_ms=FLAGS.deadline_ms,
            rules=rules,
        )
        connect = functools.partial(
            _connect,
            config=config,
            # One page and one log for all releases, each under its version.
            metrics=service_metrics.ServiceMetrics(),
            impressions=stack.enter_context(rule_flags.open_log()),
        )
        router = release_router.ReleaseRouter(connect(first.pop()))
        follower = None
        if FLAGS.version is None:
            follower = release_follower.ReleaseFollower(base, router, connect)
        print(f"recommendations on http://{FLAGS.host}:{FLAGS.port}/v1/recommend, API at /docs")
        application = app.create_app(router, follower=follower)
        uvicorn.run(application, host=FLAGS.host, port=FLAGS.port, log_level="warning")


def _load_first(base: pathlib.Path) -> bundle.Bundle:
    pinned = FLAGS.version
    release = (
        release_follower.load_first(base) if pinned is None else bundle.load(base, FLAGS.version)
    )
    print(f"release {release.version}: {release.manifest.index['num_ads']:,} ads, verified")
    return release


def _connect(release: bundle.Bundle, **shared: Any) -> orchestrator.Orchestrator:
    """Joins a release with the ranker; the model server serves several versions."""
    address = FLAGS.ranker_address or f"127.0.0.1:{FLAGS.model_server_port}"
    client = ranker_client.RankerClient(
        address, version=release.version, outputs=release.manifest.outputs.values()
    )
    return orchestrator.Orchestrator(release, client, **shared)


def _check_port_is_free(host: str, port: int) -> None:
    """Fails before anything is started, not after."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise model_server.ServerStartError(
                f"Cannot serve on {host}:{port} ({error}); choose another --port or --host."
            ) from error


@contextlib.contextmanager
def _embedded_server(base: pathlib.Path) -> Iterator[None]:
    """Runs the embedded model server as a child process; it serves what releases are in use."""
    with contextlib.ExitStack() as stack:
        path = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())) / "models.config"
        stack.enter_context(
            served_versions.ServedVersions(
                base, local_service.SERVED_MODELS, path, only=FLAGS.version
            )
        )
        command = [
            sys.executable, "-m", "serving.model_server", f"--model_config_file={path}",
            "--model_config_file_poll_wait_seconds=1",
            f"--port={FLAGS.model_server_port}",
            f"--rest_api_port={FLAGS.model_server_rest_port}",
        ]  # fmt: skip
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        try:
            ready = child.stdout.readline()
            if not ready:
                raise model_server.ServerStartError(
                    "The embedded model server did not start; its message is above. "
                    "Choose other ports, or give --ranker_address."
                )
            print(ready.rstrip(), flush=True)
            yield
        finally:
            child.terminate()
            try:
                child.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()


if __name__ == "__main__":
    command_line.run(main)
