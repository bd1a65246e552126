"""Finds columns that may be the click although no column is named like one, and says what to do."""

from collections.abc import Sequence

import numpy as np

from tfrecords.schema_inference import known_names
from tfrecords.schema_inference.sample import log_sample
from tfrecords.schema_inference.sample.log_sample import Column

# Maximum number of texts of an outcome.
_FEW = 10
# Last words of ids.
_IDS = {"id", "uuid"}
# Texts that probably mean a click.
_POSITIVE = {
    "click", "clicked", "yes", "ja", "oui", "si", "sí", "true", "positive", "used", "redeemed",
    "converted", "won", "accepted", "success", "opened", "responded",
}  # fmt: skip
_OUTCOMES = {"outcome", "status", "result", "response"}
# Words of other things than ads that are sent to users.
_SENT = {"email", "mail", "campaign", "impression", "event", "message", "push", "lead"}
# Minimum share of users or requests with several rows, to tell whether a column varies for them.
_MIN_REPEATED = 0.1


def candidates(columns: Sequence[Column], ad: Column, who: Column | None) -> list[Column]:
    """Returns the columns that may be the click, although their names do not say so.

    They have two values, or one that most rows lack, both for the same ad and for the same user or
    request; or a few texts and a name such as outcome or status. Without user and request, or if
    they hardly repeat, they are only columns of 0 and 1.
    """
    repeats = who is not None and float(np.mean(who.counts > 1)) > _MIN_REPEATED
    return [
        c
        for c in columns
        if _is_outcome(c, ad)
        or (
            _has_two_values(c)
            and known_names.OF_QUERY.isdisjoint(c.words)
            and known_names.CODES.isdisjoint(c.words[-1:])
            and not c.is_list
            and log_sample.varies_within(c, ad)
            and (log_sample.varies_within(c, who) if who and repeats else c.is_truth)
        )
    ]


def _has_two_values(column: Column) -> bool:
    """Returns whether a column has two values, one of which may be a missing one in most rows."""
    if len(column.known) == 1:
        return 0.5 < column.missing_share < 1
    return len(column.known) == 2 and column.missing_share <= known_names.MAX_REJECTED


def _is_outcome(column: Column, ad: Column) -> bool:
    """Returns whether a column of a few texts is named like the outcome of an impression."""
    words = column.object_words
    is_named = words[-1:] and words[-1] in _OUTCOMES and len(words) < 3
    names_ad = len(words) == 1 or words[0] in (*known_names.ADS, *_SENT)
    return bool(
        is_named
        and names_ad
        and not (column.is_list or column.is_numeric)
        and 1 <= len(column.known) <= _FEW
        and log_sample.varies_within(column, ad)
    )


def equal_to(column: Column, value: str) -> str:
    """Returns the pandas expression that is 1 where a column has a value, and 0 elsewhere."""
    written = value if column.is_numeric else repr(value)
    return f"(log[{column.name!r}] == {written}).astype(int)"


def likely_click(column: Column) -> str:
    """Returns the value that probably means a click: one such as yes, or else the rarest one."""

    def rank(value: str) -> tuple[bool, int]:
        is_positive = value.strip().lower() in _POSITIVE
        return not is_positive, int(column.counts[column.values.index(value)])

    return min(sorted(column.known), key=rank)


def candidate_note(column: Column) -> str:
    """Returns what to do about a column that may be the click."""
    values = sorted(column.known)
    shown = " and ".join(repr(value[:40]) for value in values[:3])
    kind = {1: "only the value", 2: "the values"}.get(len(values), "values such as")
    written = ""
    if not column.is_truth or len(values) == 1:
        written = f'write it as log["click"] = {equal_to(column, likely_click(column))}, and '
    return (
        f"! {column.name!r} has {kind} {shown} and may be the click, so it is not a field. "
        f'If it is the click, {written}set "click" in the schema to it. If it describes the user '
        "or the context, add it to fields."
    )


def outcome_notes(columns: Sequence[Column], label: str, names: Sequence[str]) -> list[str]:
    """Returns a note for each column of times or ids of a label, which other rows lack."""
    return [
        f"! {column.name!r} is in {1 - column.missing_share:.1%} of the rows and may be the "
        f"{'id' if column.words[-1] in _IDS else 'time'} of a {label}. If so, write the {label} "
        f"into the log, for example with pandas: "
        f'log["{label}"] = log[{column.name!r}].notna().astype(int)'
        for column in columns
        if 0 < column.missing_share < 1
        and not {*known_names.TIME_WORDS, *_IDS}.isdisjoint(column.last_words[-1:])
        and known_names.core(column.last_words[:-1]) in names
    ]
