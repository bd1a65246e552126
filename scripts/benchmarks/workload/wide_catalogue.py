"""Gives a data set a catalogue of any size: the values of its ads' fields, put together anew.

Each field of a made-up ad is that of an ad drawn for that field alone, so that what the towers
and the ranker see is what they were trained on, in combinations that no log has shown.

Shapes: N ads, F columns of ad features.
"""

import pathlib

import numpy as np
import pyarrow as pa

from tfrecords import encoding, reader


class WideDataSet(reader.DataSet):
    """A data set whose catalogue has other ads.

    Args:
        directory: What `convert` wrote.
        num_ads: N.
        seed: Of the drawing.
    """

    def __init__(self, directory: pathlib.Path, num_ads: int, seed: int = 0) -> None:
        super().__init__(directory)
        self._num_ads = num_ads
        self._seed = seed

    def catalogue(self) -> reader.Catalogue:
        """Makes the catalogue up; the same seed gives the same one."""
        known = super().catalogue()
        rng = np.random.default_rng(self._seed)
        fields = self.schema.ad_fields
        features = np.empty((self._num_ads, known.features.shape[1]), known.features.dtype)
        columns = {}
        for place, field in enumerate(fields):
            drawn = rng.integers(0, len(known), self._num_ads)
            own = slice(encoding.width(fields[:place]), encoding.width(fields[: place + 1]))
            features[:, own] = known.features[drawn, own]
            columns[field.name] = known.table[field.name].take(pa.array(drawn))
        counts = pa.array(np.ones(self._num_ads, np.int64))
        columns[reader.AD_ID] = pa.array([f"made-up-{row}" for row in range(self._num_ads)])
        columns[reader.IMPRESSIONS] = columns[reader.CLICKS] = counts
        return reader.Catalogue(pa.table(columns), features)
