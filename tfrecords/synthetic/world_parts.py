"""The parts of a world with known ground truth, and the functions that all worlds share.

A world is a population and a truth. Both work on *codes*, the columns as numbers: a categorical
column is an int array in which 0 is missing and 1..V are its values; a numeric column is a float64
array in which NaN is missing. Missing values have their own effects.

A truth first converts each side to terms, and then joins the terms row by row (aligned, [n]) or
for all pairs of a query and an ad (matrix, [Q, N]).

Shapes: n aligned rows; Q queries; N ads of the catalog; G groups of ads.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from tfrecords.schema import Schema

Columns = dict[str, np.ndarray]
# Words of titles.
STYLES = (
    "Trail", "City", "Alpine", "Coast", "Studio", "Summer", "Winter", "Classic", "Urban", "Nordic",
    "Desert", "Harbor", "Vintage", "Royal", "Pocket", "Family", "Night", "Travel", "Sport", "Eco",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """The constants that all worlds have; equal configs give equal bytes."""

    seed: int = 7
    num_ads: int = 10_000
    ad_popularity_exponent: float = 0.7  # Zipf
    user_popularity_exponent: float = 0.8  # Zipf
    unlaunched_fraction: float = 0.03  # ads of the catalog that are never shown
    requests_per_day: int = 400  # a sampled log: 100,000 impressions are about 50 days
    mean_ads_per_request: float = 5.0
    max_ads_per_request: int = 12
    exposure_relevance: float = 1.2  # how strongly the logging policy follows relevance
    position_scale: float = 0.3  # times log(1 + position), subtracted from the logit
    ad_scale: float = 0.2
    user_scale: float = 0.2


class Memory(abc.ABC):
    """The users' earlier actions before each request, in worlds whose clicks depend on them."""

    @abc.abstractmethod
    def recall(self, views: Columns) -> Columns:
        """Returns the population's `state_columns` [n, …] of page views [n]."""

    @abc.abstractmethod
    def record(self, user: np.ndarray, time: np.ndarray, ad: np.ndarray, click: np.ndarray) -> None:
        """Adds impressions [n]: codes of users, seconds, numbers of ads, and 0 or 1."""


class Population(abc.ABC):
    """Users, ads and the distribution of page views, with the columns that describe them.

    Attributes:
        schema: Schema of a log of the world.
        log_columns: Columns of the log.
        decimals: Columns whose numbers are not whole.
        vocabularies: Values of each categorical column [1 + V]; the first is "", missing.
        query_columns: Columns of page views. The truth reads no others.
        state_columns: Query columns that are not in the log, because they are the user's earlier
            actions: [n, …] float64. `truth.arrow` has them.
        ad_columns: Columns of ads, in the order of the table of ads.
        ads: Codes of all ads [N].
        popularity: Weights of all ads in the log [N]; 0 for ads that are never shown.
        group: Group of each ad [N], from 0; the logging policy sees only the group of an ad.
        num_groups: Number of groups G.
    """

    schema: Schema
    log_columns: tuple[str, ...]
    decimals: frozenset[str]
    vocabularies: Columns
    query_columns: tuple[str, ...]
    state_columns: tuple[str, ...] = ()
    ad_columns: tuple[str, ...]
    ads: Columns
    popularity: np.ndarray
    group: np.ndarray
    num_groups: int

    @abc.abstractmethod
    def page_views(self, rng: np.random.Generator, n: int, start: int | None = None) -> Columns:
        """Draws query-side codes [n].

        Args:
            rng: Source of randomness.
            n: Number of page views.
            start: Number of the first one in the log, which determines its time; None: random
                times.
        """

    def memory(self) -> Memory | None:
        """Returns an empty memory, or None if earlier actions of users have no effect."""
        return None

    @abc.abstractmethod
    def titles(self, ads: Columns) -> list[str]:
        """Returns a name to show for each ad, given the columns of all ads [N]."""


