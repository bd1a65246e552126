"""The population of the shop: named users, page views, and readable ads.

    user     user, age, gender, city, membership, interest (a category that the user named), spend
             (of the last 90 days: the budget with noise); in the ground truth only: the price that
             the user likes to pay, and a favorite category
    context  time (seconds since 1970), device, hour, weekday, page (home, search or a category)
    ad       ad, title, brand, category, price, rating, delivery

The log names the ads by their ids; their fields are in the table of ads.
"""

import dataclasses

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

RECENT_RATE = Field(
    "category_click_rate", "numeric", "ad", of="category", event=("click",), max_age_days=5.0
)
START = 1_767_225_600  # 1 January 2026, UTC: a Thursday
DAY_SECONDS = 86_400
# Things of each category.
CATEGORIES = {
    "shoes": ("Sneaker", "Boot", "Sandal", "Loafer"),
    "jackets": ("Parka", "Raincoat", "Blazer", "Down Jacket"),
    "bags": ("Backpack", "Tote", "Suitcase", "Messenger Bag"),
    "watches": ("Watch", "Diver", "Chronograph", "Smartwatch"),
    "camping": ("Tent", "Sleeping Bag", "Lantern", "Camp Stove"),
    "lighting": ("Lamp", "Ceiling Light", "Spotlight", "Night Light"),
    "furniture": ("Chair", "Sofa", "Desk", "Bookshelf"),
    "kitchen": ("Kettle", "Knife Set", "Frying Pan", "Toaster"),
    "cameras": ("Camera", "Lens", "Tripod", "Drone"),
    "music": ("Guitar", "Piano", "Ukulele", "Drum Kit"),
    "cycling": ("Bicycle", "Helmet", "Bike Lock", "Saddle"),
    "books": ("Novel", "Cookbook", "Atlas", "Biography"),
    "games": ("Puzzle", "Board Game", "Card Game", "Chess Set"),
    "bedding": ("Blanket", "Pillow", "Mattress", "Duvet"),
    "audio": ("Speaker", "Headphones", "Turntable", "Microphone"),
    "computers": ("Keyboard", "Laptop", "Monitor", "Mouse"),
    "coffee": ("Coffee", "Espresso Machine", "Grinder", "Teapot"),
    "beauty": ("Perfume", "Face Cream", "Lipstick", "Shampoo"),
    "garden": ("Lawn Mower", "Rake", "Planter", "Garden Hose"),
    "toys": ("Train Set", "Doll", "Kite", "Building Blocks"),
}
NUM_CATEGORIES = len(CATEGORIES)
# Groups of the logging policy: categories times price tiers.
NUM_TIERS = 3
_BRANDS = tuple(
    first + last
    for first in ("Nor", "Al", "Vel", "Kes", "Mar", "Tor", "Bri", "Sol", "Ful", "Lun")
    for last in ("dia", "pino", "ton", "ara", "well", "berg", "ova", "field", "quist", "eno")
)
_VOCABULARIES = {
    "age": ("18-24", "25-34", "35-44", "45-54", "55-64", "65+"),
    "gender": ("female", "male"),
    "membership": ("none", "plus", "gold"),
    "interest": tuple(CATEGORIES),
    "device": ("phone", "desktop", "tablet"),
    "hour": tuple(str(hour) for hour in range(24)),
    "weekday": ("Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"),
    "page": ("home", "search", *CATEGORIES),
    "brand": _BRANDS,
    "category": tuple(CATEGORIES),
    "delivery": ("free", "standard", "express"),
}
_USER_FIELDS = ("user", "age", "gender", "city", "membership", "interest", "spend")
_CONTEXT_FIELDS = ("device", "hour", "weekday", "page")
_MISSING_OF_USERS = {"age": 0.1, "gender": 0.15, "city": 0.05, "interest": 0.3, "spend": 0.2}
_MISSING_OF_VIEWS = {"user": 0.06, "device": 0.01, "page": 0.03}
_MISSING_OF_ADS = {"brand": 0.02, "category": 0.02, "rating": 0.2, "delivery": 0.03}
_NUMERIC = ("spend", "price", "rating")


