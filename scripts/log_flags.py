"""The flags that name a log and say how it is converted, shared by the scripts that read one."""

import command_line
import pipeline
from absl import flags

from tfrec import config
from tfrecords import convert, reader

flags.DEFINE_bool("use_synthetic", False, "Use a synthetic log with planted truth.")
flags.DEFINE_integer("n_samples", 100_000, "Impressions of the synthetic log.", lower_bound=100)
flags.DEFINE_string("data_path", None, "The log, plain or gzip.")
flags.DEFINE_string("format", "criteo", command_line.FORMAT_HELP)
flags.DEFINE_string("schema_path", None, "Schema file (JSON); default: the format's convention.")
flags.DEFINE_string("ads_path", None, "Tab-separated table of ads to add to the catalogue.")
command_line.define_flags(config.ConvertConfig)
FLAGS = flags.FLAGS


def converted(steps: pipeline.Pipeline) -> reader.DataSet:
    """Converts the log that the flags name.

    Raises:
        ValueError: The flags name no log, or two.
    """
    if FLAGS.use_synthetic == bool(FLAGS.data_path):
        raise ValueError("Give either --use_synthetic or --data_path=FILE.")
    return steps.convert(_source(steps), command_line.from_flags(config.ConvertConfig))


def _source(steps: pipeline.Pipeline) -> convert.Source:
    if FLAGS.use_synthetic:
        return steps.synthesize(FLAGS.n_samples)
    return pipeline.source_of(FLAGS.data_path, FLAGS.schema_path, FLAGS.format, FLAGS.ads_path)
