r"""Converts a log as scripts/convert.py does, on a cluster under Apache Beam.

    pip install '.[beam]'
    python scripts/convert_beam.py --data_path=train.txt --workdir=workdir/criteo
    python scripts/convert_beam.py --data_path=train.txt --workdir=workdir/criteo \
        --direct_running_mode=multi_processing --direct_num_workers=0
    python scripts/convert_beam.py --data_path=/mnt/shared/train.txt \
        --workdir=/mnt/shared/criteo --runner=DataflowRunner --project=P --region=R \
        --temp_location=gs://BUCKET/tmp --sdk_container_image=IMAGE

Flags that are not among those below are Beam's, each as --name=value. WORKDIR/data is byte
for byte what scripts/convert.py writes; on one machine that is the faster of the two.

A cluster needs the log and the work directory on a file system that the driver and all
workers mount under the same path (NFS, Filestore, a mounted bucket), and this package on
every worker (--sdk_container_image or --setup_file). Tested with Beam's direct runner, in
threads and in processes; not tested on Dataflow, Flink or Spark. See `tfrecords.beam`.
"""

import argparse
import pathlib

from absl import flags

from serving import export
from serving.cli import extras
from serving.cli.flags import log_flags
from tfrec.config import ConvertConfig
from tfrecords import convert, reader, terminal

with extras.require_extra("beam"):
    from apache_beam.options import pipeline_options

    from tfrecords import beam

flags.DEFINE_string("workdir", "workdir/train", "Work directory.")
FLAGS = flags.FLAGS
flags.adopt_module_key_flags(log_flags)


_beam_arguments: list[str] = []
_HELP = ("help", "-h", "-help", "helpshort", "helpfull", "flagfile")


class BeamPipeline(export.Pipeline):
    """The steps of a work directory, with a conversion on Beam."""

    def convert(
        self,
        source: convert.Source,
        config: ConvertConfig,
        workers: int | None = None,
    ) -> reader.DataSet:
        """Converts a log."""
        on_beam = beam.on_beam(
            source, self.path("data").absolute(), _beam_arguments, config.max_rejected_fraction
        )
        return super().convert(on_beam, config, workers)


def main() -> None:
    unknown = unknown_to_beam(_beam_arguments)
    if unknown:
        name = unknown[0].removeprefix("--").partition("=")[0]
        hint = terminal.suggestion_for(name, FLAGS)
        raise ValueError(
            f"Neither a flag of this script nor of Beam: {unknown[0]!r}.{hint} See --help."
        )
    log_flags.converted_data_set(BeamPipeline(pathlib.Path(FLAGS.workdir)))


def own_arguments(arguments: list[str]) -> list[str]:
    """Returns the arguments that are this command's flags; the others are Beam's."""
    own: list[str] = []
    _beam_arguments.clear()
    for argument in arguments:
        name = argument.removeprefix("--").partition("=")[0]
        known = {name, name.removeprefix("no")} & {*FLAGS, *_HELP}
        (own if known else _beam_arguments).append(argument)
    return own


def unknown_to_beam(arguments: list[str]) -> list[str]:
    """Returns the arguments that are no options of Beam."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False, conflict_handler="resolve")
    for options in pipeline_options.PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    return parser.parse_known_args(arguments)[1]