class Truth(abc.ABC):
    """The scores of a world.

    Attributes:
        click_intercept: Added to all click logits; the caller sets it for the log's traffic.
        engagement_intercept: Added to all engagement logits; set in the same way.
    """

    click_intercept = 0.0
    engagement_intercept = 0.0

    @abc.abstractmethod
    def query_terms(self, codes: Columns) -> Columns:
        """Returns the query side of all scores: `click_bias` [n] and others [n, …]."""

    @abc.abstractmethod
    def ad_terms(self, codes: Columns) -> Columns:
        """Returns the ad side of all scores [n, …]."""

    @abc.abstractmethod
    def exposure(self, query: Columns) -> np.ndarray:
        """Returns the logging policy's weight of each group of ads [n, G]."""

    @abc.abstractmethod
    def click_logit(self, query: Columns, ads: Columns, matrix: bool) -> np.ndarray:
        """Joins terms into the click logit at position 0: [n], or [Q, N] if `matrix`."""

    @abc.abstractmethod
    def engagement_logit(self, query: Columns, ads: Columns, matrix: bool) -> np.ndarray:
        """Joins terms into the logit of engagement given a click: [n] or [Q, N]."""

    @abc.abstractmethod
    def log_revenue(self, query: Columns, ads: Columns, matrix: bool) -> np.ndarray:
        """Joins terms into the mean log revenue given engagement: [n] or [Q, N]."""


def zipf(rng: np.random.Generator, size: int, exponent: float) -> np.ndarray:
    """Returns shares [size] that fall with a random rank."""
    weights = rng.permutation(np.arange(1, size + 1) ** -exponent)
    return weights / weights.sum()


def choice(rng: np.random.Generator, weights: np.ndarray, n: int) -> np.ndarray:
    """Draws n numbers from 0 with probabilities in proportion to the weights."""
    bounds = np.cumsum(weights)
    return np.searchsorted(bounds, rng.random(n) * bounds[-1], side="right")


def hour_bounds() -> np.ndarray:
    """Returns the share of a day's page views until the end of each hour [24]."""
    daily = 1.0 + 0.7 * np.sin(2 * np.pi * (np.arange(24) - 9) / 24)
    return np.cumsum(daily / daily.sum())


def remove(rng: np.random.Generator, codes: Columns, shares: Mapping[str, float]) -> None:
    """Makes a share of the values of each column missing."""
    for name, share in shares.items():
        gone = rng.random(len(codes[name])) < share
        missing = np.nan if codes[name].dtype.kind == "f" else 0
        codes[name] = np.where(gone, missing, codes[name])


def sigmoid(logit: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-logit))


def intercept(logit: np.ndarray, weight: np.ndarray, rate: float) -> float:
    """Solves for x: the weighted mean of sigmoid(logit + x) is `rate`."""
    low, high = -20.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        if np.average(sigmoid(logit + middle), weights=weight) < rate:
            low = middle
        else:
            high = middle
    return low


def total(tables: Columns, codes: Columns) -> np.ndarray:
    """Returns the sum over tables of their rows at the codes: [n] or [n, …]."""
    parts = [table[codes[name]] for name, table in tables.items() if name in codes]
    return np.sum(parts, axis=0)


def numeric(
    values: np.ndarray, curve: Callable[[np.ndarray], np.ndarray], missing: float
) -> np.ndarray:
    """Returns the curve of the values, and `missing` for NaN."""
    return np.where(np.isnan(values), missing, curve(np.nan_to_num(values)))


def join_dot(query: np.ndarray, ads: np.ndarray, matrix: bool) -> np.ndarray:
    """Returns inner products of [n, d] and [n, d], or of all pairs: [n] or [Q, N]."""
    return query @ ads.T if matrix else np.einsum("nd,nd->n", query, ads)


def join_sum(query: np.ndarray, ads: np.ndarray, matrix: bool) -> np.ndarray:
    """Returns sums of [n] and [n], or of all pairs: [n] or [Q, N]."""
    return query[:, None] + ads[None, :] if matrix else query + ads


def join_table(query: np.ndarray, ads: np.ndarray, matrix: bool) -> np.ndarray:
    """Returns values of tables of queries [n, V] at codes of ads [n]: [n] or [Q, N]."""
    return query[:, ads] if matrix else query[np.arange(len(query)), ads]
