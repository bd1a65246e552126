"""The population of the bilinear world: constants, users, ads and page views.

Columns have Criteo's names; numbers are whole.

    user     C3 user id, C1 segment, C12 interest, C2 city, C15 country, C23 age band, C24 gender,
             I1 visits, I2 days since the last visit (-1: first seen today), I4 spend,
             I5 clicks (follows I1), I7 account age, I9 (noisy copy of I1)
    context  C4 device, C14 browser and C16 system (follow C4), C5 hour, C6 weekday, C9 publisher,
             C26 publisher group, C10 page topic, C20 layout, C22 connection, I3 pages,
             I6 ads seen, noise: C19, C21 (session), C25, I8
    ad       C7 ad id, C8 format, C11 campaign, C13 advertiser, C17 category, C18 landing page,
             I10 price, I11 quality, I12 age in days, I13 bid
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from tfrecords.schema import Field, Schema
from tfrecords.synthetic.world_parts import (
    STYLES,
    Columns,
    EngineConfig,
    Population,
    choice,
    hour_bounds,
    remove,
    zipf,
)

NUMERIC = tuple(f"I{i}" for i in range(1, 14))
CATEGORICAL = tuple(f"C{i}" for i in range(1, 27))
USER_FIELDS = ("C3", "C1", "C12", "C2", "C15", "C23", "C24", "I1", "I2", "I4", "I5", "I7", "I9")
QUERY_CATEGORICAL = tuple(f"C{i}" for i in (*range(1, 7), 9, 10, 12, 14, 15, 16, *range(19, 27)))
QUERY_NUMERIC = tuple(f"I{i}" for i in range(1, 10))
AD_CATEGORICAL = ("C7", "C8", "C11", "C13", "C17", "C18")
AD_NUMERIC = ("I10", "I11", "I12", "I13")
AD_COLUMNS = (*AD_NUMERIC, *AD_CATEGORICAL)

_THINGS = (
    "Shoe", "Jacket", "Backpack", "Watch", "Tent", "Lamp", "Chair", "Kettle", "Camera", "Guitar",
    "Bicycle", "Helmet", "Scarf", "Novel", "Puzzle", "Blanket", "Speaker", "Keyboard", "Coffee",
    "Teapot", "Perfume", "Umbrella", "Wallet", "Sofa", "Mirror", "Skateboard", "Telescope",
    "Cookbook", "Drone", "Mattress",
)  # fmt: skip
_MIN_COUNT = {"C3": 10, "C21": 10}  # The embeddings of rare ids overfit.

# Share of missing values: of users for user fields, otherwise of page views or ads.
MISSING = {
    "C1": 0.04, "C2": 0.08, "C3": 0.10, "C4": 0.01, "C9": 0.02, "C10": 0.06, "C12": 0.15,
    "C14": 0.03, "C15": 0.08, "C16": 0.12, "C19": 0.40, "C22": 0.35, "C23": 0.20, "C24": 0.30,
    "C25": 0.25, "C8": 0.02, "C11": 0.03, "C13": 0.02, "C17": 0.04, "C18": 0.25,
    "I1": 0.12, "I2": 0.20, "I3": 0.05, "I4": 0.22, "I5": 0.03, "I6": 0.15, "I7": 0.04,
    "I8": 0.40, "I9": 0.18, "I10": 0.05, "I11": 0.08, "I12": 0.25, "I13": 0.10,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class WorldConfig(EngineConfig):
    """The constants of the bilinear world.

    `*_scale` is the size of a term in the logit (of revenue: in the logarithm).
    """

    num_users: int = 20_000
    num_campaigns: int = 1_500
    num_advertisers: int = 300
    num_categories: int = 30
    num_segments: int = 10
    num_interests: int = 20
    num_topics: int = 24
    num_publishers: int = 400
    num_cities: int = 300
    exposure_noise: float = 0.4  # noise of its estimate of an advertiser's theme
    rank: int = 5  # dimensions of the affinity between tastes and themes
    click_rate: float = 0.23  # of the log; the intercept is solved for it
    affinity_scale: float = 1.4
    price_scale: float = 2.0
    slot_scale: float = 0.6
    skill_scale: float = 0.8
    side_scale: float = 0.2  # each low-cardinality main effect
    advertiser_scale: float = 0.2
    campaign_scale: float = 0.15
    publisher_scale: float = 0.2
    engagement_rate: float = 0.15  # of the clicks of the log; solved for in the same way
    engagement_affinity_scale: float = 1.2
    engagement_side_scale: float = 0.3
    revenue_bias: float = 0.2
    revenue_price_slope: float = 0.6
    revenue_affinity_scale: float = 0.5
    revenue_sigma: float = 0.7  # of the log-normal, given engagement


def schema() -> Schema:
    """Returns the schema of the bilinear world: Criteo's columns, request, position and labels."""
    fields = []
    for name in (*NUMERIC, *CATEGORICAL):
        kind = "numeric" if name in NUMERIC else "categorical"
        side = "ad" if name in AD_COLUMNS else "query"
        fields.append(Field(name, kind, side, min_count=_MIN_COUNT.get(name, 5)))
    return Schema(
        name="synthetic",
        fields=tuple(fields),
        ad_key=("C7",),
        click="label",
        engagement="engagement",
        revenue="revenue",
        request_key="request_id",
        position="position",
        show=("title",),
        # The reports on its ground truth add up the three heads as they are.
        weights={"click": 1.0, "engagement": 1.0, "revenue": 1.0},
    )


