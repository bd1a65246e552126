"""The rates of ads that are added or changed while a release is served.

A rate is computed from a log (`conversion.event_rates`), so an update of an ad does not include it.
Changed and added ads get the released rates of their values: a new ad gets the rate of its
category.

Shapes: B ads.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serving import index
from serving.index import AD_ID
from tfrecords.schema import AD


class AdRates:
    """The rates of a release, read on first use."""

    def __init__(self, fields: Sequence[Mapping[str, Any]], released: index.AdIndex) -> None:
        self._fields, self._released = fields, released
        self._known_rates: dict[str, tuple[pa.Array, pa.Array]] = {}

    def fill(self, ads: pa.Table) -> pa.Table:
        """Fills in missing rates of ads [B]; null if the release has none."""
        for field in self._fields:
            name = field["name"]
            known = (
                self._rates_of_ads(name, ads)
                if field["of"] == AD
                else self._rates_of_values(field, ads)
            )
            filled = pc.coalesce(ads[name], known.cast(ads.schema.field(name).type))
            ads = ads.set_column(ads.column_names.index(name), name, filled)
        return ads

    def _rates_of_ads(self, name: str, ads: pa.Table) -> pa.Array:
        rows = self._released.find(ads[AD_ID].to_pylist())
        known = self._released.column(np.maximum(rows, 0), name)
        return pc.if_else(pa.array(rows >= 0), known, pa.scalar(None, known.type))

    def _rates_of_values(self, field: Mapping[str, Any], ads: pa.Table) -> pa.Array:
        name, of = field["name"], field["of"]
        if name not in self._known_rates:
            rows = np.arange(self._released.num_ads)
            columns = [self._released.column(rows, column) for column in (of, name)]
            found = pa.table(columns, names=["value", "rate"]).group_by("value")
            table = found.aggregate([("rate", "max")])
            values, rates = (table[column].combine_chunks() for column in ("value", "rate_max"))
            self._known_rates[name] = (values, rates)
        values, rates = self._known_rates[name]
        return rates.take(pc.index_in(ads[of].combine_chunks(), value_set=values, skip_nulls=True))
