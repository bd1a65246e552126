"""Gives a data set's models embedding tables of any size, with ids from all of their rows.

The categorical field of each side with the most ids gets additional out-of-vocabulary buckets until
the side's table has the requested number of rows. The ids of these fields in a batch are redrawn
uniformly. Apart from its tables, the model is that of the data set.

Shapes: W columns of ids of a side.
"""

import dataclasses
import pathlib

import numpy as np
import tensorflow as tf

from tfrecords import encoding, reader, schema


def open_widened(directory: pathlib.Path, num_rows: int) -> reader.DataSet:
    """Opens a data set whose models will have a table of `num_rows` rows per side.

    Args:
        directory: Directory of the data set.
        num_rows: Number of rows of each table.

    Raises:
        ValueError: The fields of a side have more ids than `num_rows`.
    """
    data_set = reader.DataSet(directory)
    fitted = data_set.fitted
    widened = [_widened(fitted, side, num_rows) for side in schema.SIDES]
    by_name = {field.name: field for field in widened}
    fields = tuple(by_name.get(field.name, field) for field in fitted.schema.fields)
    data_set.schema = dataclasses.replace(fitted.schema, fields=fields)
    data_set.fitted = encoding.FittedSchema(data_set.schema, fitted.statistics)
    return data_set


def _widest(fitted: encoding.FittedSchema, side: str) -> schema.Field:
    fields = [field for field in fitted.schema.side(side) if field.kind == "categorical"]
    return max(fields, key=fitted.cardinality)


def _widened(fitted: encoding.FittedSchema, side: str, num_rows: int) -> schema.Field:
    tables = [field for field in fitted.schema.side(side) if field.kind != "numeric"]
    present = sum(map(fitted.cardinality, tables))
    if num_rows < present:
        raise ValueError(
            f"A table of {num_rows:,} rows cannot hold the {present:,} ids of the {side} fields; "
            "ask for more rows with --table_rows, or use a smaller log."
        )
    field = _widest(fitted, side)
    return dataclasses.replace(field, num_oov_buckets=field.num_oov_buckets + num_rows - present)


def draw_ids(data_set: reader.DataSet, batch: reader.Batch, seed: int) -> reader.Batch:
    """Returns a batch of a widened data set with new ids of the widened fields."""
    generator = np.random.default_rng(seed)
    drawn = dict(batch)
    for side in schema.SIDES:
        fields = data_set.schema.side(side)
        widest = _widest(data_set.fitted, side)
        column = encoding.width(fields[: fields.index(widest)])
        ids = batch[side].numpy()  # [..., W]
        ids[..., column] = generator.integers(
            1, data_set.fitted.cardinality(widest), ids.shape[:-1]
        )
        drawn[side] = tf.constant(ids)
    return drawn
