r"""Serves a release bundle with a REST service and a model server.

    tfrec serve --workdir=workdir/quickstart
    curl -s localhost:8080/v1/recommend -d '{"k": 3}' -H 'content-type: application/json'
    tfrec serve --workdir=workdir/quickstart --rules=rules.json \
        --impression_log=workdir/impressions

Starts in seconds. The embedded model server runs in its own process and provides TensorFlow
Serving's gRPC (--model_server_port) and REST (--model_server_rest_port) APIs; --ranker_address uses
a running TensorFlow Serving instead. While the ranker is unreachable, ads are returned in retrieval
order and the answers say so. SIGTERM and Ctrl-C shut the service down gracefully: /readyz returns
`draining` for --drain_seconds, then the port is closed and requests in flight are answered.

The service follows tfrec release (promote, rollback, canary), or the latest release if none was
ever promoted, without a failed request; no answer mixes two releases. --version serves one release
and does not follow.

In production, --workers sets the number of processes, which share the port and the memory-mapped
index. --token_file (or the environment variable TFREC_TOKEN), --tls_certificate and --tls_key
secure the service. --log_format=json writes all output to standard error as JSON lines, with one
line per request; only errors at startup are plain text. /metrics is for Prometheus.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from absl import flags

from serving import config, errors, process
from serving.cli import command_line, shared_flags

if TYPE_CHECKING:
    from serving import service

shared_flags.define_release()
shared_flags.define_rules()
shared_flags.define_user_store()
flags.DEFINE_string("host", "127.0.0.1", "Address of the REST service.")
flags.DEFINE_integer("port", 8080, "Port of the REST service.", 1, 65535)
flags.DEFINE_integer(
    "workers",
    1,
    "Number of processes, which share the port, the index and the ranker.",
    lower_bound=1,
)
flags.DEFINE_string(
    "ranker_address",
    None,
    "host:port of a running TensorFlow Serving; several separated by commas, or dns:///NAME:PORT "
    "for all addresses of a name. Default: start the embedded model server.",
)
flags.DEFINE_integer("model_server_port", 8500, "gRPC port of the embedded model server.", 1, 65535)
flags.DEFINE_integer(
    "model_server_rest_port", 8501, "REST port of the embedded model server.", 1, 65535
)
flags.DEFINE_integer(
    "max_body_bytes",
    config.DEFAULT_MAX_BODY_BYTES,
    "Maximum size of a request body in bytes; larger bodies get 413.",
    lower_bound=1,
)
flags.DEFINE_string(
    "token_file",
    None,
    "File with the bearer token that requests must carry, except for /healthz, /readyz and "
    "the pages (/, /console, /docs and /openapi.json); "
    "default: the environment variable TFREC_TOKEN, or no token.",
)
flags.DEFINE_string(
    "tls_certificate", None, "PEM file of the certificate and its chain; enables HTTPS."
)
flags.DEFINE_string("tls_key", None, "PEM file of the key; default: in the certificate's file.")
flags.DEFINE_enum(
    "log_format", "text", config.LOG_FORMATS, "Format of logs; json also logs each request."
)
shared_flags.define_flags(config.OrchestratorConfig)
shared_flags.define_flags(config.RankingConfig)
shared_flags.define_flags(config.HttpConfig)
shared_flags.define_flags(config.UserStoreConfig)
FLAGS = flags.FLAGS
FLAGS["rules"].help += ' "filters" as in a request are also accepted; they apply to all requests.'

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_STOP_SECONDS = 15
# Calls to the model server in addition to the orchestrators', such as the doctor's.
_OTHER_CALLS = 16


def main() -> None:
    from serving import releases, service

    # uvicorn drains on a signal and then raises it again. Without a handler, this process would end
    # before the embedded server is stopped, or Ctrl-C would count as an interrupted command.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    base = shared_flags.bundle_base()
    values = settings(base)
    service.prepare_logs(values.json_logs)
    with contextlib.ExitStack() as stack:
        # Fails before anything is started.
        try:
            listening = stack.enter_context(process.bound_socket(FLAGS.host, FLAGS.port))
        except OSError as error:
            raise errors.ServerStartError(
                f"Cannot serve on {FLAGS.host}:{FLAGS.port} ({error}); stop the server that uses "
                "the port, or choose another --port, or a --host that this machine has."
            ) from error
        releases.current_pointer(base)
        service.check_first_release(values)
        # With several workers, this process does not need a release.
        first = [service.load_stable_release(values)] if FLAGS.workers == 1 else []
        for release in first:
            num_ads = release.manifest.index["num_ads"]
            service.say(f"release {release.version}: {num_ads:,} ads, verified", values.json_logs)
            del release  # Only the router may hold a reference, so that old releases are freed.
        if FLAGS.ranker_address is None:
            stack.enter_context(_embedded_server(base, values.json_logs))
        announce = functools.partial(service.announce, values, listening)
        if first:
            service.serve_release(values, first.pop(), listening, announce)
            return
        end_seconds = values.http.drain_seconds + values.http.end_seconds + _STOP_SECONDS
        service.Workers(
            service.serve_until_signal,
            values,
            listening,
            FLAGS.workers,
            end_seconds,
            announce,
        ).run()


def settings(base: pathlib.Path) -> service.ServiceSettings:
    """Returns the service settings of the flags."""
    from serving import impressions, ranker, service

    _check_ports()
    ranker_address = FLAGS.ranker_address or f"127.0.0.1:{FLAGS.model_server_port}"
    ranker.target(ranker_address)
    user_store = shared_flags.user_store()
    if FLAGS.impression_log is not None:
        impressions.prepare_directory(pathlib.Path(FLAGS.impression_log))
    http = shared_flags.from_flags(
        config.HttpConfig, tls_certificate=FLAGS.tls_certificate, tls_key=FLAGS.tls_key
    )
    service.check_tls(http)
    token = shared_flags.read_token(FLAGS.token_file)
    if token is None and FLAGS.host not in _LOOPBACK:
        print(
            f"warning: The service on {FLAGS.host} accepts unauthenticated requests; set "
            "--token_file to require a token.",
            file=sys.stderr,
        )
    rules = command_line.json_of_flag("rules")
    if user_store is None and rules and rules.get("frequency_caps"):
        print(
            "warning: The frequency caps of --rules count only what requests have in `seen`; set "
            "--user_store to count the ads that the service shows.",
            file=sys.stderr,
        )
    return service.ServiceSettings(
        base=base,
        version=FLAGS.version,
        ranker_address=ranker_address,
        orchestrator=shared_flags.from_flags(
            config.OrchestratorConfig,
            ranker=shared_flags.from_flags(config.RankingConfig),
            rules=rules,
        ),
        http=http,
        token=token,
        max_body_bytes=FLAGS.max_body_bytes,
        impression_directory=FLAGS.impression_log,
        impressions=shared_flags.log_config(),
        user_store=user_store,
        users=shared_flags.from_flags(config.UserStoreConfig),
        json_logs=FLAGS.log_format == "json",
    )


def _check_ports() -> None:
    names = ["port"]
    if FLAGS.ranker_address is None:
        names += ["model_server_port", "model_server_rest_port"]
    for first, second in itertools.combinations(names, 2):
        if FLAGS[first].value == FLAGS[second].value:
            raise ValueError(
                f"--{first} and --{second} are both {FLAGS[first].value}; expected different ports."
            )


@contextlib.contextmanager
def _embedded_server(base: pathlib.Path, json_logs: bool) -> Iterator[None]:
    """Runs the embedded model server in a child process; it serves all published releases.

    It is restarted when it exits.
    """
    from google.protobuf import text_format

    from serving import model_config, service

    with contextlib.ExitStack() as stack:
        path = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())) / "models.config"
        served = {name: base.resolve() / name for name in model_config.SERVED_MODELS}
        text = text_format.MessageToString(model_config.build(served, "all"))
        # All processes together call the stable and the canary release.
        max_calls = 2 * FLAGS.workers * FLAGS.max_ranker_calls
        command = [
            sys.executable, "-P", "-m", "serving.model_server", f"--model_config_file={path}",
            f"--port={FLAGS.model_server_port}",
            f"--grpc_max_threads={max_calls + _OTHER_CALLS}",
            f"--rest_api_port={FLAGS.model_server_rest_port}",
            "--end_with_input",
        ]  # fmt: skip

        def start() -> subprocess.Popen[str]:
            # A host may delete files below /tmp that are some days old, and then their directory.
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            # Ctrl-C is sent to every process of the terminal's group, so the server gets its own
            # group to answer for requests in flight. Its input closes when this process ends for
            # any reason.
            return subprocess.Popen(
                command,
                # With -P, the modules of this process, and none of the current directory.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if json_logs else None,
                text=True,
                errors="replace",
                process_group=0,
            )

        server = process.SupervisedProcess("embedded model server", start, _STOP_SECONDS)
        stack.callback(server.stop)
        ready = server.start()
        if ready is None:
            raise errors.ServerStartError(
                "The embedded model server did not start; its message is above. "
                "Choose other ports, or set --ranker_address."
            )
        service.say(ready, json_logs)
        yield
