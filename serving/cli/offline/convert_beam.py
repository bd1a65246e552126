r"""Converts a log on a cluster with Apache Beam, like tfrec convert.

    pip install '.[beam]'
    tfrec convert_beam --data_path=train.txt --workdir=workdir/criteo
    tfrec convert_beam --data_path=train.txt --workdir=workdir/criteo \
        --direct_running_mode=multi_processing --direct_num_workers=0
    tfrec convert_beam --data_path=/mnt/shared/train.txt \
        --workdir=/mnt/shared/criteo --runner=DataflowRunner --project=P --region=R \
        --temp_location=gs://BUCKET/tmp --sdk_container_image=IMAGE

Other flags than those below are passed to Beam as --name=value. WORKDIR/data is byte-identical to
the output of tfrec convert, which is faster on a single machine.

On a cluster, the driver and all workers must mount the log and the work directory at the same path
(NFS, Filestore, a mounted bucket), and every worker needs this package (--sdk_container_image or
--setup_file). Tested with Beam's direct runner, with threads and processes; not tested on
Dataflow, Flink or Spark. See `tfrecords.beam`.
"""

import pathlib

from absl import flags

from serving.cli import extras
from serving.cli.flags import log_flags
from tfrecords import terminal

flags.DEFINE_string("workdir", "workdir/train", "Work directory.")
FLAGS = flags.FLAGS
flags.adopt_module_key_flags(log_flags)
# Beam's flags from the command line.
OTHER_FLAGS: list[str] = []


def main() -> None:
    with extras.require_extra("beam"):
        from tfrecords import beam
    from serving import export

    _check_beam_flags()
    steps = export.Pipeline(pathlib.Path(FLAGS.workdir))
    config = log_flags.conversion_config()
    source = beam.on_beam(
        log_flags.log_source(steps),
        steps.path("data").absolute(),
        OTHER_FLAGS,
        config.max_rejected_fraction,
    )
    steps.convert(source, config, FLAGS.workers)


def _check_beam_flags() -> None:
    """Raises ValueError if an argument is not an option of Beam."""
    from apache_beam.options import pipeline_options

    parser = pipeline_options._BeamArgumentParser(
        allow_abbrev=False, add_help=False, conflict_handler="resolve"
    )
    for options in pipeline_options.PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    unknown = parser.parse_known_args(OTHER_FLAGS)[1]
    if unknown:
        name = unknown[0].removeprefix("--").partition("=")[0]
        hint = terminal.suggestion_for(name, FLAGS)
        raise ValueError(
            f"{unknown[0]!r} is a flag of neither this command nor Beam.{hint} See --help."
        )
