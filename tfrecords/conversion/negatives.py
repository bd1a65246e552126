"""Samples negatives, ads that a user did not click, for logs of clicks only.

A training click gets ads drawn uniformly from those clicked in training, except the ads that its
user clicked in training. Ads that the user clicks later are not excluded: their absence would leak
future clicks. A held-out click gets ads of the whole catalog that its user never clicked. An ad
is at most once in a request.

If users return to ads, such as groceries and songs, the ads that the user clicked in other requests
are not excluded: a ranker would learn that such an ad is always clicked.

If ads change, a sampled ad has the fields that it had at the time of the click: its latest fields
would distinguish it from the clicked ad.

Shapes: R requests, L their rows, B rows of the log, N ads.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from tfrecords import label_counts, records

_ATTEMPTS = 20


@dataclasses.dataclass(frozen=True)
class LoggedRows:
    """All rows of the log.

    Attributes:
        users: Fingerprints of users [B] int64.
        ad_rows: Catalog rows [B] int32.
        clicked: Whether the row is clicked [B] bool.
        is_train: Whether it is a training row [B] bool.
        when: Rank in time [B] int64.
        ad_features: Encoded ads [B, …] by feature as they were shown; None: ads never change.
    """

    users: np.ndarray
    ad_rows: np.ndarray
    clicked: np.ndarray
    is_train: np.ndarray
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
        keys = _pairs(log.users, log.ad_rows)
        learned = log.clicked & log.is_train
        self._known = {True: np.unique(keys[learned]), False: np.unique(keys[log.clicked])}
        num_clicks = np.count_nonzero(learned)
        num_repeated = num_clicks - len(self._known[True])
        self.users_return = bool(num_repeated > label_counts.RETURNING_SHARE * num_clicks)
        if self.users_return:
            self._known = dict.fromkeys(self._known, keys[:0])
        whole = np.arange(self._num_ads, dtype=np.int32)
        self._pool = {True: np.unique(log.ad_rows[learned]), False: whole}
        if log.ad_features is not None:
            everything = np.ones(len(log.users), bool)
            self._history = {
                True: _History(log, log.is_train),
                False: _History(log, everything),
            }

    def extend(
        self, requests: records.Packed, rows: np.ndarray, split: int, seed: tuple[int, ...]
    ) -> tuple[records.Packed, int]:
        """Appends sampled ads to the list of each request.

        Args:
            requests: R requests with L rows.
            rows: Their rows in the log [L].
            split: Index of their split; 0 is training.
            seed: Seed of the sample.

        Returns:
            The requests and the number of added rows, which is smaller for a user who clicked
            nearly all ads.
        """
        lengths = requests["list_lengths"]
        request_of_row = np.repeat(np.arange(len(lengths)), lengths)
        clicked = np.repeat(np.flatnonzero(requests["click"] == 1), self._count)
        owner = request_of_row[clicked]
        taken = self._in_request(request_of_row, requests["ad_row"])
        drawn = self._draw(self._log.users[rows[clicked]], owner, taken, split == 0, seed)
        found = drawn >= 0
        owner, drawn, when = owner[found], drawn[found], self._log.when[rows[clicked[found]]]
        features = self._features(drawn, when, split == 0)
        # The rows of a request stay together, followed by its sampled ones.
        order = np.argsort(np.concatenate([request_of_row, owner]), kind="stable")
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

    def _features(self, drawn: np.ndarray, when: np.ndarray, train: bool) -> records.Packed:
        """Returns the stored features of sampled ads at the time."""
        features = {"ad_row": drawn, **{n: v[drawn] for n, v in self._catalog.items()}}
        if self._log.ad_features is not None:
            rows = self._history[train].rows(drawn, when)
            shown = rows >= 0  # The others have the features of the catalog.
            for name, values in self._log.ad_features.items():
                features[name][shown] = values[rows[shown]]
        return features

    def _draw(
        self,
        users: np.ndarray,
        owner: np.ndarray,
        taken: np.ndarray,
        train: bool,
        seed: tuple[int, ...],
    ) -> np.ndarray:
        """Returns catalog rows, or -1 if no ad was found in `_ATTEMPTS` draws."""
        rng = np.random.default_rng((*seed, 1))
        known, pool = self._known[train], self._pool[train]
        drawn = np.full(len(users), -1, np.int32)
        left = np.arange(len(users))
        for _ in range(_ATTEMPTS):
            if not len(left) or not len(pool):
                break
            tried = pool[rng.integers(len(pool), size=len(left))]
            own = self._in_request(owner[left], tried)
            free = ~np.isin(_pairs(users[left], tried), known) & ~np.isin(own, taken)
            first = np.zeros(len(left), bool)
            first[np.unique(own, return_index=True)[1]] = True
            free &= first
            drawn[left[free]] = tried[free]
            taken = np.concatenate([taken, own[free]])
            left = left[~free]
        return drawn

    def _in_request(self, request: np.ndarray, ad_rows: np.ndarray) -> np.ndarray:
        """Returns a number that identifies the request and the ad."""
        return request.astype(np.int64) * self._num_ads + ad_rows


class _History:
    """Finds the last row of the log that showed an ad."""

    def __init__(self, log: LoggedRows, allowed: np.ndarray) -> None:
        rows = np.flatnonzero(allowed)
        self._span = len(log.users) + 1
        keys = self._keys(log.ad_rows[rows], log.when[rows])
        order = np.argsort(keys, kind="stable")
        self._sorted, self._rows, self._ads = keys[order], rows[order], log.ad_rows[rows][order]

    def rows(self, ad_rows: np.ndarray, when: np.ndarray) -> np.ndarray:
        """Returns the ads' last rows up to a time, or their first rows, or -1."""
        if not len(self._sorted):
            return np.full(len(ad_rows), -1)
        indices = np.searchsorted(self._sorted, self._keys(ad_rows, when), side="right") - 1
        before = self._ads[np.maximum(indices, 0)] == ad_rows
        indices = np.where(
            before & (indices >= 0), indices, np.minimum(indices + 1, len(self._ads) - 1)
        )
        return np.where(self._ads[indices] == ad_rows, self._rows[indices], -1)

    def _keys(self, ad_rows: np.ndarray, when: np.ndarray) -> np.ndarray:
        return ad_rows.astype(np.int64) * self._span + when


def _pairs(users: np.ndarray, ad_rows: np.ndarray) -> np.ndarray:
    """Returns one 64-bit number for each pair of user and ad."""
    mixed = users.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    return mixed + ad_rows.astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