@dataclasses.dataclass(frozen=True)
class ShopConfig(EngineConfig):
    """The constants of the shop.

    `*_scale` is the size of a term in the logit. With `drift` above 0, the traffic of categories,
    tastes, and preferred prices change over time; the schema then has `RECENT_RATE`.
    """

    drift: float = 0.0
    num_users: int = 5_000
    num_cities: int = 60
    exposure_noise: float = 0.6  # noise of its estimate of a group's relevance
    budget_spread: float = 0.9  # standard deviation of the log price that users like
    price_spread: float = 1.1  # standard deviation of the log price of ads
    click_rate: float = 0.2  # of the log; the intercept is solved for it
    category_scale: float = 0.7  # the table of hours and categories
    match_scale: float = 1.2  # a category that the user likes, named, or looks at
    tree_scale: float = 0.35  # each tree
    num_trees: int = 16
    price_scale: float = 1.0  # steps at prices above what the user likes to pay
    brand_scale: float = 0.25
    engagement_rate: float = 0.12  # of the clicks of the log; solved for in the same way
    engagement_price_scale: float = 1.6
    revenue_sigma: float = 0.3  # of the log-normal, given engagement


class ShopPopulation(Population):
    """Users, ads and page views; see `world_parts.Population`.

    The groups are pairs of a category and a price tier.

    Attributes:
        liked_price: Log price that each user likes to pay [1 + num_users]; 0 is anonymous.
        favorite: Favorite category of each user [1 + num_users], 0: none.
        tier_prices: Mean log price of each price tier.
    """

    log_columns = (
        *("request", "time", "position", *_USER_FIELDS, *_CONTEXT_FIELDS, "ad"),
        *("clicked", "ordered", "order_value"),
    )
    decimals = frozenset({*_NUMERIC, "order_value"})
    query_columns: tuple[str, ...] = (*_USER_FIELDS, *_CONTEXT_FIELDS, "time")
    ad_columns = ("ad", "brand", "category", "price", "rating", "delivery")

    def __init__(self, config: ShopConfig) -> None:
        self.config = config
        self.schema = _schema()
        if config.drift:
            fields = (*self.schema.fields, RECENT_RATE)
            self.schema = dataclasses.replace(self.schema, fields=fields)
        named = {
            "user": [f"user{i}" for i in range(1, config.num_users + 1)],
            "city": [f"city{i}" for i in range(1, config.num_cities + 1)],
            "ad": [f"ad{i}" for i in range(1, config.num_ads + 1)],
        }
        values = {**_VOCABULARIES, **named}
        self.vocabularies = {name: np.array(["", *words]) for name, words in values.items()}
        rng = np.random.default_rng([config.seed, 2])
        self._user_shares = zipf(rng, config.num_users, config.user_popularity_exponent)
        self._page_shares = np.concatenate([[0.4, 0.2], 0.4 * zipf(rng, NUM_CATEGORIES, 0.8)])
        self._hour_bounds = np.concatenate([[0.0], hour_bounds()])
        self.liked_price = np.zeros(config.num_users + 1)
        self.favorite = np.zeros(config.num_users + 1, np.int64)
        self._users = self._make_users(rng)
        self.ads = self._make_ads(rng)
        self.popularity = zipf(rng, config.num_ads, config.ad_popularity_exponent)
        self.popularity[rng.random(config.num_ads) < config.unlaunched_fraction] = 0.0
        log_price = np.log(self.ads["price"])
        tier = np.searchsorted(np.quantile(log_price, [1 / 3, 2 / 3]), log_price)
        self.tier_prices = np.array([log_price[tier == t].mean() for t in range(NUM_TIERS)])
        self.group = NUM_TIERS * self.ads["category"] + tier
        self.num_groups = NUM_TIERS * (NUM_CATEGORIES + 1)

    def page_views(self, rng: np.random.Generator, n: int, start: int | None = None) -> Columns:
        """Draws query-side codes [n]; see `world_parts.Population`."""
        per_day = self.config.requests_per_day
        days = rng.random(n) * 56 if start is None else (start + np.arange(n) + 0.5) / per_day
        user = choice(rng, self._user_shares, n)
        codes = {name: self._users[name][user] for name in _USER_FIELDS}
        hours = np.interp(days % 1.0, self._hour_bounds, np.arange(25))
        codes["device"] = 1 + choice(rng, np.array([0.55, 0.35, 0.1]), n)
        codes["hour"] = 1 + hours.astype(np.int64).clip(max=23)
        codes["weekday"] = 1 + days.astype(np.int64) % 7
        codes["page"] = 1 + choice(rng, self._page_shares, n)
        codes["time"] = START + np.floor((np.floor(days) + hours / 24) * DAY_SECONDS)
        remove(rng, codes, _MISSING_OF_VIEWS)
        return {name: codes[name] for name in ShopPopulation.query_columns}

    def titles(self, ads: Columns) -> list[str]:
        """Returns names that say brand and thing, such as `Nordia Trail Boot`."""
        number = [int(ad.removeprefix("ad")) for ad in ads["ad"]]
        things = [CATEGORIES.get(category, ("Offer",)) for category in ads["category"]]
        return [
            f"{brand} {STYLES[i % len(STYLES)]} {nouns[i // len(STYLES) % len(nouns)]}".lstrip()
            for i, brand, nouns in zip(number, ads["brand"], things, strict=True)
        ]

    def _make_users(self, rng: np.random.Generator) -> Columns:
        config, n = self.config, self.config.num_users
        age, membership = rng.integers(1, 7, n), 1 + choice(rng, np.array([0.6, 0.3, 0.1]), n)
        deviation = config.budget_spread * rng.standard_normal(n)
        self.liked_price[1:] = 3.0 + 0.15 * age + 0.3 * membership + deviation
        self.liked_price[0] = self.liked_price[1:].mean()
        self.favorite[1:] = 1 + choice(rng, zipf(rng, NUM_CATEGORIES, 0.5), n)
        # A third of the users name something else than their favorite.
        named = rng.integers(1, NUM_CATEGORIES + 1, n)
        users = {
            "user": np.arange(1, n + 1),
            "age": age,
            "gender": rng.integers(1, 3, n),
            "city": 1 + choice(rng, zipf(rng, config.num_cities, 0.9), n),
            "membership": membership,
            "interest": np.where(rng.random(n) < 0.33, named, self.favorite[1:]),
            "spend": np.round(3 * np.exp(self.liked_price[1:] + 0.5 * rng.standard_normal(n)), 2),
        }
        remove(rng, users, _MISSING_OF_USERS)
        return users

    def _make_ads(self, rng: np.random.Generator) -> Columns:
        config, n = self.config, self.config.num_ads
        shares = zipf(rng, NUM_CATEGORIES, 0.5)
        home = 1 + choice(rng, shares, len(_BRANDS))
        brand = choice(rng, zipf(rng, len(_BRANDS), 0.7), n)
        elsewhere = rng.random(n) < 0.3
        category = np.where(elsewhere, 1 + choice(rng, shares, n), home[brand])
        # Of the variance, categories make a third and brands a sixth.
        spread = config.price_spread * np.sqrt(np.array([1 / 3, 1 / 6, 1 / 2]))
        log_price = 3.8 + spread[0] * rng.standard_normal(NUM_CATEGORIES + 1)[category]
        log_price += spread[1] * rng.standard_normal(len(_BRANDS))[brand]
        log_price += spread[2] * rng.standard_normal(n)
        ads = {
            "ad": np.arange(1, n + 1),
            "brand": 1 + brand,
            "category": category,
            "price": np.maximum(np.round(np.exp(log_price), 2), 0.5),
            "rating": np.round(1 + 4 * rng.beta(4.0, 1.6, n), 1),
            "delivery": 1 + choice(rng, np.array([0.4, 0.45, 0.15]), n),
        }
        remove(rng, ads, _MISSING_OF_ADS)
        return ads


def _schema() -> Schema:
    sides = {"query": (*_USER_FIELDS, *_CONTEXT_FIELDS), "ad": ShopPopulation.ad_columns}
    fields = [
        Field(name, "numeric" if name in _NUMERIC else "categorical", side)
        for side, names in sides.items()
        for name in names
    ]
    return Schema(
        name="shop",
        fields=tuple(fields),
        ad_key=("ad",),
        click="clicked",
        engagement="ordered",
        revenue="order_value",
        request_key="request",
        time="time",
        position="position",
        user_key="user",
        show=("title", "category", "price"),
        # In money: a click and an order are worth 1 each, in addition to the value of the order.
        weights={"click": 1.0, "engagement": 1.0, "revenue": 1.0},
    )