def sizes(config: WorldConfig) -> dict[str, int]:
    """Returns the number of values of each categorical column, without the missing value."""
    return {
        "C1": config.num_segments, "C2": config.num_cities, "C3": config.num_users, "C4": 4,
        "C5": 24, "C6": 7, "C7": config.num_ads, "C8": 5, "C9": config.num_publishers,
        "C10": config.num_topics, "C11": config.num_campaigns, "C12": config.num_interests,
        "C13": config.num_advertisers, "C14": 12, "C15": 20, "C16": 9,
        "C17": config.num_categories, "C18": 6, "C19": 200, "C20": 8, "C21": 50_000, "C22": 3,
        "C23": 7, "C24": 2, "C25": 1_000, "C26": 40,
    }  # fmt: skip


class BilinearPopulation(Population):
    """Users, ads and page views; see `world_parts.Population`. The groups are advertisers."""

    log_columns = (
        *("label", *NUMERIC, *CATEGORICAL),
        *("request_id", "position", "engagement", "revenue"),
    )
    decimals = frozenset({"revenue"})
    query_columns = (*QUERY_CATEGORICAL, *QUERY_NUMERIC)
    ad_columns = AD_COLUMNS

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.schema = schema()
        self._sizes = sizes(config)
        self.vocabularies = {
            name: _vocabulary([config.seed, 3, number], size)
            for number, (name, size) in enumerate(self._sizes.items())
        }
        rng = np.random.default_rng([config.seed, 2])
        self._user_shares = zipf(rng, config.num_users, config.user_popularity_exponent)
        self._publisher_shares = zipf(rng, config.num_publishers, 1.0)
        self._publisher_topic = 1 + choice(
            rng, zipf(rng, config.num_topics, 0.7), config.num_publishers
        )
        self._city_country = 1 + choice(rng, zipf(rng, 20, 1.0), config.num_cities + 1)
        self._hour_bounds = hour_bounds()
        self._users = self._make_users(rng)
        self.ads = self._make_ads(rng)
        self.popularity = zipf(rng, config.num_ads, config.ad_popularity_exponent)
        self.popularity[rng.random(config.num_ads) < config.unlaunched_fraction] = 0.0
        self.group, self.num_groups = self.ads["C13"], 1 + config.num_advertisers

    def page_views(self, rng: np.random.Generator, n: int, start: int | None = None) -> Columns:
        """Draws query-side codes [n]; see `world_parts.Population`."""
        per_day = self.config.requests_per_day
        time = rng.random(n) * 7 if start is None else (start + np.arange(n) + 0.5) / per_day
        user = choice(rng, self._user_shares, n)
        codes = {name: self._users[name][user] for name in USER_FIELDS}
        codes["C5"] = 1 + np.searchsorted(self._hour_bounds, time % 1.0).clip(max=23)
        codes["C6"] = 1 + time.astype(np.int64) % 7
        codes["C9"] = 1 + choice(rng, self._publisher_shares, n)
        codes["C26"] = 1 + (codes["C9"] - 1) % 40
        anywhere = rng.random(n) < 0.4
        topic = 1 + rng.integers(0, self.config.num_topics, n)
        codes["C10"] = np.where(anywhere, topic, self._publisher_topic[codes["C9"] - 1])
        codes["C4"] = 1 + choice(rng, np.array([0.5, 0.33, 0.13, 0.04]), n)
        codes["C14"] = _follow(rng, codes["C4"], 12, 0.3)
        codes["C16"] = _follow(rng, codes["C4"], 9, 0.1)
        shares = {"C19": 1.1, "C20": 0.6, "C21": 0.2, "C22": 0.8, "C25": 1.0}
        for name, exponent in shares.items():
            weights = np.arange(1, self._sizes[name] + 1) ** -exponent
            codes[name] = 1 + choice(rng, weights, n)
        codes["I3"] = rng.geometric(0.25, n).astype(np.float64)
        codes["I6"] = np.floor(rng.exponential(6.0, n))
        codes["I8"] = np.floor(rng.lognormal(3.0, 1.5, n)) - 2
        context = [name for name in codes if name not in USER_FIELDS or name == "C3"]
        remove(rng, codes, _missing(context))
        return {name: codes[name] for name in (*QUERY_CATEGORICAL, *QUERY_NUMERIC)}

    def titles(self, ads: Columns) -> list[str]:
        """Returns names that say the ad and its category, such as `Trail Shoe 0d15`."""
        things = [_THINGS[int(code, 16) % len(_THINGS)] if code else "Offer" for code in ads["C17"]]
        return [
            f"{STYLES[int(ad, 16) % len(STYLES)]} {thing} {ad[:4]}"
            for ad, thing in zip(ads["C7"], things, strict=True)
        ]

    def _make_users(self, rng: np.random.Generator) -> Columns:
        config, n = self.config, self.config.num_users
        segment = choice(rng, zipf(rng, config.num_segments, 0.5), n)
        leaning = rng.dirichlet(np.full(config.num_interests, 0.5), config.num_segments)
        draws = (rng.random(n)[:, None] > np.cumsum(leaning, axis=1)[segment]).sum(axis=1)
        visits = np.floor(rng.lognormal(2.2, 1.2, n))
        city = 1 + choice(rng, zipf(rng, config.num_cities, 0.9), n)
        users = {
            "C3": np.arange(1, n + 1),
            "C1": 1 + segment,
            "C12": 1 + draws.clip(max=config.num_interests - 1),
            "C2": city,
            "C15": self._city_country[city],
            "C23": 1 + rng.binomial(6, 0.2 + 0.5 * segment / config.num_segments),
            "C24": rng.integers(1, 3, n),
            "I1": visits,
            "I2": np.floor(rng.exponential(9.0, n)) - 1,
            "I4": np.floor(rng.lognormal(3.2 + 0.1 * (segment % 5), 1.3, n)),
            "I5": rng.binomial(visits.astype(np.int64), 0.15).astype(np.float64),
            "I7": rng.integers(0, 2_000, n).astype(np.float64),
            "I9": np.floor(visits * rng.uniform(0.7, 1.3, n)) - 1,
        }
        remove(rng, users, _missing(name for name in USER_FIELDS if name != "C3"))
        return users

    def _make_ads(self, rng: np.random.Generator) -> Columns:
        config, n = self.config, self.config.num_ads
        category_shares = zipf(rng, config.num_categories, 0.8)
        home = choice(rng, category_shares, config.num_advertisers)
        owner = choice(rng, zipf(rng, config.num_advertisers, 0.8), config.num_campaigns)
        campaign = choice(rng, zipf(rng, config.num_campaigns, 0.6), n)
        advertiser = owner[campaign]
        elsewhere = rng.random(n) < 0.2
        category = np.where(elsewhere, choice(rng, category_shares, n), home[advertiser])
        level = rng.normal(3.6, 0.6, config.num_categories)
        price = np.ceil(np.exp(level[category] + rng.normal(0.0, 0.8, n)))
        ads = {
            "C7": np.arange(1, n + 1),
            "C8": 1 + choice(rng, np.array([0.4, 0.25, 0.2, 0.1, 0.05]), n),
            "C11": 1 + campaign,
            "C13": 1 + advertiser,
            "C17": 1 + category,
            "C18": 1 + choice(rng, np.array([0.35, 0.25, 0.2, 0.1, 0.07, 0.03]), n),
            "I10": price,
            "I11": np.round(100 * rng.beta(3.0, 2.4, n)),
            "I12": np.floor(rng.exponential(80.0, n)) - 1,
            "I13": np.ceil(price**0.5 * rng.lognormal(1.2, 0.5, n)),
        }
        remove(rng, ads, _missing(name for name in ads if name != "C7"))
        return ads


def _follow(rng: np.random.Generator, codes: np.ndarray, size: int, noise: float) -> np.ndarray:
    """Returns codes 1..size that are a function of `codes`, except for a share of noise."""
    mapped = 1 + (codes - 1) * size // (codes.max(initial=1) + 1)
    return np.where(rng.random(len(codes)) < noise, rng.integers(1, size + 1, len(codes)), mapped)


def _missing(names: Iterable[str]) -> dict[str, float]:
    return {name: MISSING.get(name, 0.0) for name in names}


def _vocabulary(seed: list[int], size: int) -> np.ndarray:
    """Returns "" and distinct strings of eight hex digits [1 + size]."""
    rng = np.random.default_rng(seed)
    values = rng.permutation(np.unique(rng.integers(0, 2**32, 2 * size + 16)))[:size]
    return np.array(["", *(f"{value:08x}" for value in values)])
