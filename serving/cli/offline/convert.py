r"""Converts a log into TFRecords, an encoder and an ad catalog.

    tfrec convert --data_path=train.txt --workdir=workdir/criteo
    tfrec convert --format=outbrain --data_path=outbrain/ --workdir=workdir/outbrain
    tfrec convert --infer_schema --data_path=log.csv --schema_path=schema.json
    tfrec convert --format=tabular --data_path=log.csv --schema_path=schema.json \
        --workdir=workdir/shop

Converts about 200,000 rows a second on two cores, and 30,000 of JSON lines. Writes WORKDIR/data.
Each row is either written, joined or left out as an event, or listed in WORKDIR/data/rejected.tsv
with its file, line and reason. If the command is killed, run it again to resume. --json prints
WORKDIR/data/dataset.json. --infer_schema proposes a schema file for a table, which you then edit.
--write_schema writes the schema of a format, for example to lower min_count for a small log:

    tfrec convert --format=avazu --write_schema=avazu.json

--runner names a runner of Apache Beam (extra `beam`), which converts on a cluster to the same
bytes. Flags that are not listed below are then Beam's, given as --name=value:

    tfrec convert --data_path=/mnt/log.tsv --workdir=/mnt/criteo --runner=DaskRunner \
        --dask_client_address=HOST:8786

The driver and all workers must mount the log and the work directory at the same path (NFS,
Filestore, a mounted bucket), and every worker needs this package. See `tfrecords.beam`.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from absl import flags

from serving.cli import command_line, shared_flags
from tfrecords import formats

if TYPE_CHECKING:
    from serving import export
    from tfrecords import reader

flags.DEFINE_string("workdir", "workdir/train", "Work directory.")
flags.DEFINE_bool("infer_schema", False, "Only propose a schema file from the data.")
flags.DEFINE_string("write_schema", None, "Only write the schema of --format to this file.")
flags.DEFINE_bool("json", False, "Print only a description of the data set, as JSON.")
flags.DEFINE_string(
    "runner", None, "Runner of Apache Beam, such as DaskRunner; default: threads of this process."
)
FLAGS = flags.FLAGS
shared_flags.define_log()
# Beam's flags from the command line.
OTHER_FLAGS: list[str] = []


def main() -> None:
    if FLAGS.runner == "":
        raise ValueError("--runner is empty; expected a runner of Apache Beam, such as DaskRunner.")
    if OTHER_FLAGS and not FLAGS.runner:
        command_line.fail(f"Unknown flag {OTHER_FLAGS[0]!r}. See --help.")
    if FLAGS.infer_schema:
        _propose()
        return
    if FLAGS.write_schema:
        _write_schema(pathlib.Path(FLAGS.write_schema))
        return
    from serving import export

    steps = export.Pipeline(pathlib.Path(FLAGS.workdir), progress=not FLAGS.json)
    data_set = _convert_on_beam(steps) if FLAGS.runner else shared_flags.converted_data_set(steps)
    steps.print_label_summary(data_set)
    if FLAGS.json:
        command_line.print_json({"directory": data_set.directory, **data_set.description.to_json()})


def _convert_on_beam(steps: export.Pipeline) -> reader.DataSet:
    with command_line.require_extra("beam"):
        from tfrecords import beam

    options = [f"--runner={FLAGS.runner}", *OTHER_FLAGS]
    beam.check_options(options, FLAGS)
    config = shared_flags.conversion_config()
    source = beam.on_beam(
        shared_flags.log_source(steps),
        steps.path("data"),
        options,
        config.max_rejected_fraction,
    )
    return steps.convert(source, config, FLAGS.workers)


def _write_schema(target: pathlib.Path) -> None:
    from tfrecords import schema, synthetic

    if target.exists():
        raise FileExistsError(f"{target} exists. Move it, or name another file.")
    world_schema = FLAGS.use_synthetic and synthetic.World(synthetic.WORLDS[FLAGS.world]).schema
    named = world_schema or shared_flags.schema_of_format()
    schema.save_schema(named, target)
    print(f"Wrote the schema of {named.name} to {target}. Edit it, and add --schema_path={target}.")


def _propose() -> None:
    from tfrecords import schema_inference

    if not FLAGS.data_path:
        raise ValueError("--infer_schema requires --data_path=FILE.")
    if FLAGS.format != "tabular" and not FLAGS["format"].using_default_value:
        raise ValueError(
            "--infer_schema proposes the schema of a table, which --format=tabular reads, got "
            f"--format={FLAGS.format}. Leave --format out, or give --write_schema=FILE instead to "
            "write the schema that a format has."
        )
    first = formats.expand_paths(FLAGS.data_path)[0]
    is_default = FLAGS["format"].using_default_value
    if is_default and formats.criteo.is_surely(first):
        raise ValueError(
            f"{first} is a Criteo log: {formats.criteo.LABELED}. Leave --infer_schema out, or give "
            "--write_schema=FILE instead to write the schema of this format."
        )
    if is_default and (named := formats.name_by_columns(formats.column_names(first, ()))):
        raise ValueError(
            f"{first} has the columns of the format {named}. Give --format={named} and leave "
            "--infer_schema out, or give --write_schema=FILE instead to write the schema of this "
            "format. With --format=tabular, a schema is proposed nevertheless."
        )
    target = pathlib.Path(FLAGS.schema_path or pathlib.Path(FLAGS.workdir) / "schema.json")
    users, ads = (
        shared_flags.optional_path(FLAGS.users_path),
        shared_flags.optional_path(FLAGS.ads_path),
    )
    print(schema_inference.write_proposal(FLAGS.data_path, users, ads, target))
