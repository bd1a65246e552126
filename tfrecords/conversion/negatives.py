"""Samples negatives, ads that a user did not click, for logs of clicks only.

A click gets ads drawn uniformly from those clicked in its split or an earlier one, except the ads
that its user clicked in these splits. Ads that the user clicks in a later split are not excluded:
their absence would leak future clicks. Ads that were not clicked so far are not drawn: a model
would only have to know which ads are new. An ad is at most once in a request.

If users return to ads, such as groceries and songs, the ads that the user clicked in other requests
are not excluded: a ranker would learn that such an ad is always clicked.

If ads change, a sampled ad has the fields that it had at the time of the click: its latest fields
would distinguish it from the clicked ad.

Shapes: R requests, L their rows, B rows of the log, N ads.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from tfrecords import columns, label_counts, records
from tfrecords.splits import SPLITS

_ATTEMPTS = 20


@dataclasses.dataclass(frozen=True)
class LoggedRows:
    """All rows of the log.

    Attributes:
        users: Fingerprints of users [B] int64.
        ad_rows: Catalog rows [B] int32.
        clicked: Whether the row is clicked [B] bool.
        split: Index of its split in `SPLITS` [B] uint8.
        when: Rank in time [B] int64.
        ad_features: Encoded ads [B, …] by feature as they were shown; None: ads never change.
    """

    users: np.ndarray
    ad_rows: np.ndarray
    clicked: np.ndarray
    split: np.ndarray
    when: np.ndarray
    ad_features: Mapping[str, np.ndarray] | None = None


class NegativeSampler:
    """Adds sampled ads to requests.

    Args:
        count: Number of ads to sample per click.
        catalog: Encoded ads [N, …] by feature.
        log: The log.

    Attributes:
        users_return: Whether users return to ads that they clicked.
    """

    def __init__(self, count: int, catalog: Mapping[str, np.ndarray], log: LoggedRows) -> None:
        self._count = count
        self._catalog = catalog
        self._log = log
        self._num_ads = len(next(iter(catalog.values())))
        keys = columns.hashes_of_pairs(log.users, log.ad_rows)
        so_far = [log.split <= index for index in range(len(SPLITS))]
        clicked = [log.clicked & logged for logged in so_far]
        self._known = [columns.distinct_numbers(keys[is_clicked]) for is_clicked in clicked]
        num_clicks = np.count_nonzero(clicked[0])
        num_repeated = num_clicks - len(self._known[0])
        self.users_return = bool(num_repeated > label_counts.RETURNING_SHARE * num_clicks)
        if self.users_return:
            self._known = [keys[:0]] * len(SPLITS)
        self._pool = [columns.distinct_numbers(log.ad_rows[is_clicked]) for is_clicked in clicked]
        if log.ad_features is not None:
            self._history = [_History(log, logged) for logged in so_far]

    def extend(
        self, requests: records.Packed, rows: np.ndarray, split: int, seed: tuple[int, ...]
    ) -> tuple[records.Packed, int]:
        """Appends sampled ads to the list of each request.

        Args:
            requests: R requests with L rows.
            rows: Their rows in the log [L].
            split: Index of their split in `SPLITS`.
            seed: Seed of the sample.

        Returns:
            The requests and the number of added rows, which is smaller for a user who clicked
            nearly all ads.
        """
        lengths = requests["list_lengths"]
        row_requests = np.repeat(np.arange(len(lengths)), lengths)
        clicked = np.repeat(np.flatnonzero(requests["click"] == 1), self._count)
        owner = row_requests[clicked]
        taken = self._in_request(row_requests, requests["ad_row"])
        drawn = self._draw(self._log.users[rows[clicked]], owner, taken, split, seed)
        found = drawn >= 0
        owner, drawn, when = owner[found], drawn[found], self._log.when[rows[clicked[found]]]
        features = self._features(drawn, when, split)
        # The rows of a request stay together, followed by its sampled ones.
        order = np.argsort(np.concatenate([row_requests, owner]), kind="stable")
        extended = {}
        for name, values in requests.items():
            if name == "list_lengths":
                added = np.bincount(owner, minlength=len(lengths))
                extended[name] = (lengths + added).astype(values.dtype)
            elif records.is_per_request(name):
                extended[name] = values
            else:  # no click, engagement or revenue; position 0
                more = features.get(name, np.zeros(len(drawn), values.dtype))
                extended[name] = np.concatenate([values, more])[order]
        return extended, len(drawn)

    def _features(
        self, drawn: np.ndarray, when: np.ndarray, split: int
    ) -> Mapping[str, np.ndarray]:
        """Returns the stored features of sampled ads at the time."""
        if self._log.ad_features is None:
            features, rows = self._catalog, drawn
        else:
            features, rows = self._log.ad_features, self._history[split].rows(drawn, when)
        return {"ad_row": drawn, **{name: values[rows] for name, values in features.items()}}

    def _draw(
        self,
        users: np.ndarray,
        owner: np.ndarray,
        taken: np.ndarray,
        split: int,
        seed: tuple[int, ...],
    ) -> np.ndarray:
        """Returns catalog rows, or -1 if no ad was found in `_ATTEMPTS` draws."""
        rng = np.random.default_rng((*seed, 1))
        known, pool = self._known[split], self._pool[split]
        drawn = np.full(len(users), -1, np.int32)
        left = np.arange(len(users))
        for _ in range(_ATTEMPTS):
            if not len(left) or not len(pool):
                break
            tried = pool[rng.integers(len(pool), size=len(left))]
            tried_keys = self._in_request(owner[left], tried)
            pairs = columns.hashes_of_pairs(users[left], tried)
            free = ~columns.contains(known, pairs)
            free &= ~columns.contains(np.sort(taken), tried_keys)
            first = np.zeros(len(left), bool)
            first[np.unique(tried_keys, return_index=True)[1]] = True
            free &= first
            drawn[left[free]] = tried[free]
            taken = np.concatenate([taken, tried_keys[free]])
            left = left[~free]
        return drawn

    def _in_request(self, request: np.ndarray, ad_rows: np.ndarray) -> np.ndarray:
        """Returns a number that identifies the request and the ad."""
        return request.astype(np.int64) * self._num_ads + ad_rows


class _History:
    """Finds the last row that showed an ad, among some rows of the log."""

    def __init__(self, log: LoggedRows, allowed: np.ndarray) -> None:
        rows = np.flatnonzero(allowed)
        self._span = len(log.users) + 1
        keys = self._keys(log.ad_rows[rows], log.when[rows])
        order = np.argsort(keys, kind="stable")
        self._sorted, self._rows, self._ads = keys[order], rows[order], log.ad_rows[rows][order]

    def rows(self, ad_rows: np.ndarray, when: np.ndarray) -> np.ndarray:
        """Returns the last rows [n] of shown ads up to a time, or else their first rows."""
        indices = np.searchsorted(self._sorted, self._keys(ad_rows, when), side="right") - 1
        before = self._ads[np.maximum(indices, 0)] == ad_rows
        return self._rows[np.where(before & (indices >= 0), indices, indices + 1)]

    def _keys(self, ad_rows: np.ndarray, when: np.ndarray) -> np.ndarray:
        return ad_rows.astype(np.int64) * self._span + when
