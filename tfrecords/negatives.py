"""Samples ads that a user did not click, for logs that hold clicks only.

A training click gets ads drawn uniformly from those clicked in training, without the ads
that its user clicked in training. What the user clicks later is not left out: leaving it
out would tell the model of it. A held-out click gets ads of the whole catalogue that its
user never clicked.

Shapes: R requests, L their rows, B rows of the log, N ads.
"""

from collections.abc import Mapping

import numpy as np

from tfrecords import records, writer

_ATTEMPTS = 20


class Sampler:
    """Adds sampled ads to requests.

    Args:
        count: Ads drawn for each click.
        catalogue: Encoded ads [N, …] by feature.
        users: [B] int64 of every row of the log.
        ad_rows: [B] int32 catalogue rows.
        clicked: [B] bool.
        is_train: [B] bool.
    """

    def __init__(
        self,
        count: int,
        catalogue: Mapping[str, np.ndarray],
        users: np.ndarray,
        ad_rows: np.ndarray,
        clicked: np.ndarray,
        is_train: np.ndarray,
    ) -> None:
        self._count = count
        self._catalogue = catalogue
        num_ads = len(next(iter(catalogue.values())))
        keys = _pairs(users, ad_rows)
        learnt = clicked & is_train
        self._known = {True: np.unique(keys[learnt]), False: np.unique(keys[clicked])}
        self._pool = {True: np.unique(ad_rows[learnt]), False: np.arange(num_ads, dtype=np.int32)}

    def extend(
        self, requests: records.Packed, users: np.ndarray, split: int, seed: tuple[int, ...]
    ) -> tuple[records.Packed, int]:
        """Appends sampled ads to the list of each request.

        Args:
            requests: R requests with L rows.
            users: [L] int64.
            split: Index of their split; 0 is training.
            seed: Of the draw.

        Returns:
            The requests, and how many rows were added. A user who clicked nearly every ad
            gets fewer.
        """
        lengths = requests["list_lengths"]
        request_of_row = np.repeat(np.arange(len(lengths)), lengths)
        clicked = np.flatnonzero(requests["click"] == 1)
        owner = np.repeat(request_of_row[clicked], self._count)
        drawn = self._draw(np.repeat(users[clicked], self._count), split == 0, seed)
        owner, drawn = owner[drawn >= 0], drawn[drawn >= 0]
        # Rows of a request stay together, its own before the sampled ones.
        order = np.argsort(np.concatenate([request_of_row, owner]), kind="stable")
        extended = {}
        for name, values in requests.items():
            if name == "list_lengths":
                added = np.bincount(owner, minlength=len(lengths))
                extended[name] = (lengths + added).astype(values.dtype)
            elif writer.is_per_request(name):
                extended[name] = values
            else:
                extended[name] = np.concatenate([values, self._values(name, drawn, values)])[order]
        return extended, len(drawn)

    def _values(self, name: str, drawn: np.ndarray, like: np.ndarray) -> np.ndarray:
        if name in self._catalogue:
            return self._catalogue[name][drawn]
        if name == "ad_row":
            return drawn
        return np.zeros(len(drawn), like.dtype)  # no click, no engagement, no revenue, slot 0

    def _draw(self, users: np.ndarray, train: bool, seed: tuple[int, ...]) -> np.ndarray:
        """Returns catalogue rows, -1 where none was found in `_ATTEMPTS` draws."""
        rng = np.random.default_rng((*seed, 1))
        known, pool = self._known[train], self._pool[train]
        drawn = np.full(len(users), -1, np.int32)
        open_places = np.arange(len(users))
        for _ in range(_ATTEMPTS):
            if not len(open_places):
                break
            tried = pool[rng.integers(len(pool), size=len(open_places))]
            keys = _pairs(users[open_places], tried)
            places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
            free = known[places] != keys
            drawn[open_places[free]] = tried[free]
            open_places = open_places[~free]
        return drawn


def _pairs(users: np.ndarray, ad_rows: np.ndarray) -> np.ndarray:
    """Returns one 64-bit number for each pair of user and ad."""
    mixed = users.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    return mixed + ad_rows.astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
