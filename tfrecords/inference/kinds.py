"""Tells what kind of field a column is: amounts, names of things, or lists of names."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.inference import lists
from tfrecords.inference.log_sample import Column

_IDENTITIES = {
    "id", "ids", "key", "code", "zip", "zipcode", "postcode", "hash", "uuid", "type", "class",
    "category", "cat", "version", "month", "weekday", "day", "dow", "hour", "os", "gender", "sex",
    "group", "segment", "cluster", "channel", "status", "is", "has", "brand", "region", "flag",
}  # fmt: skip
_AMOUNTS = {
    "age", "year", "price", "amount", "count", "counts", "cnt", "num", "number", "nr", "size",
    "width", "height", "duration", "length", "weight", "score", "rate", "ratio", "distance",
    "temperature", "views", "days", "hours", "minutes", "seconds", "income", "budget", "ctr",
    "avg", "mean", "sum", "total", "affinity", "cost", "discount",
}  # fmt: skip
_FEW = 10
_MANY = 1_000
_MOST_LIST_LENGTH = 50


def kind(column: Column, notes: list[str]) -> dict[str, Any]:
    """Returns the kind of a field and the options of lists, as JSON values."""
    between = lists.separator(column)
    if between is not None:
        length = min(_longest(column.known, between), _MOST_LIST_LENGTH)
        if not column.is_list:
            notes.append(f"{column.name!r} holds lists with {between!r} between the values.")
        return {"kind": "categorical_list", "separator": between, "max_list_length": length}
    return {"kind": "numeric" if _is_amount(column, notes) else "categorical"}


def _longest(values: Sequence[str], separator: str) -> int:
    """Returns the most parts of a list, or a little more where some are empty."""
    return 1 + int(pc.max(pc.count_substring(pa.array(values, pa.string()), separator)).as_py())


def _is_amount(column: Column, notes: list[str]) -> bool:
    """Returns whether a column's numbers mean how much, and not which."""
    # Of cat1 and cat2 the word is cat.
    edges = {word.rstrip("0123456789") for word in (*column.words[:1], *column.words[-1:])}
    names_things = not _IDENTITIES.isdisjoint(edges)
    if not column.is_numeric:
        if not names_things and not column.is_list:
            _note_nearly_numeric(column, notes)
        return False
    padded = pc.match_substring_regex(pa.array(column.known, pa.string()), "^0[0-9]")
    if pc.any(padded).as_py() or column.words[-1:] == ("id",):
        return False
    if not names_things and not _AMOUNTS.isdisjoint(column.words):
        return True
    if column.declared in ("float", "token"):
        return column.declared == "float"
    if names_things or column.is_truth:
        return False
    if not column.is_whole:
        return True
    # Large whole numbers of many kinds are names of things, such as hashes.
    is_hash = len(column.known) > _MANY and column.numbers.max() > 1e7
    return len(column.known) > _FEW and not is_hash


def _note_nearly_numeric(column: Column, notes: list[str]) -> None:
    if lists.has_decimal_comma(column):
        notes.append(
            f"{column.name!r} has decimal commas, such as {column.known[0][:40]!r}, so it is "
            "categorical; write a point to read it as a number."
        )
        return
    bad = np.isnan(column.numbers)
    if len(bad) and 0 < bad.mean() < 0.1:
        example = column.known[int(np.flatnonzero(bad)[0])]
        notes.append(
            f"{column.name!r} is nearly always a number, but also {example[:40]!r}, so it is "
            "categorical; mend the file to read it as a number."
        )
