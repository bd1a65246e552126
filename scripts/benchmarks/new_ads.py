"""Measures how well ads that were never shown are found by their text and vectors.

    python scripts/benchmarks/new_ads.py --num_rows=20000
    python scripts/benchmarks/new_ads.py --num_rows=100000 --num_ads=10000

The first command takes about five minutes on two cores. Generates a world of topics with known
click probabilities, `tfrecords.synthetic.TopicWorld`, a quarter of whose ads is never shown, and
trains the two-tower model on the same rows with four schemas: the ids alone, with titles, with
vectors, and with both. The relevant ads of a held-out request are those with the highest click
probability. Measures recall@k of them, separately for ads that were never shown and for the others,
next to chance (k of all ads) and the ground truth, which orders ads by click probability. Prints a
table, and JSON as the last line.
"""

import dataclasses
import pathlib
import shutil
import time

import numpy as np
import pyarrow as pa
from absl import flags
from workload import harness

from serving import cli
from tfrec import config, retrieval
from tfrecords import convert, encoding, reader, synthetic

_NUM_QUERIES = 500
_NUM_RELEVANT = 10

flags.DEFINE_integer("num_rows", 20_000, "Number of shown ads of the log.", lower_bound=1_000)
flags.DEFINE_integer("num_ads", 2_000, "Number of ads of the catalog.", lower_bound=100)
flags.DEFINE_list("contents", list(synthetic.CONTENTS), "Contents of the ads to compare.")
flags.DEFINE_integer("k", 100, "Number of ads that are retrieved.", lower_bound=1)
flags.DEFINE_integer("world_seed", 1, "Seed of the world.", lower_bound=0)
flags.DEFINE_string("workdir", "workdir/benchmark_new_ads", "Work directory.")
cli.define_flags(config.RetrievalConfig)
FLAGS = flags.FLAGS


def main() -> None:
    harness.flag_names("contents", synthetic.CONTENTS)
    if FLAGS.k > FLAGS.num_ads:
        raise ValueError(f"--k: expected at most --num_ads, {FLAGS.num_ads}; got {FLAGS.k}.")
    workdir = pathlib.Path(FLAGS.workdir) / f"ads-{FLAGS.num_ads}-rows-{FLAGS.num_rows}"
    shutil.rmtree(workdir, ignore_errors=True)
    world = synthetic.TopicWorld(
        synthetic.TopicWorldConfig(FLAGS.world_seed, num_ads=FLAGS.num_ads)
    )
    log, ads = world.write(workdir, FLAGS.num_rows)
    queries = world.queries(np.random.default_rng([FLAGS.world_seed, 2]), _NUM_QUERIES)
    truth = world.click_probability(queries)
    rows = [{"content": "chance", "never shown": FLAGS.k / FLAGS.num_ads}]
    rows[0]["shown"] = rows[0]["never shown"]
    options = cli.from_flags(config.RetrievalConfig)
    for content in FLAGS.contents:
        started = time.perf_counter()
        source = convert.Source(log, world.schema(content), "tabular", ads_path=ads)
        convert.convert(source, workdir / content / "data", split="time")
        data_set = reader.DataSet(workdir / content / "data")
        retrieval.train_two_tower(data_set, options, workdir / content / "retrieval")
        model, _ = retrieval.load_two_tower(data_set, workdir / content / "retrieval")
        scores = score(data_set, model, queries.columns())
        rows.append({"content": content, **recalls(world, scores, truth, FLAGS.k)})
        rows[-1]["seconds"] = time.perf_counter() - started
    rows.append({"content": "ground truth", **recalls(world, truth, truth, FLAGS.k)})
    print(
        f"recall@{FLAGS.k} of the {_NUM_RELEVANT} best ads that were never shown, and of the others"
    )
    columns = {"content": "", "never shown": ".3f", "shown": ".3f"}
    harness.print_rows(rows, columns)
    result = {
        "config": dataclasses.asdict(options),
        "world": dataclasses.asdict(world.config),
        "num_rows": FLAGS.num_rows,
        "k": FLAGS.k,
        "recalls": rows,
    }
    harness.print_json(result)


def score(
    data_set: reader.DataSet, model: retrieval.RetrievalModel, queries: dict[str, pa.Array]
) -> np.ndarray:
    """Returns the inner products [Q, N] of queries and all ads, in the order of the world."""
    fields = data_set.schema.query_fields
    encoder = encoding.Encoder(data_set.fitted, fields)
    table = pa.table({field.name: queries[field.name] for field in fields})
    found = model.embed_queries(encoder.encode_table(table))
    catalog = data_set.catalog()
    ads = retrieval.embed_in_batches(model.ad_tower, np.asarray(catalog.features))
    order = np.argsort([int(ad_id[1:]) for ad_id in catalog.ad_ids.to_pylist()])
    return found @ ads[order].T


def recalls(
    world: synthetic.TopicWorld, scores: np.ndarray, truth: np.ndarray, k: int
) -> dict[str, float]:
    """Returns recall@k of the relevant ads, given the scores [Q, N] of all ads."""
    # Ads with the same embedding are in random order.
    jitter = np.random.default_rng(0).permutation(scores.shape[1])
    first = np.lexsort((np.broadcast_to(jitter, scores.shape), -scores), axis=1)[:, :k]
    is_found = np.zeros(scores.shape, bool)
    np.put_along_axis(is_found, first, True, axis=1)
    result = {}
    for name, is_listed in (("never shown", ~world.is_shown), ("shown", world.is_shown)):
        relevant = np.argsort(np.where(is_listed, -truth, np.inf), axis=1)[:, :_NUM_RELEVANT]
        result[name] = float(np.take_along_axis(is_found, relevant, axis=1).mean())
    return result


if __name__ == "__main__":
    cli.run(main)
