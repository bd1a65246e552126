"""The common way to convert such a log, as a baseline: one `tf.train.Example` per row.

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
            file.write(_example(values, known).SerializeToString())


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
    """Writes rows of a data set's training split as Examples.

    Args:
        data_set: Data set; a row is a shown ad with the query fields of its request.
        output: File to write.
        num_rows: Maximum number of rows.

    Returns:
        Number of rows written.
    """
    written = 0
    with tf.io.TFRecordWriter(str(output)) as file:
        for window in data_set.windows("train").as_numpy_iterator():
            query = np.repeat(window["query"], window["list_lengths"], axis=0)
            for row in range(min(len(query), num_rows - written)):
                example = _encoded_example(
                    {"query": query[row], "ad": window["ad"][row], "ad_row": window["ad_row"][row]},
                    {label: window[label][row] for label in data_set.spec.labels},
                )
                file.write(example.SerializeToString())
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
    dataset = tf.data.TFRecordDataset(str(path), buffer_size=1 << 20)
    dataset = dataset.shuffle(_SHUFFLE_ROWS, seed=seed).batch(batch_size)
    # Parsing batches is several times as fast as parsing rows.
    dataset = dataset.map(lambda rows: tf.io.parse_example(rows, features), tf.data.AUTOTUNE)
    return dataset.prefetch(tf.data.AUTOTUNE)


def _rows(log: pathlib.Path, num_rows: int) -> Iterator[list[str]]:
    with log.open(encoding="utf-8") as file:
        for line in itertools.islice(file, num_rows):
            yield line.rstrip("\n").split("\t")


def _example(values: list[str], known: Vocabularies) -> tf.train.Example:
    numbers = [float(value or "nan") for value in values[1:14]]
    ids = [
        0 if not value else vocabulary.get(value) or _out_of_vocabulary(value, len(vocabulary))
        for value, vocabulary in zip(values[14:], known, strict=True)
    ]
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                "numbers": tf.train.Feature(float_list=tf.train.FloatList(value=numbers)),
                "ids": tf.train.Feature(int64_list=tf.train.Int64List(value=ids)),
                "click": tf.train.Feature(int64_list=tf.train.Int64List(value=[int(values[0])])),
            }
        )
    )


def _encoded_example(ids: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> tf.train.Example:
    feature = {
        name: tf.train.Feature(int64_list=tf.train.Int64List(value=np.ravel(values).tolist()))
        for name, values in ids.items()
    }
    for name, value in labels.items():
        feature[name] = tf.train.Feature(float_list=tf.train.FloatList(value=[float(value)]))
    return tf.train.Example(features=tf.train.Features(feature=feature))


def _out_of_vocabulary(value: str, vocabulary_size: int) -> int:
    return 1 + vocabulary_size + int(value, 16) % NUM_OOV_BUCKETS
