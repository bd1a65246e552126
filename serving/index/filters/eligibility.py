"""Resolves the filters of a request over the raw ad fields of the catalog.

Filters come from `requests.FilterFields.check`. Each condition is looked up in the inverted index
of its field, and the row sets are intersected. Recently used filters are cached, because requests
from a publisher or country often share them.

Shapes: N ads.
"""

import collections
import threading
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from serving import requests
from serving.index.filters import inverted_index, row_set, string_lookup
from tfrecords.schema import SHOWN

_MAX_KEPT = 128
_MAX_KEPT_BYTES = 64_000_000

_Postings = inverted_index.StringPostings | inverted_index.NumberPostings


class Eligibility:
    """Resolves filters over a table of ads. Thread-safe.

    Args:
        ads: N rows of ad ids and raw fields.
        id_column: Name of the column of ad ids.
        unique_ids: Whether each ad id is in a single row, which saves memory.
    """

    def __init__(self, ads: pa.Table, id_column: str, *, unique_ids: bool = True) -> None:
        self._ads = ads
        self._id_column = id_column
        self._unique_ids = unique_ids
        self._postings: dict[str, _Postings] = {}
        self._ids: string_lookup.StringLookup | None = None
        self._kept: collections.OrderedDict[requests.Filters, row_set.RowSet] = (
            collections.OrderedDict()
        )
        self._lock = threading.Lock()

    @property
    def kinds(self) -> dict[str, str]:
        """Ad field -> `categorical`, `numeric` or `categorical_list`; vectors are left out."""
        return {
            field.name: kind_of(field.type)
            for field in self._ads.schema
            if field.name not in (self._id_column, SHOWN)
            and not pa.types.is_fixed_size_list(field.type)
        }

    def eligible(self, filters: requests.Filters) -> row_set.RowSet:
        """Returns the rows that match the filters, as an immutable set that callers share.

        Args:
            filters: Filters returned by `FilterFields.check`.
        """
        with self._lock:
            if filters in self._kept:
                self._kept.move_to_end(filters)
                return self._kept[filters]
        resolved = self._resolve(filters)
        max_kept = min(_MAX_KEPT, _MAX_KEPT_BYTES // max(resolved.nbytes, 1))
        with self._lock:
            self._kept[filters] = resolved
            while len(self._kept) > max_kept:
                self._kept.popitem(last=False)
        return resolved

    def _resolve(self, filters: requests.Filters) -> row_set.RowSet:
        result = row_set.RowSet.full(self._ads.num_rows)
        for condition in filters.conditions or ():
            result = self._meet(condition, result)
        if filters.allowed_ads is not None:
            result &= self._ads_of(filters.allowed_ads)
        if filters.excluded_ads is not None:
            result -= self._ads_of(filters.excluded_ads)
        return result

    def prepare(self) -> None:
        """Builds the inverted index of every field, so that the first filter does not wait."""
        self.prepare_ids()
        for name in self.kinds:
            self._postings_of(name)

    def prepare_ids(self) -> None:
        """Builds only the lookup of ad ids."""
        self.find(["any"])

    def find(self, ad_ids: Sequence[str]) -> np.ndarray:
        """Returns the rows [M] int64 of unique ad ids; -1 for unknown ids."""
        if self._ids is None:
            # Two threads may build it at the same time, with the same result.
            self._ids = string_lookup.StringLookup(self._ads[self._id_column].combine_chunks())
        return self._ids.find(ad_ids)

    def _meet(self, condition: requests.Condition, rows: row_set.RowSet) -> row_set.RowSet:
        """Returns the subset of rows that match the condition."""
        field = self._postings_of(condition.field)
        if condition.any_of is not None:
            rows &= field.any_of(condition.any_of)
        if condition.none_of is not None:
            rows -= field.any_of(condition.none_of)
        if isinstance(field, inverted_index.StringPostings):
            return rows if condition.all_of is None else rows & field.all_of(condition.all_of)
        if condition.at_least is None and condition.at_most is None:
            return rows
        return rows & field.between(condition.at_least, condition.at_most)

    def _ads_of(self, ad_ids: Sequence[str]) -> row_set.RowSet:
        if not self._unique_ids:
            field = self._postings_of(self._id_column)
            assert isinstance(field, inverted_index.StringPostings)
            return field.any_of(ad_ids)
        rows = self.find(ad_ids)
        return row_set.RowSet.from_rows(rows[rows >= 0], self._ads.num_rows)

    def _postings_of(self, name: str) -> _Postings:
        field = self._postings.get(name)
        if field is None:
            is_number = kind_of(self._ads.schema.field(name).type) == "numeric"
            build = inverted_index.NumberPostings if is_number else inverted_index.StringPostings
            field = self._postings[name] = build(self._ads[name])
        return field


def kind_of(type_: pa.DataType) -> str:
    """Returns the kind of a column: `categorical`, `numeric` or `categorical_list`."""
    if pa.types.is_floating(type_) or pa.types.is_integer(type_):
        return "numeric"
    return "categorical_list" if pa.types.is_list(type_) else "categorical"
