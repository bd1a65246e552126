"""Warnings about the fields of a data set; fields with the same problem share a warning."""

from collections.abc import Iterator, Sequence
from typing import Any

from tfrecords import pages, terminal
from tfrecords.card import statistics

MUCH_MISSING = 0.95
MUCH_MORE_MISSING = 0.2
MUCH_OUT_OF_VOCABULARY = 0.3
# Distinct values per unit above which a value looks like an id.
LIKE_AN_ID = 0.5
_FEW_DISTINCT = 100
_ALMOST_CONSTANT = 0.999
Fields = Sequence[dict[str, Any]]
Found = Iterator[tuple[str, str, str]]


def find(card: dict[str, Any]) -> Found:
    """Yields level, text and action of each warning."""
    fields = card["fields"]
    yield from _varying(card)
    yield from _emptiness(fields)
    yield from _changed_missing(fields)
    yield from _ids(card)
    yield from _vocabularies(card)
    yield from _drift(fields)


def _varying(card: dict[str, Any]) -> Found:
    lines = max(card["source"]["lines"], 1)
    if card["varying"]:
        shares = [
            f"{name} ({pages.format_percent(count / lines)})"
            for name, count in card["varying"].items()
        ]
        yield (
            "warning",
            "Query fields differ within a request, in this share of the rows: "
            f"{terminal.format_list(shares)}.",
            "A request has the values of its first row. Move fields of the ad to the ad side.",
        )
    if others := card["rows_of_other_users"]:
        yield (
            "warning",
            f"{pages.format_percent(others / lines)} of the rows have another user than the first "
            "row of their request.",
            "The request key is not unique; for example, it may restart each day. Combine it with "
            "the date or the user.",
        )


def _emptiness(fields: Fields) -> Found:
    gone = [f for f in fields if f["missing"]["train"] == 1]
    constant = [f for f in fields if f["constant"] and f not in gone]
    rest = [f for f in fields if f not in gone and f not in constant]
    empty = [f for f in rest if (f["missing"]["train"] or 0) >= MUCH_MISSING]
    same = [f for f in rest if f not in empty and f["largest_share"] >= _ALMOST_CONSTANT]
    if gone:
        yield (
            "warning",
            f"Missing in every training row: {_names(gone)}.",
            "Check their columns in the schema, or remove the fields.",
        )
    if constant:
        yield (
            "warning",
            f"Constant, with the same id in every training row: {_names(constant)}.",
            "Check their columns in the schema, or remove the fields.",
        )
    if empty:
        shares = [f"{f['name']} ({pages.format_percent(f['missing']['train'])})" for f in empty]
        yield (
            "warning",
            f"Missing in nearly all of training: {terminal.format_list(shares)}.",
            "Check their columns in the schema. If they are correct, these fields are of little "
            "use.",
        )
    if same:
        shares = [f"{f['name']} ({pages.format_percent(f['largest_share'])})" for f in same]
        yield (
            "note",
            "Almost constant, with one id in nearly all of training: "
            f"{terminal.format_list(shares)}.",
            "These fields are of little use, but harmless.",
        )


def _changed_missing(fields: Fields) -> Found:
    changed = [
        f"{f['name']} ({pages.format_percent(f['missing']['train'])} to "
        f"{pages.format_percent(f['missing']['test'])})"
        for f in fields
        if f["missing"]["test"] is not None
        and abs(f["missing"]["test"] - (f["missing"]["train"] or 0)) >= MUCH_MORE_MISSING
    ]
    if changed:
        yield (
            "warning",
            f"The missing share changes from training to test: {terminal.format_list(changed)}.",
            "Logging has changed: compare the two parts of the log.",
        )


def _units(card: dict[str, Any], field: dict[str, Any]) -> int:
    train = card["splits"]["train"]
    return train["requests"] if field["unit"] == "request" else train["rows"]


def _is_like_an_id(card: dict[str, Any], field: dict[str, Any]) -> bool:
    return (
        field["kind"] == "categorical"
        and (field["distinct"] or 0) > _FEW_DISTINCT
        and field["distinct"] >= LIKE_AN_ID * _units(card, field)
    )


def _ids(card: dict[str, Any]) -> Found:
    keys = {card["keys"]["user_key"], card["keys"]["request_key"], *card["keys"]["ad_key"]}
    like_ids = [f for f in card["fields"] if _is_like_an_id(card, f)]
    for is_key, action in (
        (False, "remove the field, or name its column as request_key or user_key."),
        (True, "remove the field; its column stays the key."),
    ):
        shares = [
            f"{f['name']} ({f['distinct']:,} values in {_units(card, f):,} {f['unit']}s)"
            for f in like_ids
            if (f["column"] in keys) == is_key
        ]
        if shares:
            yield (
                "warning",
                f"Nearly one value per row, like an id: {terminal.format_list(shares)}.",
                f"Values seldom repeat, so nothing can be learned from them: {action}",
            )


def _vocabularies(card: dict[str, Any]) -> Found:
    """Tells values that are new in test from those that the vocabulary has no room for."""
    new: list[str] = []
    rare: list[str] = []
    for field in card["fields"]:
        if field["kind"] == "numeric" or _is_like_an_id(card, field):
            continue
        train, test = (field["out_of_vocabulary"][split] or 0 for split in ("train", "test"))
        if max(train, test) < MUCH_OUT_OF_VOCABULARY:
            continue
        shares = f"{pages.format_percent(train)} to {pages.format_percent(test)}"
        (new if test - train >= MUCH_OUT_OF_VOCABULARY / 2 else rare).append(
            f"{field['name']} ({shares})"
        )
    if new:
        yield (
            "warning",
            "Out of vocabulary far more often in test than in training: "
            f"{terminal.format_list(new)}.",
            "These values are new or rare in training: train often, increase the fields' "
            "num_oov_buckets, or use coarser values.",
        )
    if rare:
        yield (
            "warning",
            f"Often out of vocabulary, in training and in test: {terminal.format_list(rare)}.",
            "The vocabularies exclude these values: decrease the fields' min_count or increase "
            "max_vocabulary_size; increase num_oov_buckets for fewer collisions of the others.",
        )


def _drift(fields: Fields) -> Found:
    drifted = [f for f in fields if f["drift"]["level"] == "drifted"]
    drifted.sort(key=lambda f: -f["drift"]["psi"])
    if drifted:
        named = [f"{f['name']} ({f['drift']['psi']:.2f})" for f in drifted]
        yield (
            "warning",
            "Values differ strongly between training and test, with a PSI of at least "
            f"{statistics.DRIFTED:g}: {terminal.format_list(named)}.",
            "This is expected of dates, counters and new ids. Otherwise compare the fields' top "
            "values in training and test, and train on recent data.",
        )


def _names(fields: Fields) -> str:
    return terminal.format_list([field["name"] for field in fields])
