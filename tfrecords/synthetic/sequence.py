"""The sequence world: the shop, where a click depends on what its user clicked before and when.

    appeal of a category = appeal in the shop
                         + follow_scale * maximum over its two predecessors of follow(age)
                         - repeat_scale * exp(-age / repeat_days)

    follow(age) = age / follow_days * exp(1 - age / follow_days)

An age is the time since the user's last click on an ad of a category: of a predecessor in
`follow`, and of the category itself in the last term. So a click on a tent makes sleeping bags
interesting, most of all `follow_days` later, and tents less so for a while. Neither the order of
clicks nor a mean over clicks reveals this: a model needs the age of a click on one of two
categories, and which two depends on the candidate. The users are few and return often, so
their histories are long; anonymous users have none.

References:
    Zhou et al., Deep Interest Network for Click-Through Rate Prediction, 2018 (interests are local:
    which part of a history matters depends on the candidate).
"""

import dataclasses

import numpy as np

from tfrecords.schema import Field
from tfrecords.synthetic.shop_population import (
    DAY_SECONDS,
    NUM_CATEGORIES,
    ShopConfig,
    ShopPopulation,
)
from tfrecords.synthetic.shop_truth import ShopTruth
from tfrecords.synthetic.world_parts import Columns, Memory, numeric

AGES = "click_ages"
HISTORY = Field(
    "recent_clicks",
    "history",
    "query",
    of="ad",
    event=("click",),
    max_length=50,
    max_age_days=30.0,
)
# A category follows those that are this many steps before it in a random circle.
_STEPS = (1, 7)


@dataclasses.dataclass(frozen=True)
class SequenceConfig(ShopConfig):
    """The constants of the sequence world: few users, and few other reasons to click.

    The intercepts are solved for clicks a mean of 30 days ago; in a log, users who return sooner
    click more.
    """

    num_users: int = 300
    num_ads: int = 1_000
    user_popularity_exponent: float = 0.3
    category_scale: float = 0.2
    match_scale: float = 0.4
    tree_scale: float = 0.05
    price_scale: float = 0.4
    ad_scale: float = 0.1
    brand_scale: float = 0.1
    user_scale: float = 0.1
    follow_scale: float = 3.0  # a category that follows one that was clicked, at its best age
    follow_days: float = 1.0
    repeat_scale: float = 1.0  # a category that was just clicked, subtracted
    repeat_days: float = 1.0


class SequencePopulation(ShopPopulation):
    """Users, ads and page views of the shop, and the ages of each user's last clicks."""

    query_columns = (*ShopPopulation.query_columns, AGES)
    state_columns = (AGES,)

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__(config)
        self.sequence_config = config
        query, ads = self.schema.query_fields, self.schema.ad_fields
        self.schema = dataclasses.replace(
            self.schema, name="sequence", fields=(*query, HISTORY, *ads)
        )

    def page_views(self, rng: np.random.Generator, n: int, start: int | None = None) -> Columns:
        """Draws query-side codes [n]; see `world_parts.Population`.

        With `start`, for a log, the ages of clicks are set later, from `memory`. Without it, each
        user last clicked each category a random time ago, 30 days on average.
        """
        views = super().page_views(rng, n, start)
        if start is None:
            days = rng.exponential(30.0, (n, NUM_CATEGORIES + 1))
            views[AGES] = np.where(views["user"][:, None] > 0, np.floor(days * DAY_SECONDS), np.nan)
            views[AGES][:, 0] = np.nan
        return views

    def memory(self) -> "ClickTimes":
        """Returns an empty memory."""
        return ClickTimes(self)


class ClickTimes(Memory):
    """When each user last clicked each category: [1 + users, 1 + categories] seconds, or NaN."""

    def __init__(self, population: SequencePopulation) -> None:
        self._category = population.ads["category"]
        self._times = np.full((len(population.vocabularies["user"]), NUM_CATEGORIES + 1), np.nan)

    def recall(self, views: Columns) -> Columns:
        """Returns the seconds since the last click on each category [n, 1 + categories]."""
        return {AGES: views["time"][:, None] - self._times[views["user"]]}

    def record(self, user: np.ndarray, time: np.ndarray, ad: np.ndarray, click: np.ndarray) -> None:
        """Adds clicks; those without a user or a category are ignored."""
        category = self._category[ad]
        known = (click == 1) & (user > 0) & (category > 0)
        self._times[user[known], category[known]] = time[known]


class SequenceTruth(ShopTruth):
    """The shop's truth with interests that follow clicks; see `world_parts.Truth`."""

    def __init__(self, population: SequencePopulation) -> None:
        super().__init__(population)
        self._config = population.sequence_config
        circle = 1 + np.random.default_rng([population.config.seed, 6]).permutation(NUM_CATEGORIES)
        # Category 0, missing, follows itself, whose age is never known.
        self.predecessors = np.zeros((len(_STEPS), NUM_CATEGORIES + 1), np.int64)
        for row, step in zip(self.predecessors, _STEPS, strict=True):
            row[circle] = np.roll(circle, step)

    def query_terms(self, codes: Columns) -> Columns:
        """Returns the terms of the shop, with the appeal that follows from clicks."""
        terms = super().query_terms(codes)
        config, days = self._config, codes[AGES] / DAY_SECONDS  # [n, 1 + categories]
        turns = days / config.follow_days
        follow = numeric(turns, lambda x: x * np.exp(1 - x), 0.0)
        tired = numeric(days, lambda x: np.exp(-x / config.repeat_days), 0.0)
        terms["appeal"] += config.follow_scale * follow[:, self.predecessors].max(axis=1)
        terms["appeal"] -= config.repeat_scale * tired
        return terms
