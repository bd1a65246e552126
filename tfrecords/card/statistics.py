"""Statistics of the fields of a data set: missing, out of vocabulary, top values, drift.

A field's unit is what it is counted over: a request (query side), an impression (ad side).

Shapes: V ids of a field, G groups of ids.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfrecords import encoding, schema
from tfrecords.card import split_counts

TOP_VALUES = 10
MAX_GROUPS = 20
# What practitioners of credit scoring go by (Siddiqi 2006, Credit Risk Scorecards).
SHIFTED = 0.1
DRIFTED = 0.25
# A split of few rows differs by chance alone; less than this many times that says nothing.
_TIMES_CHANCE = 3.0
_MISSING, _OUT_OF_VOCABULARY, _FIRST_GROUP = 0, 1, 2
_QUANTILES = (0.1, 0.5, 0.9)
Counts = Mapping[str, split_counts.SplitCounts]


@dataclasses.dataclass(frozen=True)
class Drift:
    """How far a field's values in test are from those in training.

    Attributes:
        psi: Population stability index; 0 is the same, None where a split is empty.
        by_chance: What it is on average where nothing changed, for rows as few as these.
        groups: Groups of values compared.
        level: `stable`, `shifted`, `drifted`, or `unknown` where the rows are too few.
    """

    psi: float | None
    by_chance: float
    groups: int
    level: str


def field(
    fitted: encoding.FittedSchema, own: schema.Field, counts: Counts, num_distinct: int | None
) -> dict[str, Any]:
    """Describes one field.

    Args:
        fitted: The fitted schema.
        own: The field.
        counts: Of each split.
        num_distinct: Distinct values in training, or None where unknown.

    Returns:
        JSON values.
    """
    ids = {split: of_split.ids[own.name] for split, of_split in counts.items()}
    vocabulary = fitted.statistics[own.name].vocabulary
    is_text = own.kind != "numeric"
    result: dict[str, Any] = {
        "name": own.name,
        "column": own.source,
        "side": own.side,
        "kind": own.kind,
        "unit": "request" if own.side == "query" else "impression",
        "missing": {s: _missing(own, counts[s]) for s in counts},
        "constant": int((ids["train"] > 0).sum()) <= 1,
        "largest_share": _share(int(ids["train"].max()), int(ids["train"].sum())),
        "drift": dataclasses.asdict(drift(groups(fitted, own, ids["train"]), ids)),
    }
    if is_text:
        result["vocabulary"] = len(vocabulary)
        result["distinct"] = _distinct(ids["train"], vocabulary, num_distinct)
        result["out_of_vocabulary"] = {s: _oov(of_split, vocabulary) for s, of_split in ids.items()}
        result["top"] = top_values(vocabulary, ids, own.kind == "categorical_list")
    else:
        boundaries = fitted.statistics[own.name].boundaries
        result["boundaries"] = list(boundaries)
        result["buckets"] = {s: _shares(of_split[1:]) for s, of_split in ids.items()}
        result["quantiles"] = _quantiles(ids["train"][1:], boundaries)
    if own.kind == "categorical_list":
        result["value_lists"] = {s: counts[s].value_lists[own.name].tolist() for s in counts}
    return result


def groups(
    fitted: encoding.FittedSchema, own: schema.Field, train: np.ndarray
) -> tuple[np.ndarray, int]:
    """Puts ids into at most `MAX_GROUPS` groups of about equal share in training.

    Missing is a group, so are all values out of vocabulary together. Of the others,
    neighbours share a group: in order of frequency where values are names, so that the
    many rare ones are judged together, and in order of size where they are numbers.

    Args:
        fitted: The fitted schema.
        own: The field.
        train: [V] int64 its counts.

    Returns:
        The group of each id [V] int64, and the number of groups.
    """
    last = len(train) if own.kind == "numeric" else 1 + len(fitted.statistics[own.name].vocabulary)
    result = np.full(len(train), _OUT_OF_VOCABULARY, np.int64)
    result[0] = _MISSING
    known = train[1:last]
    before = np.cumsum(known) - known
    wanted = MAX_GROUPS - _FIRST_GROUP
    result[1:last] = _FIRST_GROUP + before * wanted // max(int(known.sum()), 1)
    # An id never seen in training stands behind all that were.
    result = np.minimum(result, MAX_GROUPS - 1)
    return result, MAX_GROUPS


def drift(grouped: tuple[np.ndarray, int], ids: Mapping[str, np.ndarray]) -> Drift:
    """Compares test with training by groups of ids.

    The population stability index is sum (p - q) ln(p / q) over the shares p in test and q
    in training, half a row added to each count, so that an empty group does not make it
    infinite. Where nothing changed it is about (G - 1) (1 / rows + 1 / test rows).

    Args:
        grouped: What `groups` gives.
        ids: Counts [V] of `train` and `test`.
    """
    of_id, num_groups = grouped
    train, test = (
        np.bincount(of_id, weights=ids[split], minlength=num_groups) for split in ("train", "test")
    )
    used = (train > 0) | (test > 0)
    train, test, num_used = train[used], test[used], int(used.sum())
    if not train.sum() or not test.sum():
        return Drift(None, 0.0, num_used, "unknown")
    by_chance = (num_used - 1) * (1 / train.sum() + 1 / test.sum())
    q, p = ((c + 0.5) / (c.sum() + 0.5 * num_used) for c in (train, test))
    psi = float(((p - q) * np.log(p / q)).sum())
    return Drift(psi, float(by_chance), num_used, _level(psi, float(by_chance)))


def _level(psi: float, by_chance: float) -> str:
    if psi < SHIFTED:
        return "stable"
    if psi < _TIMES_CHANCE * by_chance:
        return "unknown"
    return "shifted" if psi < DRIFTED else "drifted"


def top_values(
    vocabulary: Sequence[str], ids: Mapping[str, np.ndarray], of_lists: bool
) -> list[dict[str, Any]]:
    """Returns the most frequent values in training, each with its share of every split.

    Args:
        vocabulary: The field's values.
        ids: Counts [V] of each split.
        of_lists: Whether shares are of all values of lists, and not of all units.
    """
    known = ids["train"][1 : 1 + len(vocabulary)]
    order = np.argsort(-known, kind="stable")[:TOP_VALUES]
    totals = {split: int(counts[1 if of_lists else 0 :].sum()) for split, counts in ids.items()}
    return [
        {"value": vocabulary[place],
         **{s: _share(int(own[1 + place]), totals[s]) for s, own in ids.items()}}
        for place in order.tolist()
        if known[place]
    ]  # fmt: skip


def _missing(own: schema.Field, counts: split_counts.SplitCounts) -> float | None:
    units = counts.requests if own.side == "query" else counts.rows
    return _share(int(counts.ids[own.name][0]), units)


def _oov(ids: np.ndarray, vocabulary: Sequence[str]) -> float | None:
    """Returns the share out of vocabulary of the values that are there."""
    return _share(int(ids[1 + len(vocabulary) :].sum()), int(ids[1:].sum()))


def _distinct(train: np.ndarray, vocabulary: Sequence[str], recorded: int | None) -> int | None:
    # Without any value out of vocabulary, the vocabulary is all there is.
    return recorded if train[1 + len(vocabulary) :].any() else len(vocabulary)


def _quantiles(counts: np.ndarray, boundaries: Sequence[float]) -> dict[str, float | None]:
    """Returns the lowest boundaries with at least a share of the numbers below them."""
    below = np.cumsum(counts)[:-1]
    places = [int(np.searchsorted(below, share * counts.sum())) for share in _QUANTILES]
    return {
        f"{100 * share:.0f} %": boundaries[place] if place < len(boundaries) else None
        for share, place in zip(_QUANTILES, places, strict=True)
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _shares(counts: np.ndarray) -> list[float]:
    return (counts / max(int(counts.sum()), 1)).tolist()
