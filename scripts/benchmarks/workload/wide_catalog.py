"""Gives a data set a generated catalog of any size, which recombines the values of its ads.

Each field of a generated ad comes from a random ad, drawn independently for each field. Towers and
ranker thus get values that they were trained on, in new combinations.

Shapes: N ads, F columns of ad features.
"""

import pathlib

import numpy as np
import pyarrow as pa

from tfrecords import encoding, reader


class WideDataSet(reader.DataSet):
    """A converted data set with a generated catalog of `num_ads` ads."""

    def __init__(self, directory: pathlib.Path, num_ads: int) -> None:
        super().__init__(directory)
        self._num_ads = num_ads

    def catalog(self) -> reader.Catalog:
        """Generates the catalog, the same in each call."""
        known = super().catalog()
        rng = np.random.default_rng(0)
        fields = self.schema.ad_fields
        features = np.empty((self._num_ads, known.features.shape[1]), known.features.dtype)
        columns = {}
        for index, field in enumerate(fields):
            drawn = rng.integers(0, len(known), self._num_ads)
            span = slice(encoding.width(fields[:index]), encoding.width(fields[: index + 1]))
            features[:, span] = known.features[drawn, span]
            columns[field.name] = known.table[field.name].take(pa.array(drawn))
        counts = pa.array(np.ones(self._num_ads, np.int64))
        columns[reader.AD_ID] = pa.array([f"made-up-{row}" for row in range(self._num_ads)])
        columns[reader.IMPRESSIONS] = columns[reader.CLICKS] = counts
        return reader.Catalog(pa.table(columns), features)
