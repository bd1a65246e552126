"""The flags of scripts/serve.py, and the settings that they make."""

import pathlib
import sys

from absl import flags

from serving import orchestrator, service
from serving.cli.flags import rule_flags

_HTTP = service.HttpConfig()
flags.DEFINE_string("host", "127.0.0.1", "Address of the REST service.")
flags.DEFINE_integer("port", 8080, "Port of the REST service.", 1, 65535)
flags.DEFINE_integer(
    "workers", 1, "Processes that share the port, the index and the ranker.", lower_bound=1
)
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
    "Time for a request that names none; what it leaves no time to rank comes in retrieval "
    "order. The default lets a burst through; set what your caller can wait, such as 100.",
    lower_bound=1.0,
)
flags.DEFINE_integer(
    "max_in_hand", 1024, "Requests in hand of a process; beyond, 429.", lower_bound=1
)
flags.DEFINE_integer(
    "max_ranker_calls",
    orchestrator.RankingConfig().most_calls,
    "Calls of a process to the ranker at once; more wait. A model server with a GPU takes more.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "max_body_bytes", service.DEFAULT_MAX_BODY_BYTES, "Larger bodies get 413.", lower_bound=1
)
flags.DEFINE_string(
    "token_file",
    None,
    "File with the bearer token that requests must carry, but for /healthz and /readyz; default: "
    "the variable TFREC_TOKEN, or none.",
)
flags.DEFINE_string("tls_certificate", None, "PEM file of the certificate; makes it https.")
flags.DEFINE_string("tls_key", None, "PEM file of the certificate's key.")
flags.DEFINE_enum("log_format", "text", service.LOG_FORMATS, "json: a line for each request too.")
flags.DEFINE_float(
    "drain_seconds",
    _HTTP.drain_seconds,
    "After SIGTERM, how long requests are taken while /readyz says that the end is near. Behind "
    "a balancer: longer than it takes to notice.",
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
    http = service.HttpConfig(
        tls_certificate=FLAGS.tls_certificate,
        tls_key=FLAGS.tls_key,
        drain_seconds=FLAGS.drain_seconds,
    )
    service.check_tls(http)
    token = service.read_token(FLAGS.token_file)
    if token is None and FLAGS.host not in _LOOPBACK:
        print(
            f"warning: whoever reaches {FLAGS.host} may ask; --token_file makes a token needed.",
            file=sys.stderr,
        )
    return service.ServiceSettings(
        base=base,
        version=FLAGS.version,
        ranker_address=FLAGS.ranker_address or f"127.0.0.1:{FLAGS.model_server_port}",
        orchestrator=orchestrator.OrchestratorConfig(
            num_candidates=FLAGS.num_candidates,
            default_deadline_ms=FLAGS.deadline_ms,
            max_in_hand=FLAGS.max_in_hand,
            ranker=orchestrator.RankingConfig(most_calls=FLAGS.max_ranker_calls),
            rules=rule_flags.rules(),
        ),
        http=http,
        token=token,
        max_body_bytes=FLAGS.max_body_bytes,
        impression_directory=FLAGS.impression_log,
        impressions=rule_flags.log_config(),
        json_logs=FLAGS.log_format == "json",
    )
