"""The most expensive request of a data set: its histories are full."""

from typing import Any

import numpy as np

from tfrecords import reader


def with_full_histories(data_set: reader.DataSet) -> dict[str, Any]:
    """Returns the sample request with the most events, repeated up to the maximum length."""
    full = {name: f.max_length for f in data_set.schema.histories for name in f.inputs}
    sample = max(data_set.sample_requests(), key=lambda own: sum(len(own[n] or ()) for n in full))
    repeated = {n: np.resize(sample[n], length).tolist() for n, length in full.items() if sample[n]}
    return {**sample, **repeated}
