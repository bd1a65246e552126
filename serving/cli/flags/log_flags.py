"""Flags that select a log and its conversion."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from absl import flags

from serving.cli import config_flags
from tfrec import config
from tfrecords import formats, schema, synthetic

if TYPE_CHECKING:
    from serving import export
    from tfrecords import convert, reader

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
flags.DEFINE_string("schema_path", None, "Schema file (JSON); default: the format's convention.")
flags.DEFINE_string(
    "ads_path", None, "Table of ads with their fields; may include ads never shown."
)
flags.DEFINE_string(
    "users_path", None, "Table of users with their fields (format tabular or your own)."
)
flags.DEFINE_string("validation_path", None, "Files of the validation split.")
flags.DEFINE_string("test_path", None, "Files of the test split.")
flags.DEFINE_integer("workers", None, "Number of conversion threads; default: all cores.", 1)
config_flags.define_flags(config.ConvertConfig)
FLAGS = flags.FLAGS
_FLAGS_OF_FILES = (
    "format",
    "schema_path",
    "ads_path",
    "users_path",
    "validation_path",
    "test_path",
)


def converted_data_set(steps: export.Pipeline) -> reader.DataSet:
    """Converts the log of the flags.

    Raises:
        ValueError: The flags select no log, or two.
    """
    return steps.convert(log_source(steps), conversion_config(), FLAGS.workers)


def conversion_config() -> config.ConvertConfig:
    """Returns the conversion config of the flags."""
    return config_flags.from_flags(config.ConvertConfig)


def log_source(steps: export.Pipeline) -> convert.Source:
    """Returns the log of the flags; a synthetic log is generated if needed.

    Raises:
        ValueError: The flags select no log, or two.
    """
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
    """Returns the schema of the logs of --format.

    Raises:
        ValueError: The format is unknown or has no schema.
    """
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
