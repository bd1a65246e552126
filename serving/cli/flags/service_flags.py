"""Flags of `tfrec serve`."""

from __future__ import annotations

import itertools
import pathlib
import sys
from typing import TYPE_CHECKING

from absl import flags

from serving import config
from serving.cli import command_line, config_flags
from serving.cli.flags import rule_flags, update_flags, user_flags

if TYPE_CHECKING:
    from serving import service

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
config_flags.define_flags(config.OrchestratorConfig)
config_flags.define_flags(config.RankingConfig)
config_flags.define_flags(config.HttpConfig)
config_flags.define_flags(config.UserStoreConfig)
FLAGS = flags.FLAGS
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def settings(base: pathlib.Path) -> service.ServiceSettings:
    """Returns the service settings of the flags.

    Raises:
        ValueError: The token, the certificate, the rules, a port or an address is not valid.
        OSError: A file cannot be read.
        UserStoreError: The user store cannot be opened.
    """
    from serving import ranker, service

    _check_ports()
    ranker_address = FLAGS.ranker_address or f"127.0.0.1:{FLAGS.model_server_port}"
    ranker.split_address(ranker_address)
    user_store = user_flags.user_store()
    http = config_flags.from_flags(
        config.HttpConfig, tls_certificate=FLAGS.tls_certificate, tls_key=FLAGS.tls_key
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
        orchestrator=config_flags.from_flags(
            config.OrchestratorConfig,
            ranker=config_flags.from_flags(config.RankingConfig),
            rules=rules,
        ),
        http=http,
        update_channel=update_flags.update_channel(),
        token=token,
        max_body_bytes=FLAGS.max_body_bytes,
        impression_directory=FLAGS.impression_log,
        impressions=rule_flags.log_config(),
        user_store=user_store,
        users=config_flags.from_flags(config.UserStoreConfig),
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
