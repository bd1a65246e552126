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
secure the service. --log_format=json writes all output as lines of JSON to the standard error, one
for each request; an error that ends the start is text. /metrics is for Prometheus.
"""

from __future__ import annotations

import contextlib
import functools
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from absl import flags

from serving import errors, model_config, process
from serving.cli.flags import bundle_flags, rule_flags, service_flags, update_flags, user_flags

flags.adopt_module_key_flags(bundle_flags)
flags.adopt_module_key_flags(service_flags)
flags.adopt_module_key_flags(rule_flags)
flags.adopt_module_key_flags(update_flags)
flags.adopt_module_key_flags(user_flags)
FLAGS = flags.FLAGS

_STOP_SECONDS = 15
# Calls to the model server in addition to the orchestrators', such as the doctor's.
_OTHER_CALLS = 16


def main() -> None:
    from serving import releases, service

    # uvicorn drains on SIGTERM and then raises it again. Without a handler, this process would end
    # before the embedded server is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    base = bundle_flags.bundle_base()
    settings = service_flags.settings(base)
    service.prepare_logs(settings.json_logs)
    with contextlib.ExitStack() as stack:
        # Fails before anything is started.
        try:
            listening = stack.enter_context(process.bound_socket(FLAGS.host, FLAGS.port))
        except OSError as error:
            raise service.cannot_serve(FLAGS.host, FLAGS.port, error) from error
        releases.current_pointer(base)
        service.check_rules(settings)
        # With several workers, this process does not need a release.
        first = [service.load_stable_release(settings)] if FLAGS.workers == 1 else []
        for release in first:
            num_ads = release.manifest.index["num_ads"]
            service.say(f"release {release.version}: {num_ads:,} ads, verified", settings.json_logs)
            del release  # Only the router may hold a reference, so that old releases are freed.
        if FLAGS.ranker_address is None:
            stack.enter_context(_embedded_server(base, settings.json_logs))
        if first:
            service.serve_release(settings, first.pop(), listening)
            return
        end_seconds = settings.http.drain_seconds + settings.http.end_seconds + _STOP_SECONDS
        service.Workers(
            service.serve_until_signal,
            settings,
            listening,
            FLAGS.workers,
            end_seconds,
            functools.partial(service.announce, settings, listening),
        ).run()


@contextlib.contextmanager
def _embedded_server(base: pathlib.Path, json_logs: bool) -> Iterator[None]:
    """Runs the embedded model server in a child process; it serves the releases in use.

    It is restarted when it exits.
    """
    from serving import releases, service

    with contextlib.ExitStack() as stack:
        path = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())) / "models.config"
        stack.enter_context(
            releases.ServedVersions(base, model_config.SERVED_MODELS, path, only=FLAGS.version)
        )
        # By all processes together, to the stable and the canary release.
        max_calls = 2 * FLAGS.workers * FLAGS.max_ranker_calls
        command = [
            sys.executable, "-m", "serving.model_server", f"--model_config_file={path}",
            "--model_config_file_poll_wait_seconds=1",
            f"--port={FLAGS.model_server_port}",
            f"--grpc_max_threads={max_calls + _OTHER_CALLS}",
            f"--rest_api_port={FLAGS.model_server_rest_port}",
            "--end_with_input",
        ]  # fmt: skip
        # Ctrl-C is sent to every process of the terminal's group, so the server gets its own group
        # to answer for requests in flight. Its input closes when this process ends for any reason.
        start = functools.partial(
            subprocess.Popen,
            command,
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
