"""Flags of `tfrec serve`."""

from __future__ import annotations

import itertools
import pathlib
import sys
from typing import TYPE_CHECKING

from absl import flags

from serving import config
from serving.cli import command_line, extras
from serving.cli.flags import rule_flags, update_flags

if TYPE_CHECKING:
    from serving import service

_HTTP = config.HttpConfig()
_ORCHESTRATOR = config.OrchestratorConfig()
_USERS = config.UserStoreConfig()
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
    "num_candidates",
    _ORCHESTRATOR.num_candidates,
    "Number of candidates that the index passes to the ranker.",
    lower_bound=1,
)
flags.DEFINE_float(
    "deadline_ms",
    _ORCHESTRATOR.default_deadline_ms,
    "Default deadline of a request, in milliseconds. If time runs out, fewer candidates are ranked "
    "or ads are returned in retrieval order. The default tolerates bursts; set the time that your "
    "callers can wait, such as 100.",
    lower_bound=1.0,
)
flags.DEFINE_integer(
    "max_in_flight",
    _ORCHESTRATOR.max_in_flight,
    "Maximum number of requests in flight per process; further requests get 429, and so do those "
    "that cannot be answered before their deadline.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "max_ads_per_call",
    _ORCHESTRATOR.max_ads_per_call,
    "Maximum number of ads that the requests of a batch ask for: the sum of k, and of candidates; "
    "larger batches get 413.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "max_ads_in_flight",
    _ORCHESTRATOR.max_ads_in_flight,
    "Maximum number of ads that the requests in flight ask for, per process; further requests get "
    "429.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "max_ranker_calls",
    _ORCHESTRATOR.ranker.max_calls,
    "Maximum number of concurrent ranker calls per process and replica; further calls wait. "
    "Increase it for a model server with a GPU.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "max_body_bytes",
    config.DEFAULT_MAX_BODY_BYTES,
    "Maximum size of a request body in bytes; larger bodies get 413.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "max_connections",
    _HTTP.max_connections,
    "Maximum number of open connections per process, less if the system allows fewer open files. "
    "At the limit, the connection that has waited longest for its client is closed.",
    lower_bound=1,
)
flags.DEFINE_string(
    "token_file",
    None,
    "File with the bearer token that requests must carry, except for /healthz and /readyz; "
    "default: the environment variable TFREC_TOKEN, or no token.",
)
flags.DEFINE_string(
    "tls_certificate", None, "PEM file of the certificate and its chain; enables HTTPS."
)
flags.DEFINE_string("tls_key", None, "PEM file of the key; default: in the certificate's file.")
flags.DEFINE_enum(
    "log_format", "text", config.LOG_FORMATS, "Format of logs; json also logs each request."
)
flags.DEFINE_float(
    "drain_seconds",
    _HTTP.drain_seconds,
    "Time after SIGTERM during which requests are still accepted while /readyz returns `draining`, "
    "in seconds. Set it to more than a load balancer's health check interval.",
    lower_bound=0.0,
)
flags.DEFINE_string(
    "user_store",
    None,
    "Store of profiles and histories of users: sqlite:PATH, or redis://HOST:PORT/DATABASE for "
    "Redis or Valkey. A request with a user_id is completed from it, and the service takes events.",
)
flags.DEFINE_float(
    "user_store_ms",
    _USERS.read_timeout_ms,
    "Time that a request waits for its user, in milliseconds; then it is answered without.",
    lower_bound=0.1,
)
flags.DEFINE_float(
    "user_ttl_days",
    _USERS.ttl_days,
    "Days after which a user without new events or profile is deleted from the store, and events "
    "from users.",
    lower_bound=0.01,
)
flags.DEFINE_bool(
    "store_impressions",
    _USERS.record_impressions,
    "Whether the ads of each answer count as shown to its user. Turn it off if your pages report "
    "what they show as events.",
)
FLAGS = flags.FLAGS
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def settings(base: pathlib.Path) -> service.ServiceSettings:
    """Returns the service settings of the flags.

    Args:
        base: Base directory of the bundles.

    Raises:
        ValueError: The token, the certificate, the rules, a port or an address is not valid.
        OSError: A file cannot be read.
        UserStoreError: The user store cannot be opened.
    """
    from serving import ranker, service, users

    _check_ports()
    ranker_address = FLAGS.ranker_address or f"127.0.0.1:{FLAGS.model_server_port}"
    ranker.split_address(ranker_address)
    if FLAGS.user_store is not None:
        with extras.require_extra("redis"):
            users.check_store(FLAGS.user_store)
    http = config.HttpConfig(
        tls_certificate=FLAGS.tls_certificate,
        tls_key=FLAGS.tls_key,
        drain_seconds=FLAGS.drain_seconds,
        max_connections=FLAGS.max_connections,
    )
    service.check_tls(http)
    token = service.read_token(FLAGS.token_file)
    if token is None and FLAGS.host not in _LOOPBACK:
        print(
            f"warning: The service on {FLAGS.host} accepts unauthenticated requests; set "
            "--token_file to require a token.",
            file=sys.stderr,
        )
    rules = command_line.json_of_flag("rules")
    if FLAGS.user_store is None and rules and rules.get("frequency_caps"):
        print(
            "warning: The frequency caps of --rules count only what requests have in `seen`; set "
            "--user_store to count what the service shows.",
            file=sys.stderr,
        )
    return service.ServiceSettings(
        base=base,
        version=FLAGS.version,
        ranker_address=ranker_address,
        orchestrator=config.OrchestratorConfig(
            num_candidates=FLAGS.num_candidates,
            default_deadline_ms=FLAGS.deadline_ms,
            max_in_flight=FLAGS.max_in_flight,
            max_ads_per_call=FLAGS.max_ads_per_call,
            max_ads_in_flight=FLAGS.max_ads_in_flight,
            ranker=config.RankingConfig(max_calls=FLAGS.max_ranker_calls),
            rules=rules,
        ),
        http=http,
        update_channel=update_flags.update_channel(),
        token=token,
        max_body_bytes=FLAGS.max_body_bytes,
        impression_directory=FLAGS.impression_log,
        impressions=rule_flags.log_config(),
        user_store=FLAGS.user_store,
        users=config.UserStoreConfig(
            read_timeout_ms=FLAGS.user_store_ms,
            ttl_days=FLAGS.user_ttl_days,
            record_impressions=FLAGS.store_impressions,
        ),
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
