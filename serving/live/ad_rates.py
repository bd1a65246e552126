"""The rates of ads while a release is served.

A rate is computed from a log (`conversion.event_rates`), so an update of an ad does not include it.
Changed and added ads get the released rates of their values: a new ad gets the rate of its
category. Rates can be updated, too: the latest rate of a value applies to all ads that have the
value.

Shapes: B ads, V values of a field, F columns of ad features.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serving import errors, index, requests
from serving.index import AD_ID
from tfrecords import terminal
from tfrecords.fields import is_number
from tfrecords.schema import AD, IMPRESSION

Embed = Callable[[pa.Table], tuple[np.ndarray, np.ndarray]]
"""Maps raw ads [B] to embeddings [B, D] and features [B, F]; see `releases.AdTower`."""

# Number of values, and the rates, that are encoded to find their columns in the ad features.
_NUM_PROBED = 100
_PROBED_RATES = (0.0, 0.5, 1.0)


@dataclasses.dataclass(frozen=True)
class RateUpdate:
    """New rates of the values of a field, which replace the released ones.

    Attributes:
        name: The rate.
        of: The field.
        columns: Columns of the field and the rate in the ad features.
        numbers: Value -> rate.
        encoded: [V, 2] int32, the ids of values and of their rates.
    """

    name: str
    of: str
    columns: tuple[int, int]
    numbers: Mapping[str, float]
    encoded: np.ndarray

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Parses the result of `to_json`."""
        encoded = np.array(value["encoded"], np.int32).reshape(-1, 2)
        return cls(**{**value, "columns": tuple(value["columns"]), "encoded": encoded})

    def to_json(self) -> dict[str, Any]:
        """Returns the update as JSON values."""
        return {**dataclasses.asdict(self), "encoded": self.encoded.tolist()}

    def apply(self, features: np.ndarray) -> None:
        """Writes the rates into ad features [..., F] int32."""
        value_column, rate_column = self.columns
        ids, rates = self._sorted[:, 0], self._sorted[:, 1]
        if not len(ids):
            return
        indices = np.minimum(np.searchsorted(ids, features[..., value_column]), len(ids) - 1)
        is_set = ids[indices] == features[..., value_column]
        features[..., rate_column] = np.where(is_set, rates[indices], features[..., rate_column])

    @functools.cached_property
    def _sorted(self) -> np.ndarray:
        """`encoded`, by ascending ids of values."""
        return self.encoded[np.argsort(self.encoded[:, 0])]


class AdRates:
    """The rates of a release, read on first use.

    Args:
        fields: The rates of the release's schema, as JSON values.
        released: Index of the release.
    """

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

    def encode(
        self, rates: Mapping[str, Mapping[str, float]], embed: Embed
    ) -> tuple[RateUpdate, ...]:
        """Checks and encodes new rates.

        Args:
            rates: Rate -> value of its field -> number.
            embed: The ad tower.

        Returns:
            The rates of values that have an id of their own. Rare values, which share an id, and
            values with the id of a missing value are left out.

        Raises:
            InvalidAdError: The release has no such rate, or it is a rate of single ads; or a value
                is not a string, or a number is not a rate; or the ad tower does not put the field
                and the rate into one column each of the ad features.
        """
        known = {field["name"]: field["of"] for field in self._fields}
        ages = {field["name"] for field in self._fields if IMPRESSION in field["event"]}
        for name, numbers in rates.items():
            if name not in known:
                hint = terminal.suggestion_for(str(name), known)
                raise errors.InvalidAdError(
                    f"rates: the release has no rate {name!r}.{hint} Its rates are {list(known)}."
                )
            if known[name] == AD:
                raise errors.InvalidAdError(
                    f"rates: {name!r} is a rate of single ads. Change these ads, and send the rate "
                    "as a field."
                )
            for value, number in numbers.items():
                if not isinstance(value, str) or not value:
                    raise errors.InvalidAdError(
                        f"rates.{name}: expected a value of {known[name]}, a string, got "
                        f"{requests.shortened(value)}."
                    )
                if not (is_number(number) and number >= 0 and (name in ages or number <= 1)):
                    expected = "ages of 0 days or more" if name in ages else "numbers from 0 to 1"
                    raise errors.InvalidAdError(
                        f"rates.{name}: expected {expected}, got "
                        f"{requests.shortened(number)} for {value!r}."
                    )
        return tuple(
            self._encoded(name, known[name], {v: float(n) for v, n in numbers.items()}, embed)
            for name, numbers in rates.items()
        )

    def _encoded(
        self, name: str, of: str, numbers: Mapping[str, float], embed: Embed
    ) -> RateUpdate:
        if not numbers:
            return RateUpdate(name, of, (0, 0), {}, np.empty((0, 2), np.int32))
        known = self._released.column(np.arange(self._released.num_ads), of)
        probes = pc.unique(known.drop_null())[:_NUM_PROBED].to_pylist()
        value_column, values, missing = self._in_features(of, [*numbers], probes, embed)
        column, rates, _ = self._in_features(name, [*numbers.values()], _PROBED_RATES, embed)
        if column == value_column:
            raise errors.InvalidAdError(
                f"rates.{name}: expected an ad tower that puts {of} and {name} into two columns of "
                f"the ad features, got both in column {column}. Set the rate as a field of the ads."
            )
        other_ids = self._ids_of_others(of, value_column, set(numbers))
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        is_unique = (counts[inverse] == 1) & ~np.isin(values, other_ids) & (values != missing)
        pairs = np.stack([values, rates], axis=1)[is_unique]
        kept = dict(itertools.compress(numbers.items(), is_unique))
        return RateUpdate(name, of, (value_column, column), kept, pairs)

    def _in_features(
        self, field: str, values: Sequence[Any], probes: Sequence[Any], embed: Embed
    ) -> tuple[int, np.ndarray, int]:
        """Returns the column of a field in the ad features, its ids of values, and its id of null.

        Args:
            field: The field.
            values: Values to encode.
            probes: Values that the field may have, which help to find the column.
            embed: The ad tower.
        """
        schema = self._released.table_schema
        column = pa.array([*values, *probes, None], schema.field(field).type)
        ads = pa.table({ad_field.name: pa.nulls(len(column), ad_field.type) for ad_field in schema})
        _, features = embed(ads.set_column(ads.column_names.index(field), field, column))
        columns = np.flatnonzero((features != features[-1]).any(axis=0))
        if len(columns) != 1:
            raise errors.InvalidAdError(
                f"rates: expected an ad tower that puts {field} into one column of the ad "
                f"features, got {len(columns)} columns that depend on it. Set the rate as a field "
                "of the ads."
            )
        encoded = features[:, columns[0]]
        return int(columns[0]), encoded[: len(values)], int(encoded[-1])

    def _ids_of_others(self, of: str, column: int, values: Set[str]) -> np.ndarray:
        """Returns the ids of all values of a field in the release except `values`."""
        rows = np.arange(self._released.num_ads)
        known = self._released.column(rows, of)
        is_other = pc.invert(pc.is_in(known, value_set=pa.array(list(values), known.type)))
        is_other = pc.and_(is_other, known.is_valid()).to_numpy(zero_copy_only=False)
        return np.unique(self._released.features(rows[is_other])[:, column])

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
