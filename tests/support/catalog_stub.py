"""A stand-in for `reader.DataSet` in tests of models and exports, without a log to convert."""

import pathlib
import types

import pyarrow as pa
import tensorflow as tf

from tfrecords import encoding, reader
from tfrecords.conversion import packing


class CatalogDataSet:
    """A data set of a catalog and some requests."""

    def __init__(self, fitted, ads, requests, request_schema):
        self.fitted, self.schema = fitted, fitted.schema
        self.fingerprint, self.spec = fitted.fingerprint(), packing.spec(fitted)
        self.description = types.SimpleNamespace(splits={})
        self.directory = pathlib.Path("nowhere")
        self._ads, self._requests, self._request_schema = ads, requests, request_schema

    def encode(self, side, table):
        return encoding.Encoder(self.fitted, self.schema.side(side)).encode_table(table)

    def encoded_requests(self):
        """The offline encoder's rows, from Arrow columns as a log gives them."""
        return self.encode("query", pa.Table.from_pylist(self._requests, self._request_schema))

    def catalog(self):
        return reader.Catalog(self._ads, self.encode("ad", self._ads))

    def sample_requests(self):
        return self._requests

    def label_positives(self, split, label):
        return 1

    def label_count(self, split, label):
        return 0

    def num_requests(self, split):
        return len(self._requests)

    def windows(self, split):
        return [{"query": tf.constant(self.encoded_requests())}]

    def clicked(self, split, batch_size, seed):
        return []
