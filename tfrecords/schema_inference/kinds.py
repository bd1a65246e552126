"""Infers the kind of a field: numeric, categorical, a list or a vector."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords import columns
from tfrecords.schema_inference import known_names
from tfrecords.schema_inference.sample import log_sample, writing
from tfrecords.schema_inference.sample.log_sample import Column

_TEXTS = {
    "title", "name", "description", "text", "keyword", "keywords", "words", "headline", "query",
    "search", "searchterm", "searchterms", "term", "terms", "phrase",
}  # fmt: skip
_LISTS = {
    "history", "hist", "clicked", "seen", "viewed", "visited", "watched", "bought", "purchased",
    "basket", "cart", "items", "articles", "products", "movies", "tags", "genres", "categories",
    "interests", "topics", "skills", "ids", "list", "sequence", "seq", "recent",
}  # fmt: skip
_SEPARATORS = ("|", ";", "^", "~", ",")
_GOOD_EVIDENCE = 0.1
_PROBED = 5_000
_MAX_VALUE_LENGTH = 30


def separator(column: Column) -> str | None:
    """Returns the separator of a column's lists, or None if it has no lists."""
    if column.is_list:
        return "|"
    if column.declared in ("token_seq", "float_seq"):
        return " "
    if column.is_numeric or column.declared in ("token", "float"):
        return None
    if has_decimal_comma(column):
        return None
    values = _probed(column)
    is_text = not _TEXTS.isdisjoint(column.words)
    candidates = [*_SEPARATORS, *([" "] if is_text else [])]
    found = next((s for s in candidates if _is_separator(values, s)), None)
    if found is None and _is_spaced(values, is_named=not _LISTS.isdisjoint(column.words)):
        return " "
    return found


def placeholder_notes(column: Column) -> list[str]:
    """Returns a note on texts such as NULL, which are values of a field that is not numeric."""
    is_text = np.array([bool(value.strip()) for value in column.values])
    counts = np.where(column.is_missing & is_text, column.counts, 0)
    if not counts.any():
        return []
    value, share = column.values[int(counts.argmax())], float(counts.sum()) / len(column.codes)
    return [
        f"! {column.name!r} is {value!r} in {log_sample.percent(share)} of the rows, which is a "
        "value like others: requests and new ads must have it, too. Leave it empty if it means "
        "that the value is missing."
    ]


def float_id_notes(key: Column) -> list[str]:
    """Returns a note on ids such as 118.0, which requests have to send in the same way."""
    floats = [value for value in key.known if re.match(columns.WHOLE_FLOAT, value)]
    if len(floats) < 2 or len(floats) < columns.NEARLY_ALL * len(key.known):
        return []
    return [
        f"! The ids of {key.name!r} end in '.0': requests have to send {floats[0]!r}, not "
        f"{floats[0].removesuffix('.0')!r}. pandas writes whole numbers as floats where some are "
        'missing: write the column as strings or .astype("Int64").'
    ]


def has_decimal_comma(column: Column) -> bool:
    """Returns whether nearly all values are numbers such as `12,95` or `12,95 €`, not lists."""
    probed = _probed(column)
    if not _LISTS.isdisjoint(column.words) or writing.are_codes(probed):
        return False
    numbers = [n for value in probed if (n := columns.plain_number(value, ",")) is not None]
    parts = [number.partition(".")[2] for number in numbers if "." in number]
    thousands = all(len(part) == 3 for part in parts)
    return len(numbers) > 0.95 * len(probed) and len(parts) > 0.5 * len(probed) and not thousands


