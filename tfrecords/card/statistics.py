"""Statistics of the fields of a data set: missing, out of vocabulary, top values, drift.

The unit of a field is a request (query side) or an impression (ad side).

Shapes: V ids of a field, G groups of ids.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords import columns, encoding, label_counts, schema
from tfrecords.card import model, split_counts

TOP_VALUES = 10
MAX_GROUPS = 20
# Conventional limits of credit scoring (Siddiqi 2006, Credit Risk Scorecards).
SHIFTED = 0.1
DRIFTED = 0.25
# Differences below this multiple of the difference by chance are not significant.
_TIMES_CHANCE = 3.0
# Held-out units of each class that an AUC needs.
_FEW_LABELS = 10
_MISSING, _OUT_OF_VOCABULARY, _FIRST_GROUP = 0, 1, 2
_QUANTILES = (0.1, 0.5, 0.9)


def summarize(
    fitted: encoding.FittedSchema,
    field: schema.Field,
    counts: Mapping[str, split_counts.SplitCounts],
    num_distinct: int | None,
) -> model.FieldSummary:
    """Describes a field; `num_distinct` is None for a numeric one."""
    ids = {split: counted.ids[field.name] for split, counted in counts.items()}
    train, is_query = ids["train"], field.side == "query"
    units = {
        split: counted.requests if is_query else counted.rows for split, counted in counts.items()
    }
    summary = model.FieldSummary(
        name=field.name,
        column=field.source,
        side=field.side,
        kind=field.kind,
        is_computed=field.is_computed,
        unit="request" if is_query else "impression",
        missing={split: share(int(id_counts[0]), units[split]) for split, id_counts in ids.items()},
        constant=int((train > 0).sum()) <= 1,
        largest_share=share(int(train.max()), int(train.sum())),
        drift=drift(groups(fitted, field, train), ids),
        click_auc=click_auc(
            {split: counted.clicks[field.name] for split, counted in counts.items()}
        ),
    )
    if field.is_vector:
        summary.constant, summary.largest_share = not train[1], None
        return summary
    if field.kind == "numeric":
        statistics = fitted.statistics[field.name]
        summary.boundaries = [statistics.boundaries[index] for index in statistics.coarse]
        coarse = statistics.coarse_buckets()
        rows = {split: np.bincount(coarse, id_counts)[1:] for split, id_counts in ids.items()}
        summary.buckets = {split: (n / max(n.sum(), 1)).tolist() for split, n in rows.items()}
        summary.quantiles = _quantiles(train[1:], statistics.boundaries)
        return summary
    vocabulary = fitted.statistics[field.name].vocabulary
    summary.vocabulary = len(vocabulary)
    # Without values out of vocabulary, all distinct values are in the vocabulary.
    has_others = bool(train[1 + len(vocabulary) :].any())
    summary.distinct = num_distinct if has_others else len(vocabulary)
    summary.out_of_vocabulary = {
        split: share(int(id_counts[1 + len(vocabulary) :].sum()), int(id_counts[1:].sum()))
        for split, id_counts in ids.items()
    }
    summary.top = top_values(vocabulary, ids, field.is_list)
    if not field.is_computed:
        values = pa.array(vocabulary, pa.string())
        summary.written_twice = written_twice(values)
        summary.written_as_float = written_as_float(values)
    if field.is_list:
        summary.value_lists = {
            split: counted.value_lists[field.name].tolist() for split, counted in counts.items()
        }
    return summary


def click_auc(clicks: Mapping[str, np.ndarray]) -> float | None:
    """Returns how well a field predicts clicks on its own: the AUC on held-out units, or None.

    The score of a value is its click rate in training, shrunk toward the mean rate, so that values
    with one training row count little. Buckets of numbers and missing values count as values.

    Args:
        clicks: Counts of each split by click and id [2, V].
    """
    negative, positive = clicks["validation"] + clicks["test"]
    if min(negative.sum(), positive.sum()) < _FEW_LABELS:
        return None
    train = clicks["train"]
    rate = train[1].sum() / max(train.sum(), 1)
    scores = (train[1] + rate) / (train.sum(axis=0) + 1)
    return label_counts.auc(scores, negative, positive)


def written_twice(values: pa.Array | pa.ChunkedArray) -> model.WrittenTwice | None:
    """Returns the whole numbers that are written in two ways, such as 118 and 118.0, or None.

    Where other numbers have a fraction, such as versions, 2 and 2.0 may differ. A few numbers with
    leading zeros, such as postal codes of two countries, may differ from the ones without.
    """
    if pc.any(pc.match_substring_regex(values, r"^-?[0-9]+\.[0-9]*[1-9][0-9]*$")).as_py():
        return None
    writings = ((columns.WHOLE_FLOAT, r"\.0$", "", 0.0), ("^0+[0-9]+$", "^0+([0-9])", r"\1", 0.5))
    for pattern, written, plain, min_share in writings:
        matching = values.filter(pc.match_substring_regex(values, pattern))
        whole = pc.replace_substring_regex(matching, written, plain)
        is_found = pc.is_in(whole, values)
        count = pc.sum(is_found).as_py() or 0
        if count > min_share * len(matching):
            example, other = (kept.filter(is_found)[0].as_py() for kept in (whole, matching))
            return model.WrittenTwice(count=count, example=example, other=other)
    return None


def written_as_float(values: pa.Array | pa.ChunkedArray) -> str | None:
    """Returns one of the distinct texts if nearly all are whole numbers such as 118.0, or None."""
    floats = values.filter(pc.match_substring_regex(values, columns.WHOLE_FLOAT))
    nearly_all = len(floats) > 1 and len(floats) >= columns.NEARLY_ALL * len(values)
    return floats[0].as_py() if nearly_all else None


def groups(fitted: encoding.FittedSchema, field: schema.Field, train: np.ndarray) -> np.ndarray:
    """Returns the group [V] int64 of each id, given their counts in training [V] int64.

    There are at most `MAX_GROUPS`, of about equal share in training. Missing values are a group,
    and so are all values out of vocabulary. Other values share a group with their neighbors, by
    frequency (so that rare values are compared together) or, for numeric fields, by size.
    """
    vocabulary = fitted.statistics[field.name].vocabulary
    last = len(train) if field.kind == "numeric" else 1 + len(vocabulary)
    result = np.full(len(train), _OUT_OF_VOCABULARY, np.int64)
    result[0] = _MISSING
    known = train[1:last]
    before = np.cumsum(known) - known
    num_groups = MAX_GROUPS - _FIRST_GROUP
    result[1:last] = _FIRST_GROUP + before * num_groups // max(int(known.sum()), 1)
    # Ids that do not occur in training come after all others.
    return np.minimum(result, MAX_GROUPS - 1)


def drift(group_of_id: np.ndarray, ids: Mapping[str, np.ndarray]) -> model.Drift:
    """Compares the counts of ids [V] in `train` and `test` by their `groups` [V].

    The population stability index is the sum of (p - q) ln(p / q) over the shares p in test and q
    in training. A pseudocount of 0.5 is added to each count, so that it is finite for empty groups.
    Without drift its expected value is about (G - 1) (1 / rows + 1 / test rows).
    """
    train, test = (
        np.bincount(group_of_id, weights=ids[split], minlength=MAX_GROUPS)
        for split in ("train", "test")
    )
    used = (train > 0) | (test > 0)
    train, test, num_used = train[used], test[used], int(used.sum())
    if not train.sum() or not test.sum():
        return model.Drift(psi=None, by_chance=0.0, groups=num_used, level="unknown")
    by_chance = float((num_used - 1) * (1 / train.sum() + 1 / test.sum()))
    q, p = ((c + 0.5) / (c.sum() + 0.5 * num_used) for c in (train, test))
    psi = float(((p - q) * np.log(p / q)).sum())
    level = _level(psi, by_chance)
    return model.Drift(psi=psi, by_chance=by_chance, groups=num_used, level=level)


def _level(psi: float, by_chance: float) -> str:
    if psi < SHIFTED:
        return "stable"
    if psi < _TIMES_CHANCE * by_chance:
        return "unknown"
    return "shifted" if psi < DRIFTED else "drifted"


def top_values(
    vocabulary: Sequence[str], ids: Mapping[str, np.ndarray], is_list: bool
) -> list[model.TopValue]:
    """Returns the most frequent values in training, with their share in each split.

    Ids are counted in each split [V]. The shares of values of lists are of the values of all lists,
    those of others of all units.
    """
    known = ids["train"][1 : 1 + len(vocabulary)]
    order = np.argsort(-known, kind="stable")[:TOP_VALUES]
    totals = {split: int(counts[1 if is_list else 0 :].sum()) for split, counts in ids.items()}
    return [
        model.TopValue(
            value=vocabulary[index],
            **{split: share(int(units[1 + index]), totals[split]) for split, units in ids.items()},
        )
        for index in order.tolist()
        if known[index]
    ]


def _quantiles(counts: np.ndarray, boundaries: Sequence[float]) -> dict[str, float | None]:
    """Returns, for each share, the lowest boundary with at least that share of numbers below it."""
    below = np.cumsum(counts)[:-1]
    indices = [int(np.searchsorted(below, share * counts.sum())) for share in _QUANTILES]
    return {
        f"{100 * share:.0f} %": boundaries[index] if index < len(boundaries) else None
        for share, index in zip(_QUANTILES, indices, strict=True)
    }


def share(part: float, whole: int) -> model.Share:
    """Returns a share, or None if the whole is 0."""
    return part / whole if whole else None
