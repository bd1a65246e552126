"""Serves a release bundle: REST in front, the model server behind.

    python scripts/serve.py --workdir=workdir/quickstart
    curl -s localhost:8080/v1/recommend -d '{"k": 3}' -H 'content-type: application/json'
    python scripts/serve.py --workdir=workdir/quickstart --rules=rules.json \
        --impression_log=workdir/impressions

Starts in seconds. The embedded model server runs as a process of its own and speaks
TensorFlow Serving's gRPC (--model_server_port) and REST (--model_server_rest_port);
--ranker_address uses a running TensorFlow Serving instead. While the ranker is away,
answers come in retrieval order and say so. SIGTERM and Ctrl-C end it gracefully.
"""

import contextlib
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import bundle_flags
import command_line
import local_service
import rule_flags
import uvicorn
from absl import flags

from serving import app, bundle, model_server, orchestrator, ranker_client

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
    base, rules = bundle_flags.base(), rule_flags.rules()
    _check_port_is_free(FLAGS.host, FLAGS.port)
    release = bundle.load(base, FLAGS.version)
    print(f"release {release.version}: {release.manifest.index['num_ads']:,} ads, verified")
    with contextlib.ExitStack() as stack:
        address = FLAGS.ranker_address
        if address is None:
            stack.enter_context(_embedded_server(base, release.version))
            address = f"127.0.0.1:{FLAGS.model_server_port}"
        client = ranker_client.RankerClient(
            address, version=release.version, outputs=release.manifest.outputs.values()
        )
        config = orchestrator.OrchestratorConfig(
            num_candidates=FLAGS.num_candidates,
            default_deadline_ms=FLAGS.deadline_ms,
            rules=rules,
        )
        impressions = stack.enter_context(rule_flags.open_log())
        service = orchestrator.Orchestrator(release, client, config, impressions=impressions)
        print(f"recommendations on http://{FLAGS.host}:{FLAGS.port}/v1/recommend, API at /docs")
        uvicorn.run(app.create_app(service), host=FLAGS.host, port=FLAGS.port, log_level="warning")


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
def _embedded_server(base: pathlib.Path, version: int) -> Iterator[None]:
    """Runs the embedded model server as a child process for one release."""
    models = "".join(
        f'config {{ name: "{name}" base_path: "{(base / name).resolve()}" '
        f'model_platform: "tensorflow" '
        f"model_version_policy {{ specific {{ versions: {version} }} }} }}\n"
        for name in local_service.SERVED_MODELS
    )
    with tempfile.NamedTemporaryFile("w", suffix=".config") as file:
        file.write(f"model_config_list {{\n{models}}}\n")
        file.flush()
        command = [
            sys.executable, "-m", "serving.model_server", f"--model_config_file={file.name}",
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