def _probed(column: Column) -> list[str]:
    return column.known[:: -(-len(column.known) // _PROBED) or 1]


def _is_separator(values: Sequence[str], separator: str) -> bool:
    """Returns whether enough values contain it and their parts are short and repeat."""
    holding = [value for value in values if separator in value]
    if len(holding) < max(2, _GOOD_EVIDENCE * len(values)) or any(v[:1] in "[{(" for v in holding):
        return False
    parts = [part.strip() for value in values for part in value.split(separator)]
    parts = [part for part in parts if part]
    groups = [value.split(separator)[1:] for value in holding]
    thousands = separator == "," and all(re.fullmatch(r"\d{3}", p) for g in groups for p in g)
    # Commas and spaces also occur in sentences.
    repeats = 0.5 if separator in ", " else 0.8
    return _are_short(parts) and not thousands and len(set(parts)) <= repeats * len(parts)


def _is_spaced(values: Sequence[str], is_named: bool) -> bool:
    """Returns whether most distinct values are lists separated by spaces, such as `N26 N132 N2`.

    The parts must repeat, although the whole values are distinct. If the name does not suggest a
    list, parts must also occur at any position, unlike in `Brand 7` or `iPhone 12 Pro`.
    """
    lists = [parts for value in values if (parts := value.split())]
    several = [parts for parts in lists if len(parts) > 1]
    if len(several) < max(2, 0.5 * len(lists)) or any(v[:1] in "[{(" for v in values):
        return False
    if not np.isnan(columns.parse_times(values[:50])).any():
        return False
    parts = [part for parts in lists for part in parts]
    repeats = len(parts) / len(set(parts))
    if not _are_short(parts):
        return False
    if is_named:
        are_ids = np.mean([re.search(r"\d", part) is not None for part in parts]) > 0.95
        return bool(repeats > (1 if are_ids else 1.5))
    not_first = {part for parts in several for part in parts[1:]}
    not_last = {part for parts in several for part in parts[:-1]}
    anywhere = [parts[0] in not_first and parts[-1] in not_last for parts in several]
    return bool(repeats >= 4 and np.mean(anywhere) >= 0.8)


def _are_short(parts: Sequence[str]) -> bool:
    return bool(parts) and bool(np.mean([len(part) <= _MAX_VALUE_LENGTH for part in parts]) > 0.95)


_IDENTITIES = {
    "id", "ids", "key", "code", "zip", "zipcode", "postcode", "hash", "uuid", "type", "class",
    "category", "cat", "version", "month", "weekday", "day", "dow", "hour", "os", "gender", "sex",
    "group", "segment", "seg", "cluster", "channel", "status", "is", "has", "brand", "region",
    "flag", "aid", "cid", "gid", "iid", "mid", "nid", "oid", "pid", "rid", "sid", "tid", "uid",
    "vid", "ean", "gtin", "upc",
}  # fmt: skip
# Last words of names of things, whose numbers are ids.
_THINGS = {
    "ip", "city", "country", "state", "device", "browser", "os", "locale", "language", "store",
    "shop", "site", "publisher", "advertiser", "campaign", "seller", "merchant", "placement",
}  # fmt: skip
_AMOUNTS = {
    "age", "year", "price", "amount", "count", "counts", "cnt", "num", "number", "nr", "size",
    "width", "height", "duration", "length", "weight", "score", "rate", "ratio", "distance",
    "temperature", "views", "days", "hours", "minutes", "seconds", "income", "budget", "ctr",
    "avg", "mean", "sum", "total", "affinity", "cost", "discount", "population",
    "micros",
}  # fmt: skip
_FEW = 10
_CODES = 50
_MANY = 1_000
_MAX_LIST_LENGTH = 50
_MIN_VECTOR_LENGTH = 2


def kind(column: Column, notes: list[str]) -> dict[str, Any]:
    """Returns the kind of a field and the options of a list or vector, as JSON values."""
    length = _vector_length(column)
    if length is not None:
        return {"kind": "dense", "length": length}
    between = separator(column)
    if between is not None:
        # Empty parts count.
        parts = pc.count_substring(pa.array(column.known, pa.string()), between)
        length = min(1 + int(pc.max(parts).as_py()), _MAX_LIST_LENGTH)
        if not column.is_list:
            notes.append(f"{column.name!r} holds lists separated by {between!r}.")
        return {"kind": "categorical_list", "separator": between, "max_list_length": length}
    probed = _probed(column)
    are_bracketed = all(value[0] == "[" and value[-1] == "]" for value in probed)
    if probed and are_bracketed and not column.is_list:
        notes.append(
            f"{column.name!r} holds texts such as {max(probed, key=len)[:40]!r}, each of them one "
            "value. If they are lists, write ['a', 'b'] or a|b."
        )
    return {"kind": "numeric" if _is_amount(column, notes) else "categorical"}


def has_ids_of(ad: Column, column: Column) -> bool:
    """Returns whether a column such as `hist_3` has the id of an ad that the user saw before."""
    known = set(column.known) - {"0", "-1"}
    is_named = not _LISTS.isdisjoint(column.words)
    is_of_ads = len(known.intersection(ad.known)) >= 0.9 * len(known)
    return is_named and column.is_whole and len(known) > _CODES and is_of_ads


def _vector_length(column: Column) -> int | None:
    """Returns the length of a column's vectors: lists of fractions, all of one length; or None."""
    if not column.is_list:
        return None
    lists = [value.split("|") for value in _probed(column)]
    parts = [part for parts in lists for part in parts]
    if len({len(parts) for parts in lists}) != 1 or len(lists[0]) < _MIN_VECTOR_LENGTH:
        return None
    try:
        numbers = np.array(parts, np.float64)
    except ValueError:
        return None
    are_fractions = np.mean(numbers != np.floor(numbers)) > 0.5
    return len(lists[0]) if are_fractions else None


def _is_amount(column: Column, notes: list[str]) -> bool:
    """Returns whether a column's numbers are amounts, not ids."""
    # cat1 and cat2 have the word cat.
    edges = {word.rstrip("0123456789") for word in (*column.words[:1], *column.words[-1:])}
    last = "".join(column.words[-1:]).removesuffix("id")
    names_things = not _IDENTITIES.isdisjoint(edges) or last in _IDENTITIES | _THINGS
    if not column.is_numeric:
        if not names_things and not column.is_list:
            _note_nearly_numeric(column, notes)
        return False
    padded = pc.match_substring_regex(pa.array(column.known, pa.string()), "^0[0-9]")
    names = column.plain_words, "_".join(column.last_words)
    is_key = known_names.user_rank(*names) is not None
    is_key = is_key or known_names.ad_rank(names[1], known_names.KEY) is not None
    # Words of languages without spaces are not split: 店铺ID is one word.
    is_id = re.search("(^|[^a-z])id$", "_".join(column.words)) is not None
    if pc.any(padded).as_py() or is_id or is_key:
        return False
    if not names_things and not _AMOUNTS.isdisjoint(column.words):
        return True
    if column.declared in ("float", "token"):
        return column.declared == "float"
    if names_things or column.is_truth:
        return False
    if not column.is_whole:
        return True
    # Many different large whole numbers are ids, such as hashes.
    is_hash = len(column.known) > _MANY and column.numbers.max() > 1e7
    if _FEW < len(column.known) <= _CODES and not is_hash:
        notes.append(
            f"{column.name!r} has {len(column.known)} different whole numbers: is it a code or a "
            "quantity? It is proposed as a code (categorical); make it numeric if it counts or "
            "measures something."
        )
        return False
    return len(column.known) > _FEW and not is_hash


def _note_nearly_numeric(column: Column, notes: list[str]) -> None:
    if has_decimal_comma(column):
        example = next(value for value in column.known if "," in value)
        notes.append(
            f"{column.name!r} has decimal commas, such as {example[:40]!r}, so it is "
            "categorical. Use decimal points to make it numeric."
        )
        return
    bad = np.isnan(column.numbers)
    if len(bad) and 0 < bad.mean() < 0.1:
        example = column.known[int(np.flatnonzero(bad)[0])]
        notes.append(
            f"{column.name!r} is nearly always a number, but also {example[:40]!r}, so it is "
            "categorical. Correct the file to make it numeric."
        )
