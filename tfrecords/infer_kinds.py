"""Tells what kind of field a column is: amounts, names of things, or lists of names."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfrecords.infer_sample import Column

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
_TEXTS = {"title", "name", "description", "text", "keywords", "words", "headline"}
_SEPARATORS = ("|", ";", "^", "~", ",")
_FEW = 10
_MANY = 1_000
_MOST_LIST_LENGTH = 50
_GOOD_EVIDENCE = 0.1


def kind(column: Column, notes: list[str]) -> dict[str, Any]:
    """Returns the kind of a field and the options of lists, as JSON values."""
    between = separator(column)
    if between is not None:
        lengths = [len([p for p in v.split(between) if p.strip()]) for v in column.known]
        length = min(max(lengths), _MOST_LIST_LENGTH)
        if not column.is_list:
            notes.append(f"{column.name!r} holds lists with {between!r} between the values.")
        return {"kind": "categorical_list", "separator": between, "max_list_length": length}
    return {"kind": "numeric" if _is_amount(column, notes) else "categorical"}


def separator(column: Column) -> str | None:
    """Returns what stands between the values of a list, or None if the column has none."""
    if column.is_list:
        return "|"
    if column.declared in ("token_seq", "float_seq"):
        return " "
    if column.is_numeric or column.declared in ("token", "float"):
        return None
    candidates = [*_SEPARATORS, *([" "] if not _TEXTS.isdisjoint(column.words) else [])]
    return next((s for s in candidates if _is_separator(column.known, s)), None)


def _is_separator(values: Sequence[str], separator: str) -> bool:
    """Returns whether enough values hold it and the parts are short and repeat."""
    holding = [value for value in values if separator in value]
    if len(holding) < max(2, _GOOD_EVIDENCE * len(values)) or any(v[:1] in "[{(" for v in holding):
        return False
    parts = [part.strip() for value in values for part in value.split(separator)]
    parts = [part for part in parts if part]
    groups = [value.split(separator)[1:] for value in holding]
    thousands = separator == "," and all(re.fullmatch(r"\d{3}", p) for g in groups for p in g)
    # Commas and spaces are also what sentences are made of.
    repeats = 0.5 if separator in ", " else 0.8
    short = np.mean([len(part) <= 30 for part in parts]) > 0.95 if parts else False
    return bool(short) and not thousands and len(set(parts)) <= repeats * len(parts)


def _is_amount(column: Column, notes: list[str]) -> bool:
    """Returns whether a column's numbers mean how much, and not which."""
    edges = {*column.words[:1], *column.words[-1:]}
    names_things = not _IDENTITIES.isdisjoint(edges)
    if not column.is_numeric:
        if not names_things and not column.is_list:
            _note_nearly_numeric(column, notes)
        return False
    padded = any(re.match(r"0\d", value) for value in column.known)
    if padded or column.words[-1:] == ("id",):
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
    bad = np.isnan(column.numbers)
    if len(bad) and 0 < bad.mean() < 0.1:
        example = column.known[int(np.flatnonzero(bad)[0])]
        notes.append(
            f"{column.name!r} is nearly always a number, but also {example[:40]!r}, so it is "
            "categorical; mend the file to read it as a number."
        )
