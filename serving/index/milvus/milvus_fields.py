"""The ad fields of a release as scalar fields of a Milvus collection, and filters over them.

    categorical, text   INT64, the code of the value; 0: missing
    categorical_list    ARRAY of INT64 codes; empty: missing
    numeric             DOUBLE; `_MISSING`: missing

A code is a 64-bit hash of a string. So an expression has only generated field names and numbers,
and never contains a value from a request. Two of a million values have the same code with a
probability of 3e-8.

Shapes: N ads.
"""

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serving import requests
from serving.index.filters import eligibility, row_set

_LARGEST = sys.float_info.max
_MISSING = -_LARGEST
NOTHING = "row < 0"


@dataclasses.dataclass(frozen=True)
class MilvusCondition:
    """The ads that match an expression and a set of rows.

    Attributes:
        expression: Boolean expression over the collection; empty: all ads.
        field_expression: The part of it on ad fields, which many requests share.
        count_of: Counts the ads that match an expression.
        rows: Rows that may be returned; None: all.
    """

    expression: str
    field_expression: str
    count_of: Callable[[str], int] = dataclasses.field(compare=False)
    rows: row_set.RowSet | None = None

    def __and__(self, rows: row_set.RowSet) -> "MilvusCondition":
        allowed_rows = rows if self.rows is None else self.rows & rows
        return dataclasses.replace(self, rows=allowed_rows)

    @functools.cached_property
    def count(self) -> int:
        """Number of ads that match the expression, ignoring `rows`."""
        return self.count_of(self.expression)


def code(value: str) -> int:
    """Returns the code of a string, not 0."""
    digest = hashlib.blake2b(value.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True) or 1


def name_of(position: int) -> str:
    """Returns the name of the scalar field of an ad field, by its position."""
    return f"f{position}"


def encoded(column: pa.ChunkedArray) -> list[Any]:
    """Returns the values [N] of a column as stored in the collection."""
    array = column.combine_chunks()
    kind = eligibility.kind_of(array.type)
    if kind == "numeric":
        numbers = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
        # -infinity is a value, and must differ from `_MISSING`.
        finite = np.clip(numbers, np.nextafter(_MISSING, 0), _LARGEST)
        return np.where(np.isnan(numbers), _MISSING, finite).tolist()
    if kind == "categorical_list":
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy()
        ends = np.cumsum(lengths)
        codes = _codes(array.flatten())
        return [
            codes[end - length : end][codes[end - length : end] != 0].tolist()
            for length, end in zip(lengths.tolist(), ends.tolist(), strict=True)
        ]
    return _codes(array).tolist()


def _codes(strings: pa.Array) -> np.ndarray:
    distinct = strings.dictionary_encode()
    codes = np.array([0, *map(code, distinct.dictionary.to_pylist())], np.int64)
    return codes[pc.fill_null(distinct.indices, -1).to_numpy(zero_copy_only=False) + 1]


def expressions_of(
    filters: requests.Filters, fields: Mapping[str, str], catalog: eligibility.Eligibility
) -> tuple[str, str]:
    """Returns `expression` and `field_expression` of filters returned by `FilterFields.check`."""
    positions = {name: position for position, name in enumerate(fields)}
    clauses = [
        clause
        for condition in filters.conditions or ()
        for clause in _clauses(
            condition, fields[condition.field], name_of(positions[condition.field])
        )
    ]
    field_expression = _joined(clauses)
    for ads, form in ((filters.allowed_ads, "row in {}"), (filters.excluded_ads, "row not in {}")):
        if ads is not None:
            rows = catalog.find(ads)
            clauses += _among(rows[rows >= 0].tolist(), form, form.startswith("row in"))
    return _joined(clauses), field_expression


def _joined(clauses: Iterable[str]) -> str:
    return " and ".join(f"({clause})" for clause in clauses)


def _clauses(condition: requests.Condition, kind: str, name: str) -> Iterable[str]:
    """Yields an expression for each part of a condition; a missing value meets only `none_of`."""
    number = kind == "numeric"
    listed = kind == "categorical_list"
    contains = "array_contains_any({}, {{}})" if listed else "{} in {{}}"
    for values, form, is_any in (
        (condition.any_of, contains.format(name), True),
        (condition.none_of, f"not ({contains.format(name)})", False),
        (condition.all_of, f"array_contains_all({name}, {{}})", False),
    ):
        if values is not None:
            coded = [float(v) for v in values] if number else [code(str(v)) for v in values]
            yield from _among(coded, form, is_any)
    if condition.at_least is not None:
        yield f"{name} >= {float(condition.at_least)!r}"
    if condition.at_most is not None:
        yield f"{name} <= {float(condition.at_most)!r}"
    if number and (condition.any_of, condition.at_least, condition.at_most) != (None,) * 3:
        yield f"{name} > {_MISSING!r}"


def _among(values: Sequence[float], form: str, is_any: bool) -> list[str]:
    """Returns the expression over a list of numbers; an empty list matches no ad, or all."""
    if values:
        return [form.format(f"[{', '.join(map(repr, values))}]")]
    return [NOTHING] if is_any else []
