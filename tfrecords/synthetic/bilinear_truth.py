"""The ground truth of the bilinear world: click, engagement, revenue, exposure.

click logit = query bias + ad bias
            + affinity_scale * tanh(<taste of the query, theme of the ad>)   low rank
            + price_scale * bump(log price of the ad - price the user likes)
            + slot_scale * table[hour band, device, format]                  three-way
            + skill_scale * <curve of the user's visits, curve of the quality>
"""

import numpy as np

from tfrecords.synthetic import bilinear_population
from tfrecords.synthetic.world_parts import Columns, Truth, join_dot, join_sum, numeric, total

HOUR_BANDS = 6


class BilinearTruth(Truth):
    """Tables and the scores computed from them; see `world_parts.Truth`."""

    def __init__(self, people: bilinear_population.BilinearPopulation) -> None:
        """Draws the tables.

        Args:
            people: Population of the world; the logging policy uses its advertisers.
        """
        self.config = config = people.config
        sizes = bilinear_population.sizes(config)
        rng = np.random.default_rng([config.seed, 1])

        def vectors(name: str, scale: float) -> np.ndarray:  # [1 + V, rank]
            drawn = rng.standard_normal((sizes[name] + 1, config.rank))
            return scale * (drawn - drawn.mean(axis=0))

        def effects(name: str, scale: float) -> np.ndarray:  # [1 + V]
            return scale * rng.standard_normal(sizes[name] + 1)

        self.tastes = {"C12": vectors("C12", 0.8), "C10": vectors("C10", 0.55)}
        self.tastes |= {"C1": vectors("C1", 0.6), "C23": vectors("C23", 0.3)}
        self.themes = {"C17": vectors("C17", 0.65), "C13": vectors("C13", 0.3)}
        self.themes |= {"C18": vectors("C18", 0.2)}
        self.believed_themes = self._believe(rng, people.ads)
        self.slot = rng.standard_normal((HOUR_BANDS + 1, sizes["C4"] + 1, sizes["C8"] + 1))
        side = config.side_scale
        self.click_effects = {name: effects(name, side) for name in ("C1", "C4", "C10", "C6")}
        self.click_effects |= {name: effects(name, side) for name in ("C8", "C17")}
        self.click_effects |= {
            "C3": effects("C3", config.user_scale),
            "C9": effects("C9", config.publisher_scale),
            "C13": effects("C13", config.advertiser_scale),
            "C11": effects("C11", config.campaign_scale),
            "C7": effects("C7", config.ad_scale),
        }
        side = config.engagement_side_scale
        self.engagement_effects = {n: effects(n, side) for n in ("C2", "C23", "C18", "C13")}
        self.intents = {"C1": vectors("C1", 0.8), "C12": vectors("C12", 0.6)}
        self.intents |= {"C4": vectors("C4", 0.5)}
        self.offers = {"C17": vectors("C17", 0.7), "C18": vectors("C18", 0.7)}
        self.revenue_effects = {name: effects(name, 0.25) for name in ("C2", "C1", "C17")}
        self.liked_price = effects("C1", 0.5)

    def _believe(self, rng: np.random.Generator, ads: Columns) -> np.ndarray:
        """Returns the mean theme of each advertiser's ads with noise: [1 + advertisers, rank]."""
        size = self.config.num_advertisers + 1
        believed = np.zeros((size, self.config.rank))
        np.add.at(believed, ads["C13"], total(self.themes, ads))
        count = np.bincount(ads["C13"], minlength=size)[:, None]
        noise = self.config.exposure_noise * rng.standard_normal(believed.shape)
        return believed / np.maximum(count, 1) + noise

    def query_terms(self, codes: Columns) -> Columns:
        """Returns the query side of all scores: biases [n] and vectors [n, …]."""
        visits, recency, seen, spend = (codes[name] for name in ("I1", "I2", "I6", "I4"))
        hour = np.where(codes["C5"] == 0, 0, 1 + (codes["C5"] - 1) * HOUR_BANDS // 24)
        curve = numeric(visits, lambda x: np.cos(1.1 * np.log1p(np.maximum(x, 0))), 0.2)
        bias = total(self.click_effects, codes)
        bias += 0.3 * numeric(seen, lambda x: np.sin(0.9 * np.log1p(x)), -0.4)
        bias += 0.3 * numeric(recency, lambda x: np.where(x < 0, 0.9, np.exp(-x / 10)), -0.3)
        liked = (
            2.0 + numeric(spend, lambda x: 0.45 * np.log1p(x), 1.0) + self.liked_price[codes["C1"]]
        )
        return {
            "click_bias": bias,
            "taste": total(self.tastes, codes),
            "slot": self.slot[hour, codes["C4"]],
            "skill": np.stack([curve, np.sin(2.0 * curve)], axis=1),
            "liked_price": liked,
            "engagement_bias": total(self.engagement_effects, codes),
            "intent": total(self.intents, codes),
            "revenue_bias": total(self.revenue_effects, codes),
        }

    def ad_terms(self, codes: Columns) -> Columns:
        """Returns the ad side of all scores: biases [n] and vectors [n, …]."""
        price, quality, age, bid = (codes[name] for name in ("I10", "I11", "I12", "I13"))
        bias = total(self.click_effects, codes)
        bias += 0.3 * numeric(age, lambda x: np.exp(-x / 60) - 0.5, 0.3)
        bias += 0.2 * numeric(bid, lambda x: np.sin(x / 12), -0.2)
        curve = numeric(quality, lambda x: np.tanh((x - 55) / 12), -0.4)
        log_price = numeric(price, np.log1p, 3.6)
        return {
            "click_bias": bias,
            "theme": total(self.themes, codes),
            "format": np.eye(self.slot.shape[2])[codes["C8"]],
            "skill": np.stack([curve, 0.5 * curve**2], axis=1),
            "log_price": log_price,
            "engagement_bias": total(self.engagement_effects, codes) + 0.3 * curve,
            "offer": total(self.offers, codes),
            "revenue_bias": total(self.revenue_effects, codes)
            + self.config.revenue_price_slope * (log_price - 3.6),
        }

    def exposure(self, query: Columns) -> np.ndarray:
        """Returns the logging policy's weight of each advertiser [n, 1 + advertisers]."""
        fit = np.tanh(query["taste"] @ self.believed_themes.T)
        return np.exp(self.config.exposure_relevance * fit)

    def click_logit(self, query: Columns, ads: Columns, matrix: bool) -> np.ndarray:
        """Joins terms into the click logit at position 0: [n], or [Q, N] if `matrix`."""
        config = self.config
        affinity = np.tanh(join_dot(query["taste"], ads["theme"], matrix))
        gap = join_sum(query["liked_price"], -ads["log_price"], matrix)
        logit = join_sum(query["click_bias"] + self.click_intercept, ads["click_bias"], matrix)
        logit += config.affinity_scale * affinity
        logit += config.price_scale * (np.exp(-0.5 * (gap / 0.7) ** 2) - 0.4)
        logit += config.slot_scale * join_dot(query["slot"], ads["format"], matrix)
        logit += config.skill_scale * join_dot(query["skill"], ads["skill"], matrix)
        return logit

    def engagement_logit(self, query: Columns, ads: Columns, matrix: bool) -> np.ndarray:
        """Joins terms into the logit of engagement given a click: [n] or [Q, N]."""
        config = self.config
        logit = join_sum(
            query["engagement_bias"] + self.engagement_intercept, ads["engagement_bias"], matrix
        )
        intent = np.tanh(join_dot(query["intent"], ads["offer"], matrix))
        gap = join_sum(-query["liked_price"], ads["log_price"], matrix)
        return logit + config.engagement_affinity_scale * intent - 0.5 * np.tanh(gap)

    def log_revenue(self, query: Columns, ads: Columns, matrix: bool) -> np.ndarray:
        """Joins terms into the mean log revenue given engagement: [n] or [Q, N]."""
        config = self.config
        logit = join_sum(query["revenue_bias"] + config.revenue_bias, ads["revenue_bias"], matrix)
        intent = np.tanh(join_dot(query["intent"], ads["theme"], matrix))
        return logit + config.revenue_affinity_scale * intent
