"""Flags of `tfrec serve`, and the settings that they make."""

from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING

from absl import flags

from serving import config
from serving.cli.flags import rule_flags

if TYPE_CHECKING:
    from serving import service

_HTTP = config.HttpConfig()
_ORCHESTRATOR = config.OrchestratorConfig()
flags.DEFINE_string("host", "127.0.0.1", "Address of the REST service.")
flags.DEFINE_integer("port", 8080, "Port of the REST service.", 1, 65535)
flags.DEFINE_integer(
    "workers", 1, "Processes that share the port, the index and the ranker.", lower_bound=1
)
flags.DEFINE_string("ranker_address", None, "host:port of a running TensorFlow Serving.")
flags.DEFINE_integer("model_server_port", 8500, "gRPC port of the embedded model server.", 1, 65535)
flags.DEFINE_integer(
    "model_server_rest_port", 8501, "REST port of the embedded model server.", 1, 65535
)
flags.DEFINE_integer(
    "num_candidates",
    _ORCHESTRATOR.num_candidates,
    "Ads that the index gives to the ranker.",
    lower_bound=1,
)
flags.DEFINE_float(
    "deadline_ms",
    _ORCHESTRATOR.default_deadline_ms,
    "Deadline of a request that names none; ads that there is no time to rank come in retrieval "
    "order. The default lets a burst through; set what your caller can wait, such as 100.",
    lower_bound=1.0,
)
flags.DEFINE_integer(
    "max_in_flight",
    _ORCHESTRATOR.max_in_flight,
    "Maximum number of requests in flight in a process; others get 429.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "max_ranker_calls",
    _ORCHESTRATOR.ranker.max_calls,
    "Maximum number of concurrent ranker calls of a process; others wait. A model server with a "
    "GPU takes more.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "max_body_bytes", config.DEFAULT_MAX_BODY_BYTES, "Larger bodies get 413.", lower_bound=1
)
flags.DEFINE_string(
    "token_file",
    None,
    "File with the bearer token that requests must carry, except for /healthz and /readyz; "
    "default: the variable TFREC_TOKEN, or none.",
)
flags.DEFINE_string("tls_certificate", None, "PEM file of the certificate; enables https.")
flags.DEFINE_string("tls_key", None, "PEM file of the certificate's key.")
flags.DEFINE_enum(
    "log_format", "text", config.LOG_FORMATS, "Format of logs; json also logs each request."
)
flags.DEFINE_float(
    "drain_seconds",
    _HTTP.drain_seconds,
    "After SIGTERM, how long requests are taken while /readyz says `draining`. Behind a load "
    "balancer: longer than it takes to notice.",
    lower_bound=0.0,
)
FLAGS = flags.FLAGS
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def settings(base: pathlib.Path) -> service.ServiceSettings:
    """Returns the settings of the flags.

    Raises:
        ValueError: The token, the certificate or the rules cannot be used.
        OSError: A file cannot be read.
    """
    from serving import service

    http = config.HttpConfig(
        tls_certificate=FLAGS.tls_certificate,
        tls_key=FLAGS.tls_key,
        drain_seconds=FLAGS.drain_seconds,
    )
    service.check_tls(http)
    token = service.read_token(FLAGS.token_file)
    if token is None and FLAGS.host not in _LOOPBACK:
        print(
            f"warning: The service on {FLAGS.host} accepts unauthenticated requests; set "
            "--token_file to require a token.",
            file=sys.stderr,
        )
    return service.ServiceSettings(
        base=base,
        version=FLAGS.version,
        ranker_address=FLAGS.ranker_address or f"127.0.0.1:{FLAGS.model_server_port}",
        orchestrator=config.OrchestratorConfig(
            num_candidates=FLAGS.num_candidates,
            default_deadline_ms=FLAGS.deadline_ms,
            max_in_flight=FLAGS.max_in_flight,
            ranker=config.RankingConfig(max_calls=FLAGS.max_ranker_calls),
            rules=rule_flags.rules(),
        ),
        http=http,
        token=token,
        max_body_bytes=FLAGS.max_body_bytes,
        impression_directory=FLAGS.impression_log,
        impressions=rule_flags.log_config(),
        json_logs=FLAGS.log_format == "json",
    )
