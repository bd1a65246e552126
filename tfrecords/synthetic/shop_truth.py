"""The ground truth of the shop: steps of prices, tables of categories, and trees.

    click logit = query bias + ad bias
                + table[hour band, category of the ad]
                + match_scale * (favorite, named interest or page is the category of the ad)
                + trees of the columns of both sides
                - price_scale * steps(log price - log price the user likes)

    engagement logit = the same parts with other tables and trees, and a steep slope above the
                       price that the user likes
    log revenue      = log price

Neither logit is an inner product of vectors of the two sides: the price that a user likes is
compared with the price of the ad by steps, and a tree splits on both sides in turn.

With drift, slow waves change the traffic and the appeal of each category and the prices that users
like. The truth then depends on the time of the request.
"""

import numpy as np

from tfrecords.synthetic.shop_population import (
    DAY_SECONDS,
    NUM_CATEGORIES,
    NUM_TIERS,
    START,
    ShopPopulation,
)
from tfrecords.synthetic.world_parts import (
    Columns,
    Truth,
    join_dot,
    join_sum,
    join_table,
    numeric,
    total,
)

_HOUR_BANDS = 6
_PAGES_BEFORE_CATEGORIES = 2
_WAVE_DAYS = (17.0, 61.0)
_LEAVES = 4  # of each side of a tree: two questions


