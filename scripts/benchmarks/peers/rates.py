"""Shrunken means and counts of ids as of earlier rows, as inputs of LightGBM.

The mean of a target over the rows with an id is shrunk toward the mean over all rows, as if m rows
with that mean were added. m is the variance within ids divided by the variance between them, both
estimated from the same earlier rows (empirical Bayes). An id can be a pair of a request's and an
ad's string, whose means say which requests like which ads.

Training rows are read in runs of whole requests, in the order of time (or of a log without times).
The statistics of a row are computed from the runs before its own, so they contain neither its own
label, nor other ads of its request, nor later rows. For held-out rows, they are computed from all
training rows.

Shapes: L rows, W columns of ids, F fields but numeric ones, P pairs of fields, N ids of a field.

References:
    Bühlmann and Straub, Glaubwürdigkeit für Schadensätze, 1970 (m from two variances).
    Micci-Barreca, A Preprocessing Scheme for High-Cardinality Categorical Attributes, 2001.
    Prokhorenkova et al., CatBoost: Unbiased Boosting with Categorical Features, 2018 (statistics of
    earlier rows only).
"""

import itertools

import numpy as np
from peers import peer_data

NUM_RUNS = 100
# Rarer pairs add noise: 5 rows are worse on the validation split of a synthetic log.
MIN_ROWS_OF_A_PAIR = 25
# A few rows may be all the same by chance.
_MIN_ADDED_ROWS, _MAX_ADDED_ROWS = 1.0, 1e6


class IdRates:
    """Sums of a target by id, over the rows added so far.

    Args:
        fields: Fields of the rows; numeric ones have no statistics.
        counts: Whether counts are encoded too.
    """

    def __init__(self, fields: tuple[peer_data.PeerField, ...], counts: bool = True) -> None:
        self._counts = counts
        self._fields = [field for field in fields if field.kind != "numeric"]
        self._count = [np.zeros(field.cardinality) for field in self._fields]
        self._sum = [np.zeros(field.cardinality) for field in self._fields]
        self._rows, self._total, self._squares = 0, 0.0, 0.0

    def add(self, ids: np.ndarray, values: np.ndarray) -> None:
        """Adds rows: ids [L, W] and values [L] of the target, NaN where it is not known."""
        known = ~np.isnan(values)
        ids, values = ids[known], values[known].astype(np.float64)
        self._rows += len(values)
        self._total += values.sum()
        self._squares += np.square(values).sum()
        for field, count, total in zip(self._fields, self._count, self._sum, strict=True):
            field_ids, used = _used(ids, field)
            weights = np.broadcast_to(values[:, None], field_ids.shape)[used]
            count += np.bincount(field_ids[used], minlength=field.cardinality)
            total += np.bincount(field_ids[used], weights, minlength=field.cardinality)

    def encode(self, ids: np.ndarray) -> np.ndarray:
        """Returns the statistics of ids [L, W] int32.

        Returns:
            [L, 2 F] float32: for each field, the shrunken mean and the logarithm of the count;
            [L, F] without counts. For a list, they are averaged over its values. NaN if the list
            is empty, or there are no rows so far.
        """
        columns = []
        for field, count, total in zip(self._fields, self._count, self._sum, strict=True):
            field_ids, used = _used(ids, field)
            for statistic in (self._means(count, total), np.log1p(count))[: 1 + self._counts]:
                values = np.where(used, statistic[field_ids], 0.0).sum(axis=1)
                number = used.sum(axis=1)
                columns.append(np.where(number > 0, values / np.maximum(number, 1), np.nan))
        if not columns:
            return np.zeros((len(ids), 0), np.float32)
        return np.stack(columns, axis=1).astype(np.float32)

    def _means(self, count: np.ndarray, total: np.ndarray) -> np.ndarray:
        """Returns the shrunken mean [N] of each id; NaN without rows."""
        if not self._rows:
            return np.full(len(count), np.nan)
        mean = self._total / self._rows
        added = self._added_rows(count, total)
        return (total + added * mean) / (count + added)

    def _added_rows(self, count: np.ndarray, total: np.ndarray) -> float:
        """Estimates m; effectively infinite if ids differ by no more than chance."""
        seen = count > 0
        n, sums = count[seen], total[seen]
        rows = n.sum()
        if not rows > len(n) or len(n) < 2:
            return _MAX_ADDED_ROWS
        mean = sums.sum() / rows
        between = float((n * np.square(sums / n - mean)).sum())
        # A list adds its row once per value; its squares are the squares of all rows.
        squares = self._squares * rows / self._rows
        within = max(squares - rows * mean**2 - between, 0.0) / (rows - len(n))
        variance = (between - (len(n) - 1) * within) / (rows - np.square(n).sum() / rows)
        if variance <= 0:
            return _MAX_ADDED_ROWS
        return float(np.clip(within / variance, _MIN_ADDED_ROWS, _MAX_ADDED_ROWS))


