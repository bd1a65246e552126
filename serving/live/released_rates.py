"""The rates of changed and added ads: those that their values have in the release.

A rate is computed from a log (`tfrecords.rates`), and an update cannot know it. A new ad of a
category has the rate of this category.

Shapes: B ads, V values of a field.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serving import index
from serving.index import AD_ID
from tfrecords.schema import AD


class ReleasedRates:
    """Knows the rates of a release; they are read when the first ad needs them.

    Args:
        fields: Fields of the release's schema, as JSON values.
        released: Index of the release.
    """

    def __init__(self, fields: Sequence[Mapping[str, Any]], released: index.AdIndex) -> None:
        is_rate = {f["name"]: f["kind"] == "numeric" and bool(f.get("of")) for f in fields}
        self._fields = [field for field in fields if is_rate[field["name"]]]
        self._released = released
        self._of_values: dict[str, tuple[pa.Array, pa.Array]] = {}

    def fill(self, ads: pa.Table) -> pa.Table:
        """Returns ads [B] with the rates that they lack; null where the release has none."""
        for field in self._fields:
            name = field["name"]
            known = self._of_ads(name, ads) if field["of"] == AD else self._of(field, ads)
            filled = pc.coalesce(ads[name], known.cast(ads.schema.field(name).type))
            ads = ads.set_column(ads.column_names.index(name), name, filled)
        return ads

    def _of_ads(self, name: str, ads: pa.Table) -> pa.Array:
        rows = self._released.find(ads[AD_ID].to_pylist())
        known = self._released.column(np.maximum(rows, 0), name)
        return pc.if_else(pa.array(rows >= 0), known, pa.scalar(None, known.type))

    def _of(self, field: Mapping[str, Any], ads: pa.Table) -> pa.Array:
        name, of = field["name"], field["of"]
        if name not in self._of_values:
            rows = np.arange(self._released.num_ads)
            columns = [self._released.column(rows, column) for column in (of, name)]
            found = pa.table(columns, names=["value", "rate"]).group_by("value")
            table = found.aggregate([("rate", "max")])
            values, rates = (table[column].combine_chunks() for column in ("value", "rate_max"))
            self._of_values[name] = (values, rates)
        values, rates = self._of_values[name]
        return rates.take(pc.index_in(ads[of].combine_chunks(), value_set=values, skip_nulls=True))
