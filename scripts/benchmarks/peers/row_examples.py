"""The common way to convert a Criteo log, as a baseline: one `tf.train.Example` per row.

Like most published Criteo preparations, a first pass counts the values of each column in a
dictionary; a second pass looks each value up and writes the numbers and ids of each row, in the
order of the log, to one file.

Shapes: B rows of a batch.
"""

import collections
import itertools
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from tfrecords import formats, reader

MIN_COUNT = 5
NUM_OOV_BUCKETS = 8
_SHUFFLE_ROWS = 100_000
Vocabularies = list[dict[str, int]]


def write(log: pathlib.Path, output: pathlib.Path, num_rows: int) -> None:
    """Writes the first rows of a log as Examples."""
    known = vocabularies(log, num_rows)
    with tf.io.TFRecordWriter(str(output)) as file:
        for values in _rows(log, num_rows):
            numbers = [float(value or "nan") for value in values[1:14]]
            ids = [
                # Out of vocabulary, a value has one of the last ids.
                vocabulary.get(value) or 1 + len(vocabulary) + int(value, 16) % NUM_OOV_BUCKETS
                if value
                else 0
                for value, vocabulary in zip(values[14:], known, strict=True)
            ]
            file.write(_example({"ids": ids, "click": [int(values[0])]}, {"numbers": numbers}))


def vocabularies(log: pathlib.Path, num_rows: int) -> Vocabularies:
    """Counts the values of each categorical column and numbers the frequent ones from 1."""
    counts = [collections.Counter[str]() for _ in formats.criteo.CATEGORICAL_COLUMNS]
    for values in _rows(log, num_rows):
        for counter, value in zip(counts, values[14:], strict=True):
            counter[value] += 1
    return [
        {
            value: index
            for index, (value, count) in enumerate(counter.most_common(), 1)
            if value and count >= MIN_COUNT
        }
        for counter in counts
    ]


def write_encoded(data_set: reader.DataSet, output: pathlib.Path, num_rows: int) -> int:
    """Writes shown ads of training, with the query fields of their request, as Examples.

    Returns the number of rows written, at most `num_rows`.
    """
    written = 0
    with tf.io.TFRecordWriter(str(output)) as file:
        for window in data_set.windows("train").as_numpy_iterator():
            query = np.repeat(window["query"], window["list_lengths"], axis=0)
            for row in range(min(len(query), num_rows - written)):
                ids = {"query": query[row].tolist(), "ad": window["ad"][row].tolist()}
                ids["ad_row"] = [int(window["ad_row"][row])]
                labels = {label: [float(window[label][row])] for label in data_set.spec.labels}
                file.write(_example(ids, labels))
                written += 1
            if written == num_rows:
                break
    return written


def batches(
    data_set: reader.DataSet, path: pathlib.Path, batch_size: int, seed: int
) -> tf.data.Dataset:
    """Streams shuffled batches of a file written by `write_encoded`.

    Yields:
        `query` [B, Fq], `ad` [B, Fa] and `ad_row` [B] int64, and each label [B] float32.
    """
    widths = {"query": len(data_set.spec.query_widths), "ad": len(data_set.spec.ad_widths)}
    features = {k: tf.io.FixedLenFeature([width], tf.int64) for k, width in widths.items()}
    features["ad_row"] = tf.io.FixedLenFeature([], tf.int64)
    features |= {name: tf.io.FixedLenFeature([], tf.float32) for name in data_set.spec.labels}
    dataset = reader.without_tuning(tf.data.TFRecordDataset(str(path), buffer_size=1 << 20))
    dataset = dataset.shuffle(_SHUFFLE_ROWS, seed=seed).batch(batch_size)
    # Parsing batches is several times as fast as parsing rows.
    dataset = dataset.map(lambda rows: tf.io.parse_example(rows, features), tf.data.AUTOTUNE)
    return dataset.prefetch(tf.data.AUTOTUNE)


def _rows(log: pathlib.Path, num_rows: int) -> Iterator[list[str]]:
    with log.open(encoding="utf-8") as file:
        for line in itertools.islice(file, num_rows):
            yield line.rstrip("\n").split("\t")


def _example(ids: dict[str, list[int]], numbers: dict[str, list[float]]) -> bytes:
    """Returns the bytes of an Example with these features."""
    feature = {
        name: tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        for name, values in ids.items()
    }
    for name, values in numbers.items():
        feature[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