def encode_earlier(
    rates: IdRates, ids: np.ndarray, values: np.ndarray, order: np.ndarray
) -> np.ndarray:
    """Returns the statistics of rows as of earlier rows, and adds the rows.

    Args:
        rates: Statistics without rows so far.
        ids: [L, W] of the training rows.
        values: [L] of the target, NaN where it is not known.
        order: [L] numbers of the requests that ascend with time.

    Returns:
        Same as `IdRates.encode`.
    """
    distinct, number = np.unique(order, return_inverse=True)
    run = number * NUM_RUNS // len(distinct)
    in_time = np.argsort(run, kind="stable")
    parts = []
    for run_rows in np.split(in_time, np.flatnonzero(np.diff(run[in_time])) + 1):
        parts.append(rates.encode(ids[run_rows]))
        rates.add(ids[run_rows], values[run_rows])
    return np.concatenate(parts)[np.argsort(in_time)]


Pair = tuple[peer_data.PeerField, peer_data.PeerField]


def pairs_of(fields: tuple[peer_data.PeerField, ...], max_cardinality: int) -> list[Pair]:
    """Returns the pairs of a request's and an ad's strings with at most `max_cardinality` ids."""
    strings = [field for field in fields if field.kind == "categorical"]
    return [
        (query, ad)
        for query, ad in itertools.permutations(strings, 2)
        if ad.is_ad > query.is_ad and query.cardinality * ad.cardinality <= max_cardinality
    ]


def fields_of_pairs(pairs: list[Pair]) -> tuple[peer_data.PeerField, ...]:
    """Returns the pairs as fields of one column each."""
    return tuple(
        peer_data.PeerField(
            f"{query.name} × {ad.name}",
            "categorical",
            slice(number, number + 1),
            query.cardinality * ad.cardinality,
        )
        for number, (query, ad) in enumerate(pairs)
    )


def ids_of_pairs(pairs: list[Pair], ids: np.ndarray) -> np.ndarray:
    """Returns the ids [L, P] of the pairs for ids [L, W]."""
    columns = [ids[:, query.columns] * ad.cardinality + ids[:, ad.columns] for query, ad in pairs]
    return np.concatenate([np.zeros((len(ids), 0), np.int32), *columns], axis=1)


class TargetRates:
    """The statistics of a target that LightGBM has as inputs.

    Args:
        data: Rows of all splits; only training rows are learned.
        target: Target whose values are averaged.
        with_ids: Whether to include means and counts of ids.
        with_pairs: Whether to include means of pairs of ids.

    Attributes:
        train: [L, X] float32 statistics of the training rows.
    """

    def __init__(
        self,
        data: peer_data.PeerData,
        target: peer_data.PeerTarget,
        with_ids: bool,
        with_pairs: bool,
    ) -> None:
        self._ids = IdRates(data.fields if with_ids else ())
        max_cardinality = len(data.train) // MIN_ROWS_OF_A_PAIR if with_pairs else 0
        self._pairs = pairs_of(data.fields, max_cardinality)
        self._pair_rates = IdRates(fields_of_pairs(self._pairs), counts=False)
        values, rows = target.values(data.train), data.train
        self.train = np.concatenate(
            [
                encode_earlier(self._ids, rows.ids, values, rows.order),
                encode_earlier(
                    self._pair_rates, ids_of_pairs(self._pairs, rows.ids), values, rows.order
                ),
            ],
            axis=1,
        )

    def held_out(self, rows: peer_data.PeerRows) -> np.ndarray:
        """Returns the statistics [L, X] of held-out rows."""
        pair_statistics = self._pair_rates.encode(ids_of_pairs(self._pairs, rows.ids))
        return np.concatenate([self._ids.encode(rows.ids), pair_statistics], axis=1)


def _used(ids: np.ndarray, field: peer_data.PeerField) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids of a field [L, w] and which are values; 0 is one, except in a list."""
    field_ids = ids[:, field.columns]
    is_list = field.kind == "categorical_list"
    return field_ids, field_ids != 0 if is_list else np.ones(field_ids.shape, bool)
