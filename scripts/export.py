"""Exports both trained stages as the next release bundle.

    python scripts/export.py --workdir=workdir/criteo --index=IVFPQ

Seconds. Writes version N into WORKDIR/bundle: query_tower/N, ranker/N, ad_index/N and, last,
manifests/N.json. TensorFlow Serving loads WORKDIR/bundle/ranker as it is.
"""

import pathlib

import command_line
import pipeline
from absl import flags

from serving import ad_index

flags.DEFINE_string("workdir", "workdir/train", "Work directory with both trained stages.")
flags.DEFINE_enum("index", "IVFPQ", ["Flat", "IVF", "IVFPQ", "HNSW"], "Kind of the ad index.")
FLAGS = flags.FLAGS


def main() -> None:
    steps = pipeline.Pipeline(pathlib.Path(FLAGS.workdir))
    data_set = steps.data_set()
    metrics = steps.evaluate(data_set)
    steps.export(data_set, metrics, ad_index.IndexConfig(kind=FLAGS.index))


if __name__ == "__main__":
    command_line.run(main)
