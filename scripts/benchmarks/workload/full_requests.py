"""The most expensive request of a data set: its histories are full."""

import numpy as np

from serving import requests
from tfrecords import reader


def draw(data_set: reader.DataSet, num_candidates: int) -> tuple[requests.Columns, np.ndarray]:
    """Returns the raw columns of the request and random ads [1, C, Wa].

    The request is the sample request with the most events, repeated up to the maximum length.
    """
    schema = data_set.schema
    full = {name: f.max_length for f in schema.histories for name in f.inputs}
    sample = max(data_set.sample_requests(), key=lambda row: sum(len(row[n] or ()) for n in full))
    repeated = {n: np.resize(sample[n], length).tolist() for n, length in full.items() if sample[n]}
    fields = requests.QueryFields(
        [
            {"name": name, "kind": kind, "length": field.length}
            for field in schema.query_fields
            for name, kind in field.inputs.items()
        ],
        [f.name for f in schema.ad_fields],
    )
    features = np.asarray(data_set.catalog().features)
    rows = np.random.default_rng(1).integers(0, len(features), (1, num_candidates))
    return fields.columns([fields.merge({}, {**sample, **repeated})]), features[rows]


def as_arrays(columns: requests.Columns, ad_features: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the inputs of a ranker by name."""
    arrays = {
        name: values if isinstance(values, np.ndarray) else np.array(values, object)
        for name, values in columns.items()
    }
    return {**arrays, "ad_features": ad_features}
