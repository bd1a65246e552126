"""Worlds with known ground truth: requests, shown ads and their outcomes.

    world = synthetic.World(synthetic.WORLDS["shop"])
    values = world.value_matrices(world.sample_requests(rng, 100))["revenue"]

    bilinear   inner products of tastes and themes, in Criteo's columns
    shop       budgets, tables and trees; named users and readable ads
    drift      the shop, where popularity, tastes and budgets change over time
    sequence   the shop, where the next click depends on the user's earlier clicks

All worlds share this engine; each defines its population and its truth, see `world_parts`. Ads are
shown by successive sampling without replacement with weights
`popularity[ad] * exposure[query, group of the ad]`; the exposure is a noisy estimate of relevance.

Shapes: n aligned rows; Q queries; N ads of the catalog. A column is an array of strings ("" is
missing) or of float64 (NaN is missing), with the names of the log.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.synthetic import (
    bilinear_population,
    bilinear_truth,
    sequence,
    shop_population,
    shop_truth,
)
from tfrecords.synthetic.world_parts import Columns, Memory, Population, Truth, intercept, sigmoid

WorldConfig = bilinear_population.WorldConfig
ShopConfig = shop_population.ShopConfig
SequenceConfig = sequence.SequenceConfig
AnyConfig = WorldConfig | ShopConfig | SequenceConfig
# Replace their seeds and sizes with `dataclasses.replace`.
WORLDS: dict[str, AnyConfig] = {
    "bilinear": WorldConfig(),
    "shop": ShopConfig(),
    "drift": ShopConfig(drift=1.0),
    "sequence": SequenceConfig(),
}

_CANDIDATES_PER_REQUEST = 48
_QUERIES_AT_ONCE = 128
_REQUESTS_FOR_RATES = 8_192


class World:
    """Users, ads and contexts with known probabilities; equal configs give equal worlds.

    Attributes:
        config: The constants.
        schema: Schema of a log.
        population: Users, ads and columns.
        ads: Ad-side columns of the whole catalog [N].
    """

    def __init__(self, config: AnyConfig | None = None) -> None:
        """Builds a world; None: the default bilinear one."""
        self.config = config or WorldConfig()
        self.population, self._truth = _parts(self.config)
        self.schema = self.population.schema
        self.ads = self.decode(self.population.ads)
        self._ad_terms = self._truth.ad_terms(self.population.ads)
        group = self.population.group
        self._by_group = np.argsort(group, kind="stable")
        self._cumulative = np.cumsum(self.population.popularity[self._by_group])
        starts = np.searchsorted(group[self._by_group], np.arange(self.population.num_groups + 1))
        self._group_bounds = np.concatenate([[0.0], self._cumulative])[starts]
        self._set_rates(np.random.default_rng([self.config.seed, 5]))

    def sample_requests(self, rng: np.random.Generator, n: int) -> Columns:
        """Draws query-side columns [n] at random times."""
        return self.decode(self.population.page_views(rng, n))

    def click_probability(
        self, query: Columns, ads: Columns | None = None, position: np.ndarray | None = None
    ) -> np.ndarray:
        """Returns p(click), float64 [n]; without `ads`, of all queries and ads [Q, N].

        Args:
            query: Query-side columns [n], or [Q].
            ads: Ad-side columns [n]; None: all ads.
            position: Positions of the ads [n]; None: the first position, 0, for all.
        """
        effect, logit = self._position_effect(position), self._truth.click_logit
        return self._joined(query, ads, lambda *terms: sigmoid(logit(*terms) - effect))

    def engagement_probability(self, query: Columns, ads: Columns | None = None) -> np.ndarray:
        """Returns p(engagement | click); see `click_probability` for arguments and shapes."""
        return self._joined(
            query, ads, lambda *terms: sigmoid(self._truth.engagement_logit(*terms))
        )

    def expected_revenue_given_engagement(
        self, query: Columns, ads: Columns | None = None
    ) -> np.ndarray:
        """Returns the mean revenue of an engagement.

        The arguments and the shape are the same as for `click_probability`.
        """
        log_revenue, above = self._truth.log_revenue, self.config.revenue_sigma**2 / 2
        return self._joined(query, ads, lambda *terms: np.exp(log_revenue(*terms) + above))

    def value_matrices(self, query: Columns) -> dict[str, np.ndarray]:
        """Returns the true values of all ads in the first position: head -> [Q, N].

        `click` and `engagement` are probabilities and `revenue` is an expected value, per
        impression.
        """
        click = self.click_probability(query)
        engagement = click * self.engagement_probability(query)
        revenue = engagement * self.expected_revenue_given_engagement(query)
        return {"click": click, "engagement": engagement, "revenue": revenue}

    def exposure_weight_matrix(self, query: Columns) -> np.ndarray:
        """Returns the logging policy's weights of all ads for all queries, float64 [Q, N].

        The first ad of a request is drawn with probability weight / sum of the row, and each
        further one in the same way from the remaining ads. Ads that are not launched have weight 0.
        """
        group, popularity = self.population.group, self.population.popularity
        exposure = self._truth.exposure
        return self._joined(query, None, lambda users, *_: exposure(users)[:, group] * popularity)

    def encode(self, columns: Columns) -> Columns:
        """Converts columns to codes; unknown strings are missing."""
        codes = {}
        for name, values in columns.items():
            if name in self.population.vocabularies:
                strings = pa.array(np.asarray(values, dtype=object), pa.string())
                found = pc.index_in(strings, pa.array(self.population.vocabularies[name][1:]))
                codes[name] = pc.add(pc.fill_null(found, -1), 1).to_numpy().astype(np.int64)
            else:
                codes[name] = np.asarray(values, dtype=np.float64)
        return codes

    def decode(self, codes: Columns) -> Columns:
        """Converts codes to columns; the inverse of `encode`."""
        return {
            name: self.population.vocabularies[name][values]
            if name in self.population.vocabularies
            else values
            for name, values in codes.items()
        }

    def impressions(
        self, rng: np.random.Generator, n: int, start: int, memory: Memory | None = None
    ) -> Columns:
        """Draws the impressions of n requests, in order: the columns of a log [rows].

        Args:
            rng: Source of randomness.
            n: Number of requests.
            start: Number of the first request in the log.
            memory: From `population.memory()`, with the impressions of all requests before, to
                which these are added.

        Returns:
            Query-side and ad-side columns; request key and position (int64), click and
            engagement (0 or 1) and revenue under the names of the schema; and the ground truth of
            each impression: `click_probability`, `engagement_probability`, `expected_revenue`
            (float64).
        """
        page_views = self.population.page_views(rng, n, start)
        rounds = [np.arange(n)] if memory is None else _rounds(page_views["user"])
        parts = [
            self._round(
                rng, start + indices, {k: v[indices] for k, v in page_views.items()}, memory
            )
            for indices in rounds
        ]
        rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        order = np.argsort(rows[str(self.schema.request_key)], kind="stable")
        return {name: values[order] for name, values in rows.items()}

    def _round(
        self,
        rng: np.random.Generator,
        numbers: np.ndarray,
        page_views: Columns,
        memory: Memory | None,
    ) -> Columns:
        """Draws the impressions of page views [n], given their numbers; at most one per user."""
        if memory is not None:
            page_views = page_views | memory.recall(page_views)
        request, ad, position, pair = self._show(rng, page_views)
        rows = {name: values[request] for name, values in self.decode(page_views).items()}
        rows |= {name: values[ad] for name, values in self.ads.items()}
        roles = {"request_key": numbers[request], "position": position}
        roles |= self._outcomes(rng, pair, position)
        if memory is not None:
            views = page_views["user"][request], page_views["time"][request]
            memory.record(*views, ad, roles["click"])
        return rows | {getattr(self.schema, role, role): column for role, column in roles.items()}

    def _outcomes(
        self, rng: np.random.Generator, pair: tuple[Columns, Columns], position: np.ndarray
    ) -> Columns:
        logit = self._truth.click_logit(*pair, matrix=False) - self._position_effect(position)
        click_probability = sigmoid(logit)
        engaged = sigmoid(self._truth.engagement_logit(*pair, matrix=False))
        log_revenue = self._truth.log_revenue(*pair, matrix=False)
        sigma, n = self.config.revenue_sigma, len(position)
        click = rng.random(n) < click_probability
        engagement = click & (rng.random(n) < engaged)
        amount = np.exp(log_revenue + sigma * rng.standard_normal(n))
        return {
            "click": click.astype(np.int64),
            "engagement": engagement.astype(np.int64),
            "revenue": np.where(engagement, np.maximum(np.round(amount, 2), 0.01), 0.0),
            "click_probability": click_probability,
            "engagement_probability": click_probability * engaged,
            "expected_revenue": click_probability * engaged * np.exp(log_revenue + sigma**2 / 2),
        }

    def _set_rates(self, rng: np.random.Generator) -> None:
        _, _, position, pair = self._show(rng, self.population.page_views(rng, _REQUESTS_FOR_RATES))
        config, truth = self.config, self._truth
        logit = truth.click_logit(*pair, matrix=False) - self._position_effect(position)
        truth.click_intercept = intercept(logit, np.ones(len(logit)), config.click_rate)
        click_probability = sigmoid(logit + truth.click_intercept)
        truth.engagement_intercept = intercept(
            truth.engagement_logit(*pair, matrix=False), click_probability, config.engagement_rate
        )

    def _show(
        self, rng: np.random.Generator, page_views: Columns
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[Columns, Columns]]:
        """Draws the ads of each page view: request, ad, position and terms of each row."""
        terms = self._truth.query_terms(page_views)
        config = self.config
        mass = self._truth.exposure(terms) * np.diff(self._group_bounds)  # [n, groups]
        bounds = np.cumsum(mass, axis=1)
        bounds = bounds / bounds[:, -1:] + np.arange(len(bounds))[:, None]
        draws = rng.random((len(bounds), _CANDIDATES_PER_REQUEST))
        flat = np.searchsorted(
            bounds.ravel(), draws + np.arange(len(bounds))[:, None], side="right"
        )
        group = (flat % bounds.shape[1]).astype(np.int64)
        low, high = self._group_bounds[group], self._group_bounds[group + 1]
        # Sampling with replacement and dropping repeats is successive sampling without it.
        index = np.searchsorted(
            self._cumulative, low + rng.random(low.shape) * (high - low), side="right"
        )
        ad = self._by_group[np.minimum(index, len(self._by_group) - 1)]
        extra = config.max_ads_per_request - 1
        share = (config.mean_ads_per_request - 1) / extra
        length = 1 + rng.binomial(extra, rng.beta(4 * share, 4 * (1 - share), len(bounds)))
        position = _first_seen(ad)
        shown = (position >= 0) & (position < length[:, None])
        request, ad = np.nonzero(shown)[0], ad[shown]
        pair = (
            {name: values[request] for name, values in terms.items()},
            {name: values[ad] for name, values in self._ad_terms.items()},
        )
        return request, ad, position[shown], pair

    def _position_effect(self, position: np.ndarray | None) -> np.ndarray | float:
        if position is None:
            return 0.0
        return self.config.position_scale * np.log1p(np.asarray(position, dtype=np.float64))

    def _joined(
        self, query: Columns, ads: Columns | None, score: Callable[..., np.ndarray]
    ) -> np.ndarray:
        """Scores aligned rows [n], or all pairs [Q, N] without `ads`, in blocks of queries."""
        terms = self._truth.query_terms(self.encode(query))
        if ads is not None:
            return score(terms, self._truth.ad_terms(self.encode(ads)), False)
        num_queries = len(terms["click_bias"])
        out = np.empty((num_queries, len(self._by_group)))
        for start in range(0, num_queries, _QUERIES_AT_ONCE):
            rows = slice(start, start + _QUERIES_AT_ONCE)
            block = {name: values[rows] for name, values in terms.items()}
            out[rows] = score(block, self._ad_terms, True)
        return out


def _rounds(user: np.ndarray) -> list[np.ndarray]:
    """Splits page views [n] into rounds: the first of each user, the second, and so on.

    A user's actions depend only on the same user's earlier ones. All page views without a user (0)
    are in the first round.
    """
    order = np.argsort(user, kind="stable")
    ordered = user[order]
    rank = np.empty(len(user), np.int64)
    rank[order] = np.arange(len(user)) - np.searchsorted(ordered, ordered)
    rank[user == 0] = 0
    return [np.flatnonzero(rank == number) for number in range(rank.max() + 1)]


def _parts(config: AnyConfig) -> tuple[Population, Truth]:
    if isinstance(config, SequenceConfig):
        users = sequence.SequencePopulation(config)
        return users, sequence.SequenceTruth(users)
    if isinstance(config, ShopConfig):
        shop = shop_population.ShopPopulation(config)
        return shop, shop_truth.ShopTruth(shop)
    people = bilinear_population.BilinearPopulation(config)
    return people, bilinear_truth.BilinearTruth(people)


def _first_seen(ad: np.ndarray) -> np.ndarray:
    """Numbers the distinct values of each row by first appearance; -1 for repeats."""
    order = np.argsort(ad, axis=1, kind="stable")
    ordered = np.take_along_axis(ad, order, axis=1)
    repeat = np.zeros(ad.shape, dtype=bool)
    np.put_along_axis(repeat, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return np.where(repeat, -1, np.cumsum(~repeat, axis=1) - 1)
