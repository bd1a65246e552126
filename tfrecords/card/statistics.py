"""Statistics of the fields of a data set: missing, out of vocabulary, top values, drift.

The unit of a field is a request (query side) or an impression (ad side).

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
# Conventional limits of credit scoring (Siddiqi 2006, Credit Risk Scorecards).
SHIFTED = 0.1
DRIFTED = 0.25
# Differences below this multiple of the difference by chance are not significant.
_TIMES_CHANCE = 3.0
_MISSING, _OUT_OF_VOCABULARY, _FIRST_GROUP = 0, 1, 2
_QUANTILES = (0.1, 0.5, 0.9)
Counts = Mapping[str, split_counts.SplitCounts]


@dataclasses.dataclass(frozen=True)
class Drift:
    """Drift of a field from training to test.

    Attributes:
        psi: Population stability index; 0: no drift, None: a split is empty.
        by_chance: Expected index for this number of rows without drift.
        groups: Number of groups of values.
        level: `stable`, `shifted`, `drifted`, or `unknown` if there are too few rows.
    """

    psi: float | None
    by_chance: float
    groups: int
    level: str


def field(
    fitted: encoding.FittedSchema, own: schema.Field, counts: Counts, num_distinct: int | None
) -> dict[str, Any]:
    """Describes a field.

    Args:
        fitted: The fitted schema.
        own: The field.
        counts: Counts of each split.
        num_distinct: Number of distinct values in training; None for a numeric field.

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
        "largest_share": share(int(ids["train"].max()), int(ids["train"].sum())),
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
    """Assigns ids to at most `MAX_GROUPS` groups of about equal share in training.

    Missing values are a group, and so are all values out of vocabulary. Other values share a group
    with their neighbors, by frequency (so that rare values are compared together) or, for numeric
    fields, by size.

    Args:
        fitted: The fitted schema.
        own: The field.
        train: Counts of its ids in training [V] int64.

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
    # Ids that training never has come after all others.
    result = np.minimum(result, MAX_GROUPS - 1)
    return result, MAX_GROUPS


def drift(grouped: tuple[np.ndarray, int], ids: Mapping[str, np.ndarray]) -> Drift:
    """Compares test with training by groups of ids.

    The population stability index is the sum of (p - q) ln(p / q) over the shares p in test and q
    in training. Half a row is added to each count, so that it is finite for empty groups. Without
    drift its expected value is about (G - 1) (1 / rows + 1 / test rows).

    Args:
        grouped: Result of `groups`.
        ids: Counts of `train` and `test` [V].
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
    """Returns the most frequent values in training, with their share in each split.

    Args:
        vocabulary: Values of the field.
        ids: Counts of each split [V].
        of_lists: Whether shares are relative to all values of lists, not to all units.
    """
    known = ids["train"][1 : 1 + len(vocabulary)]
    order = np.argsort(-known, kind="stable")[:TOP_VALUES]
    totals = {split: int(counts[1 if of_lists else 0 :].sum()) for split, counts in ids.items()}
    return [
        {"value": vocabulary[place],
         **{s: share(int(own[1 + place]), totals[s]) for s, own in ids.items()}}
        for place in order.tolist()
        if known[place]
    ]  # fmt: skip


def _missing(own: schema.Field, counts: split_counts.SplitCounts) -> float | None:
    units = counts.requests if own.side == "query" else counts.rows
    return share(int(counts.ids[own.name][0]), units)


def _oov(ids: np.ndarray, vocabulary: Sequence[str]) -> float | None:
    """Returns the share of values out of vocabulary, without missing ones."""
    return share(int(ids[1 + len(vocabulary) :].sum()), int(ids[1:].sum()))


def _distinct(train: np.ndarray, vocabulary: Sequence[str], recorded: int | None) -> int | None:
    # Without values out of vocabulary, all distinct values are in the vocabulary.
    return recorded if train[1 + len(vocabulary) :].any() else len(vocabulary)


def _quantiles(counts: np.ndarray, boundaries: Sequence[float]) -> dict[str, float | None]:
    """Returns the lowest boundaries with at least some shares of the numbers below them."""
    below = np.cumsum(counts)[:-1]
    places = [int(np.searchsorted(below, share * counts.sum())) for share in _QUANTILES]
    return {
        f"{100 * share:.0f} %": boundaries[place] if place < len(boundaries) else None
        for share, place in zip(_QUANTILES, places, strict=True)
    }


def share(part: int, whole: int) -> float | None:
    """Returns a share, or None of nothing."""
    return part / whole if whole else None


def _shares(counts: np.ndarray) -> list[float]:
    return (counts / max(int(counts.sum()), 1)).tolist()