class ShopTruth(Truth):
    """Tables, trees and the scores computed from them; see `world_parts.Truth`."""

    def __init__(self, shop: ShopPopulation) -> None:
        self.config = config = shop.config
        self._shop = shop
        rng = np.random.default_rng([config.seed, 1])
        sizes = {name: len(values) for name, values in shop.vocabularies.items()}

        def effects(name: str, scale: float) -> np.ndarray:  # [1 + V]
            return scale * rng.standard_normal(sizes[name])

        self._hours = config.category_scale * rng.standard_normal(
            (_HOUR_BANDS + 1, NUM_CATEGORIES + 1)
        )
        self._click_effects = {name: effects(name, 0.2) for name in ("device", "page", "delivery")}
        self._click_effects |= {
            "user": effects("user", config.user_scale),
            "ad": effects("ad", config.ad_scale),
            "brand": effects("brand", config.brand_scale),
        }
        self._engagement_effects = {n: effects(n, 0.3) for n in ("device", "city", "brand")}
        self._waves = rng.random((len(_WAVE_DAYS), NUM_CATEGORIES + 1))  # phases
        # Splits on prices and ratings are at their quantiles.
        self._prices = np.nanquantile(shop.ads["price"], [0.2, 0.4, 0.6, 0.8])
        self._ratings = np.nanquantile(shop.ads["rating"], [0.25, 0.5, 0.75])
        self._spends = np.exp(shop.liked_price.mean()) * np.array([1.0, 3.0, 9.0])
        self._brands = rng.random((sizes["brand"], 3)) < 0.4
        self._categories = rng.random((NUM_CATEGORIES + 1, 4)) < 0.4
        self._click_trees, self._engagement_trees = (
            _Trees(rng, config.num_trees, config.tree_scale) for _ in range(2)
        )
        # Wrong beliefs of the logging policy about users of an age.
        self._believed = config.exposure_noise * rng.standard_normal(
            (sizes["age"], shop.num_groups)
        )

    def query_terms(self, codes: Columns) -> Columns:
        """Returns the query side of all scores: biases [n] and tables [n, …]."""
        config, shop = self.config, self._shop
        hour = np.where(codes["hour"] == 0, 0, 1 + (codes["hour"] - 1) * _HOUR_BANDS // 24)
        wave = config.drift * self._wave(codes["time"])  # [n, 1 + categories]
        appeal = self._hours[hour] + wave
        page = (codes["page"] - _PAGES_BEFORE_CATEGORIES).clip(min=0)
        for category, share in (
            (shop.favorite[codes["user"]], 1.0),
            (codes["interest"], 0.5),
            (page, 0.7),
        ):
            # Nothing matches a category that is missing.
            matches = np.eye(NUM_CATEGORIES + 1)[category] * (category > 0)[:, None]
            appeal += config.match_scale * share * matches
        answers = self._query_questions(codes)
        return {
            "click_bias": total(self._click_effects, codes),
            "appeal": appeal,
            "wave": wave,
            # The wave of the ads without a category also moves prices.
            "liked_price": shop.liked_price[codes["user"]] + 0.5 * wave[:, 0],
            "click_trees": self._click_trees.query_values(answers),
            "engagement_bias": total(self._engagement_effects, codes),
            "engagement_trees": self._engagement_trees.query_values(answers),
            "believed": self._believed[codes["age"]],
        }

    def ad_terms(self, codes: Columns) -> Columns:
        """Returns the ad side of all scores: biases, codes and prices [n], and leaves [n, …]."""
        answers = self._ad_questions(codes)
        poor = numeric(codes["rating"], lambda x: np.where(x < 3.0, 1.0, 0.0), 0.5)
        return {
            "click_bias": total(self._click_effects, codes) - 0.4 * poor,
            "category": codes["category"],
            "log_price": np.log(codes["price"]),
            "click_trees": self._click_trees.ad_leaves(answers),
            "engagement_bias": total(self._engagement_effects, codes) - 0.8 * poor,
            "engagement_trees": self._engagement_trees.ad_leaves(answers),
        }

    def exposure(self, query: Columns) -> np.ndarray:
        """Returns the logging policy's weight of each category in each price tier [n, G]."""
        gap = np.abs(query["liked_price"][:, None] - self._shop.tier_prices)  # [n, tiers]
        relevance = np.repeat(query["appeal"], NUM_TIERS, axis=1)
        relevance -= np.tile(gap, (1, NUM_CATEGORIES + 1))
        relevance = np.tanh(relevance + query["believed"])
        season = np.repeat(query["wave"], NUM_TIERS, axis=1)
        return np.exp(self.config.exposure_relevance * relevance + season)

    def click_logit(self, query: Columns, ads: Columns, matrix: bool) -> np.ndarray:
        """Joins terms into the click logit at position 0: [n], or [Q, N] if `matrix`."""
        gap = join_sum(-query["liked_price"], ads["log_price"], matrix)
        logit = join_sum(query["click_bias"] + self.click_intercept, ads["click_bias"], matrix)
        logit += join_table(query["appeal"], ads["category"], matrix)
        logit += join_dot(query["click_trees"], ads["click_trees"], matrix)
        # Too expensive, much too expensive, and so cheap that it looks bad.
        steps = 0.8 * (gap > 0.2) + 1.2 * (gap > 0.9) + 0.6 * (gap < -2.0)
        return logit - self.config.price_scale * steps

    def engagement_logit(self, query: Columns, ads: Columns, matrix: bool) -> np.ndarray:
        """Joins terms into the logit of engagement given a click: [n] or [Q, N]."""
        gap = join_sum(-query["liked_price"], ads["log_price"], matrix)
        logit = join_sum(
            query["engagement_bias"] + self.engagement_intercept, ads["engagement_bias"], matrix
        )
        logit += 0.5 * join_table(query["appeal"], ads["category"], matrix)
        logit += join_dot(query["engagement_trees"], ads["engagement_trees"], matrix)
        return logit - self.config.engagement_price_scale * np.maximum(gap, 0.0)

    def log_revenue(self, query: Columns, ads: Columns, matrix: bool) -> np.ndarray:
        """Joins terms into the mean log revenue given engagement: [n] or [Q, N]."""
        return join_sum(np.zeros(len(query["click_bias"])), ads["log_price"], matrix)

    def _wave(self, time: np.ndarray) -> np.ndarray:
        """Returns the change of each category's appeal at a time: [n, 1 + categories]."""
        days = (time - START) / DAY_SECONDS
        turns = days[:, None, None] / np.array(_WAVE_DAYS)[:, None] + self._waves
        return 0.7 * np.sin(2 * np.pi * turns).sum(axis=1)

    def _query_questions(self, codes: Columns) -> np.ndarray:
        """Returns the answers to all questions about queries [n, questions] bool."""
        answers = [codes["age"] > bound for bound in (1, 2, 3, 4)]
        answers += [codes["gender"] == 1, codes["device"] == 1, codes["membership"] > 1]
        answers += [codes["membership"] > 2, codes["page"] == 2, codes["hour"] > 18]
        answers += [codes["hour"] < 10, np.isin(codes["weekday"], (3, 4))]
        answers += [codes["spend"] > bound for bound in self._spends]
        return np.stack(answers, axis=1)

    def _ad_questions(self, codes: Columns) -> np.ndarray:
        """Returns the answers to all questions about ads [n, questions] bool."""
        answers = [codes["price"] > bound for bound in self._prices]
        answers += [codes["rating"] > bound for bound in self._ratings]
        answers += [codes["delivery"] == 1]
        brands, categories = self._brands[codes["brand"]], self._categories[codes["category"]]
        return np.concatenate([np.stack(answers, axis=1), brands, categories], axis=1)


class _Trees:
    """Trees with two splits on the query and two on the ad, and a value in each leaf."""

    def __init__(self, rng: np.random.Generator, count: int, scale: float) -> None:
        self._values = scale * rng.standard_normal((count, _LEAVES, _LEAVES))
        self._query_questions, self._ad_questions = rng.random((2, count, 2))

    def query_values(self, answers: np.ndarray) -> np.ndarray:
        """Returns the values of the leaves that a query can still reach [n, trees * 4]."""
        leaf = self._leaf(answers, self._query_questions)
        return self._values[np.arange(leaf.shape[1]), leaf].reshape(len(leaf), -1)

    def ad_leaves(self, answers: np.ndarray) -> np.ndarray:
        """Returns the leaf of the ad in each tree, one-hot [n, trees * 4]."""
        leaf = self._leaf(answers, self._ad_questions)
        return np.eye(_LEAVES)[leaf].reshape(len(leaf), -1)

    def _leaf(self, answers: np.ndarray, questions: np.ndarray) -> np.ndarray:
        first, second = (questions * answers.shape[1]).astype(int).T
        return 2 * answers[:, first] + answers[:, second]
