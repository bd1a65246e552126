"""Flags that several commands share.

A command calls the `define_…` functions of the groups that it has, so that its --help lists them,
and the functions that return what the flags select.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from absl import flags

from serving import config
from serving.cli import command_line
from tfrec import config as options
from tfrecords import formats, schema, synthetic

if TYPE_CHECKING:
    from serving import export, index
    from tfrecords import convert, reader

Config = TypeVar("Config")
FLAGS = flags.FLAGS
_AS_TEXT: flags.ArgumentSerializer[float] = flags.ArgumentSerializer()
_FLAGS_OF_FILES = (
    "format",
    "schema_path",
    "ads_path",
    "users_path",
    "validation_path",
    "test_path",
)
# Flags belong to the module that calls a function of this one.
flags.disclaim_key_flags()


class _NumberParser(flags.ArgumentParser[float]):
    """Parses a number and refuses it if it is not in the range of an option."""

    def __init__(self, field: dataclasses.Field[Any]) -> None:
        self._field = field
        self.syntactic_help = options.values_of(field)

    def parse(self, argument: Any) -> float:
        kind: Any = type(self._field.default)
        value: float = kind(argument)
        if not options.is_within(self._field, value):
            raise ValueError(self.syntactic_help)
        return value


def define_flags(config: type, names: tuple[str, ...] | None = None) -> None:
    """Defines a flag for each option of a config dataclass, or for those with `names`."""
    for flag, field in options_of(config).items():
        if names is None or field.name in names:
            default: Any = field.default
            text = field.metadata["help"]
            if isinstance(default, bool):
                flags.DEFINE_bool(flag, default, text)
            elif isinstance(default, str):
                flags.DEFINE_string(flag, default, text)
            else:
                flags.DEFINE(_NumberParser(field), flag, default, text, serializer=_AS_TEXT)


def from_flags(config: type[Config], **overrides: Any) -> Config:
    """Returns a config with the values of the flags of `define_flags` and of `overrides`."""
    values = {
        field.name: FLAGS[flag].value for flag, field in options_of(config).items() if flag in FLAGS
    }
    return config(**{**values, **overrides})


def options_of(config: type) -> dict[str, dataclasses.Field[Any]]:
    """Returns the options of a config dataclass by the names of their flags."""
    return {
        field.metadata.get("flag") or field.name: field
        for field in dataclasses.fields(config)
        if "help" in field.metadata
    }


def define_release() -> None:
    """Defines the flags that select a release."""
    flags.DEFINE_string("workdir", "workdir/quickstart", "Work directory with a release bundle.")
    flags.DEFINE_string("bundle", None, "Base directory of bundles; default: WORKDIR/bundle.")
    flags.DEFINE_integer(
        "version",
        None,
        "Release version; default: the stable release, or the latest one if none was ever "
        "promoted.",
        lower_bound=1,
    )


def bundle_base() -> pathlib.Path:
    """Returns the base directory of the bundles."""
    return pathlib.Path(FLAGS.bundle or pathlib.Path(FLAGS.workdir) / "bundle")


def define_access() -> None:
    """Defines the flags to call a service that requires a token or has a certificate."""
    flags.DEFINE_string(
        "token",
        None,
        "Bearer token of the service. Other users of the machine can see it; prefer --token_file.",
    )
    flags.DEFINE_string(
        "token_file",
        None,
        "File with the bearer token; default: the environment variable TFREC_TOKEN, or no token.",
    )
    flags.DEFINE_string(
        "tls_authorities",
        None,
        "PEM file of the certificates to trust for an HTTPS service, such as a self-signed "
        "certificate; default: the public authorities.",
    )


def token() -> str | None:
    """Returns the bearer token to call a service with, or None; see `read_token`."""
    return FLAGS.token or read_token(FLAGS.token_file)


def read_token(path: str | None) -> str | None:
    """Returns the bearer token from a file or the environment variable TFREC_TOKEN, or None."""
    if path is not None:
        with open(path, encoding="utf-8", errors="replace") as file:
            token, source = file.read().strip(), path
    elif "TFREC_TOKEN" in os.environ:
        token, source = os.environ["TFREC_TOKEN"].strip(), "the environment variable TFREC_TOKEN"
    else:
        return None
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"The token in {source} is not valid ({len(token)} characters); expected printable "
            "ASCII characters without spaces. Create one with `openssl rand -hex 32`."
        )
    return token


def define_filters() -> None:
    """Defines the flag for filters of eligible ads."""
    flags.DEFINE_string(
        "filters",
        None,
        "Filters for requests without any: a JSON object such as "
        '{"conditions": [{"field": "price", "at_most": 9}]}, or a file with one.',
    )


def define_force() -> None:
    """Defines the flag that overrides the export gate."""
    flags.DEFINE_bool(
        "force",
        False,
        "Publish even if the export gate refuses the release.",
    )


def define_rules() -> None:
    """Defines the flags of business rules and of the impression log."""
    flags.DEFINE_string(
        "rules",
        None,
        "Business rules for requests without any: a JSON object, or a file with one, "
        'such as {"caps": [{"field": "advertiser", "max": 2}], "frequency_caps": [{"max": 3}], '
        '"diversity": [{"field": "category", "penalty": 0.3}], "exploration": {"share": 0.05}}.',
    )
    flags.DEFINE_string(
        "impression_log",
        None,
        "Directory of the impression log: Parquet files with the shown ads, which tfrec "
        "join_feedback joins with clicks; default: no log.",
    )
    define_flags(config.ImpressionLogConfig)

    def log_config() -> config.ImpressionLogConfig:
        """Returns the impression log config of the flags."""
        return from_flags(config.ImpressionLogConfig)


def log_config() -> config.ImpressionLogConfig:
    """Returns the impression log config of the flags."""
    return from_flags(config.ImpressionLogConfig)


def define_user_store() -> None:
    """Defines the flag of the user store."""
    flags.DEFINE_string(
        "user_store",
        None,
        "Store of profiles and histories of users: sqlite:PATH, or redis://HOST:PORT/DATABASE for "
        "Redis or Valkey; default: the environment variable TFREC_USER_STORE. With a store, a "
        "service completes requests that have a user_id, and accepts events.",
    )


def user_store() -> str | None:
    """Returns the address of the user store, or None."""
    from serving import users

    address = command_line.address_of_flag("user_store")
    if address is not None:
        try:
            with command_line.require_extra("redis"):
                users.check_store(address)
        except ValueError as error:
            raise ValueError(f"--user_store, or TFREC_USER_STORE: {error}") from error
    return address


def define_index() -> None:
    """Defines the flags that select the ad index."""
    from serving import index

    flags.DEFINE_string(
        "index",
        index.AUTO,
        f"Kind of ad index: {', '.join((index.AUTO, *index.KINDS))}, or a FAISS factory string, "
        "such as IVF4096,SQ8.",
    )
    flags.DEFINE_enum(
        "index_backend",
        "faiss",
        index.BACKENDS,
        "Location of the ads' vectors: faiss (in the serving process) or milvus. Kinds in Milvus: "
        f"{', '.join(index.MILVUS_KINDS)}.",
    )
    flags.DEFINE_string(
        "milvus_uri",
        None,
        "Address of the server with --index_backend=milvus, such as http://HOST:19530, or the path "
        "of a milvus-lite file, for one process.",
    )


def index_config() -> index.IndexConfig:
    """Returns the index config of the flags."""
    from serving import index

    return index.IndexConfig(
        kind=FLAGS.index, backend=FLAGS.index_backend, milvus_uri=FLAGS.milvus_uri
    )


def define_distribution() -> None:
    """Defines the flag of commands that can train on several workers or devices."""
    flags.DEFINE_enum(
        "distribution",
        "none",
        ["none", "mirrored", "multi_worker"],
        "Devices that train: none: this process; mirrored: all devices of this machine; "
        "multi_worker: the workers in the environment variable TF_CONFIG; each runs this command "
        "on the same work directory.",
    )


@contextlib.contextmanager
def pipeline(workdir: pathlib.Path, progress: bool) -> Iterator[export.Pipeline]:
    """Joins the workers, and yields the steps of a work directory."""
    from tfrec import training

    with training.joined(FLAGS.distribution) as strategy:
        from serving import export

        yield export.Pipeline(workdir, progress and training.is_chief(strategy), strategy)


def define_log() -> None:
    """Defines the flags that select a log and its conversion."""
    flags.DEFINE_bool("use_synthetic", False, "Use a synthetic log with known ground truth.")
    flags.DEFINE_integer(
        "n_samples", 100_000, "Number of impressions in the synthetic log.", lower_bound=100
    )
    flags.DEFINE_enum("world", "shop", list(synthetic.WORLDS), "World of the synthetic log.")
    flags.DEFINE_string(
        "data_path", None, "The log, plain or gzip: a file, a comma-separated list, or a pattern."
    )
    flags.DEFINE_string(
        "format",
        "criteo_kaggle",
        f"Layout of the log: {', '.join(formats.FORMATS.names)}, or MODULE:CLASS for your own.",
    )
    flags.DEFINE_string(
        "schema_path", None, "Schema file (JSON); default: the format's convention."
    )
    flags.DEFINE_string(
        "ads_path", None, "Table of ads with their fields; may include ads never shown."
    )
    flags.DEFINE_string(
        "users_path", None, "Table of users with their fields (format tabular or your own)."
    )
    flags.DEFINE_string("validation_path", None, "Files of the validation split.")
    flags.DEFINE_string("test_path", None, "Files of the test split.")
    flags.DEFINE_integer("workers", None, "Number of conversion threads; default: all cores.", 1)
    define_flags(options.ConvertConfig)


def converted_data_set(steps: export.Pipeline) -> reader.DataSet:
    """Converts the log of the flags."""
    return steps.convert(log_source(steps), conversion_config(), FLAGS.workers)


def conversion_config() -> options.ConvertConfig:
    """Returns the conversion config of the flags."""
    return from_flags(options.ConvertConfig)


def log_source(steps: export.Pipeline) -> convert.Source:
    """Returns the log of the flags; a synthetic log is generated if needed."""
    from tfrecords import convert

    if FLAGS.use_synthetic == bool(FLAGS.data_path):
        raise ValueError("Give either --use_synthetic or --data_path=FILE.")
    if FLAGS.use_synthetic:
        for name in _FLAGS_OF_FILES:
            if FLAGS[name].present and FLAGS[name].value:
                raise ValueError(
                    f"--{name} describes a log in files, but the synthetic log is generated. Give "
                    f"--data_path=FILE, or leave --{name} out."
                )
        return steps.synthesize(FLAGS.n_samples, synthetic.WORLDS[FLAGS.world])
    paths = formats.expand_paths(FLAGS.data_path)
    if FLAGS["format"].using_default_value and paths[0].is_file():
        _check_default_format(paths[0])
    return convert.Source(
        paths,
        schema.load_schema(FLAGS.schema_path) if FLAGS.schema_path else schema_of_format(),
        FLAGS.format,
        ads_path=optional_path(FLAGS.ads_path),
        users_path=optional_path(FLAGS.users_path),
        validation_path=formats.expand_paths(FLAGS.validation_path),
        test_path=formats.expand_paths(FLAGS.test_path),
    )


def schema_of_format() -> schema.Schema:
    """Returns the schema of the logs of --format."""
    named = formats.schema_of(FLAGS.format)
    if named is None:
        remedy = (
            "tfrec convert --infer_schema proposes one from the data"
            if FLAGS.format == "tabular"
            else "docs/data.md describes its keys"
        )
        raise ValueError(
            f"The format {FLAGS.format} has no schema of its own. Give --schema_path=FILE; "
            f"{remedy}."
        )
    return named


def _check_default_format(path: pathlib.Path) -> None:
    """Checks that a file is Criteo's log, or names the commands for any other table."""
    if formats.criteo.fits(path):
        return
    schema_path = FLAGS.schema_path or "schema.json"
    propose = f"tfrec convert --infer_schema --data_path={FLAGS.data_path}"
    train = f"tfrec train --format=tabular --data_path={FLAGS.data_path}"
    commands = [] if FLAGS.schema_path else [f"{propose} --schema_path={schema_path}"]
    commands.append(f"{train} --schema_path={schema_path}")
    names = ", ".join(name for name in formats.FORMATS.names if "_" not in name)
    raise ValueError(
        f"{path} is not a Criteo log, the default without --format: "
        f"{formats.criteo.LABELED}. Name its --format ({names}, …), or for any other table:\n  "
        + "\n  ".join(commands)
    )


def optional_path(text: str | None) -> pathlib.Path | None:
    """Returns a flag's value as a path, or None if it is empty."""
    return pathlib.Path(text) if text else None
