"""The flags that name a log and say how it is converted, shared by the scripts that read one."""

import pathlib

from absl import flags

from serving import export
from serving.cli import command_line
from tfrec import config
from tfrecords import convert, formats, reader, schema

flags.DEFINE_bool("use_synthetic", False, "Use a synthetic log with planted truth.")
flags.DEFINE_integer("n_samples", 100_000, "Impressions of the synthetic log.", lower_bound=100)
flags.DEFINE_string(
    "data_path", None, "The log, plain or gzip: a file, several with commas, or a pattern."
)
flags.DEFINE_string("format", "criteo_kaggle", command_line.FORMAT_HELP)
flags.DEFINE_string("schema_path", None, "Schema file (JSON); default: the format's convention.")
flags.DEFINE_string("ads_path", None, "Table of ads: their fields, and ads never shown.")
flags.DEFINE_string("users_path", None, "Table of the users' fields (format tabular).")
flags.DEFINE_string("validation_path", None, "Files that are the validation split.")
flags.DEFINE_string("test_path", None, "Files that are the test split.")
flags.DEFINE_integer("workers", None, "Threads of the conversion; default: all cores.", 1)
command_line.define_flags(config.ConvertConfig)
FLAGS = flags.FLAGS


def converted_data_set(steps: export.Pipeline) -> reader.DataSet:
    """Converts the log that the flags name.

    Raises:
        ValueError: The flags name no log, or two.
    """
    if FLAGS.use_synthetic == bool(FLAGS.data_path):
        raise ValueError("Give either --use_synthetic or --data_path=FILE.")
    config_ = command_line.from_flags(config.ConvertConfig)
    return steps.convert(_source(steps), config_, FLAGS.workers)


def optional_path(text: str | None) -> pathlib.Path | None:
    """Returns the path that a flag names, or None."""
    return pathlib.Path(text) if text else None


def _source(steps: export.Pipeline) -> convert.Source:
    if FLAGS.use_synthetic:
        return steps.synthesize(FLAGS.n_samples)
    convention = formats.format_named(FLAGS.format).schema
    named = schema.load_schema(FLAGS.schema_path) if FLAGS.schema_path else convention()
    if named is None:
        raise ValueError(
            f"The format {FLAGS.format} needs --schema_path=FILE; scripts/convert.py "
            "--infer_schema proposes one from the data."
        )
    return convert.Source(
        formats.expand_paths(FLAGS.data_path),
        named,
        FLAGS.format,
        ads_path=optional_path(FLAGS.ads_path),
        users_path=optional_path(FLAGS.users_path),
        validation_path=formats.expand_paths(FLAGS.validation_path),
        test_path=formats.expand_paths(FLAGS.test_path),
    )
