"""The tables of the six examples, in the form in which such logs are usually stored.

Each function simulates a world (`simulation.py`) and gives its columns the names that
examples/NAME/schema.json expects. Shapes: U users, A ads, B rows.
"""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import simulation

Table = Mapping[str, Sequence[Any]]
COUNTRIES = ("AT", "BR", "DE", "FR", "IN", "JP", "US")
CITIES = ("Basel", "Bern", "Chur", "Genf", "Zug", "Zürich")
DEVICES = ("desktop", "phone", "tablet")


@dataclasses.dataclass(frozen=True)
class Tables:
    """The files of an example.

    Attributes:
        log: [B] rows.
        ads: [A] ads with their fields, also those that were never shown; None: all in the log.
        users: [U] users with their fields; None: all in the log.
    """

    log: Table
    ads: Table | None = None
    users: Table | None = None


def display_ads(rng: np.random.Generator, rows: int) -> Tables:
    """Banners in the four slots of web pages; one in four unclicked rows was kept."""
    world = simulation.world(rng, 11 * rows // 4, 600, 200, 8, length=4)
    world = world.rows((world.clicked == 1) | (rng.random(len(world.ad)) < 0.25))
    campaign = rng.integers(3, size=200) + 3 * world.topic
    segments = simulation.likes(rng, world, 4)
    formats = rng.choice(("300x250", "728x90", "video"), 200)
    bids = rng.lognormal(-1, 0.4, 200).round(2)
    return Tables(
        {
            "time": world.seconds,
            "cookie": names("u", world.user),
            "country": pick(COUNTRIES, rng.integers(7, size=600)[world.user]),
            "site": names("site", rng.integers(40, size=len(world.ad))),
            "device": pick(DEVICES, rng.integers(3, size=len(world.ad))),
            "slot": world.position,
            "segments": ["|".join(names("seg", segments[user])) for user in world.user],
            "creative": names("c", world.ad),
            "campaign": names("camp", campaign[world.ad]),
            "advertiser": names("adv", campaign[world.ad] // 2),
            "category": names("cat", world.topic[world.ad]),
            "format": formats[world.ad],
            "bid": bids[world.ad],
            "clicked": world.clicked,
            "converted": world.engaged,
            "value": world.spend,
        }
    )


def shop(rng: np.random.Generator, rows: int) -> Tables:
    """Products in lists of eight, with tables of products and customers."""
    topics = ("bags", "books", "coats", "games", "lamps", "shoes", "tools", "toys")
    world = simulation.world(rng, rows, 500, 400, len(topics), length=8)
    skus = names("sku", range(400))
    seen = simulation.histories(world, world.clicked, skus, 10)
    searched = rng.random(world.request[-1] + 1) < 0.5
    products = {
        "sku": skus,
        "category": pick(topics, world.topic),
        "brand": names("brand", 4 * world.topic + rng.integers(4, size=400)),
        "price": rng.lognormal(3, 0.6, 400).round(2),
        "tags": [" ".join(rng.choice(("new", "sale", "eco", "gift"), 2)) for _ in skus],
    }
    customers = {
        "customer": names("k", range(500)),
        "segment": rng.choice(("new", "regular", "club"), 500),
        "city": pick(CITIES, rng.integers(6, size=500)),
    }
    log = {
        "page_view": names("p", world.request),
        "at": iso(world.seconds),
        "customer": names("k", world.user),
        "query": [
            topics[world.favorite[user]] if searched[request] else ""
            for user, request in zip(world.user, world.request, strict=True)
        ],
        "recently_viewed": ["|".join(values) for values in seen],
        "sku": pick(skus, world.ad),
        "rank": world.position,
        "clicked": world.clicked,
        "ordered": world.engaged,
        "order_value": world.spend,
    }
    return Tables(log, products, customers)


def articles(rng: np.random.Generator, rows: int) -> Tables:
    """Articles that were opened; the log has no rows of other articles."""
    topics = ("arts", "climate", "economy", "health", "politics", "science", "sport", "travel")
    world = simulation.world(rng, 7 * rows, 400, 300, len(topics), length=6)
    clicks = world.clicked == 1
    ids = names("a", range(300))
    before = simulation.histories(world, world.clicked, ids, 8)
    read = [before[row] for row in np.flatnonzero(clicks)]
    world = world.rows(clicks)
    words = [rng.choice([f"{topic}{i}" for i in range(12)], 4) for topic in topics]
    headlines = [[*words[t], *rng.choice(("how", "why", "new", "first"), 2)] for t in world.topic]
    return Tables(
        {
            "opened_at": iso(world.seconds),
            "reader": names("r", world.user),
            "device": pick(DEVICES, rng.integers(3, size=len(world.ad))),
            "referrer": rng.choice(("home", "search", "mail", "social"), len(world.ad)),
            "recently_read": ["|".join(values) for values in read],
            "article": pick(ids, world.ad),
            "finished": world.engaged,
        },
        {
            "article": ids,
            "section": pick(topics, world.topic),
            "author": names("author", 5 * world.topic + rng.integers(5, size=300)),
            "headline": [" ".join(own) for own in headlines],
            "length": rng.integers(200, 3000, size=300),
        },
    )


def feeds(rng: np.random.Generator, rows: int) -> Tables:
    """Posts in a feed, ten a load, with the seconds that each was in view."""
    world = simulation.world(rng, rows, 500, 600, 10, length=10)
    authors = names("by", 8 * world.topic + rng.integers(8, size=600))
    tags = [names("tag", 6 * topic + rng.integers(6, size=3)) for topic in world.topic]
    media = rng.choice(("text", "photo", "video"), 600)
    follows = simulation.likes(rng, world, 5)
    # The schema counts at least 3 seconds as a click.
    seconds = np.where(
        world.clicked, 3 + rng.exponential(9, len(world.ad)), 3 * rng.random(len(world.ad))
    )
    log = {
        "load": names("l", world.request),
        "time_ms": world.seconds * 1000,
        "user": names("u", world.user),
        "network": rng.choice(("wifi", "4g", "5g"), world.request[-1] + 1)[world.request],
        "follows": ["|".join(names("topic", follows[user])) for user in world.user],
        "last_authors": [
            "|".join(values) for values in simulation.histories(world, world.clicked, authors, 8)
        ],
        "post": names("post", world.ad),
        "author": pick(authors, world.ad),
        "topic": names("topic", world.topic[world.ad]),
        "media": media[world.ad],
        "hashtags": ["|".join(tags[ad]) for ad in world.ad],
        "place": world.position,
        "seconds_in_view": np.floor(seconds * 100) / 100,
        "reacted": world.engaged,
    }
    return Tables(log)


def apps(rng: np.random.Generator, rows: int) -> Tables:
    """Apps in a store's lists of five; lists are lists, as the files are Parquet."""
    topics = ("chat", "fitness", "games", "maps", "money", "music", "photo", "study")
    world = simulation.world(rng, rows, 500, 250, len(topics), length=5)
    ids = [f"com.{topics[topic]}.app{i}" for i, topic in enumerate(world.topic)]
    log = {
        "list_id": names("l", world.request),
        "shown_at": [
            datetime.datetime.fromtimestamp(s, datetime.UTC) for s in world.seconds.tolist()
        ],
        "account": names("u", world.user),
        "country": pick(COUNTRIES, rng.integers(7, size=500)[world.user]),
        "os_version": (rng.integers(10, 18, size=500)[world.user]).astype(float),
        "installed": simulation.histories(world, world.engaged, ids, 12),
        "app": pick(ids, world.ad),
        "place": world.position,
        "opened_page": world.clicked == 1,
        "installed_it": world.engaged == 1,
        "spend_7_days": world.spend,
    }
    store = {
        "app": ids,
        "category": pick(topics, world.topic),
        "developer": names("dev", 6 * world.topic + rng.integers(6, size=250)),
        "price": rng.choice((0.0, 0.0, 0.0, 0.99, 3.99), 250),
        "rating": np.clip(4 + 0.4 * world.appeal + 0.1 * rng.normal(size=250), 1, 5).round(1),
        "permissions": [rng.choice(("camera", "contacts", "location"), 2).tolist() for _ in ids],
    }
    return Tables(log, store)


def jobs(rng: np.random.Generator, rows: int) -> Tables:
    """Vacancies in lists of six; a column of the log assigns rows to the splits."""
    fields = ("care", "cooking", "data", "law", "sales", "teaching", "transport", "welding")
    world = simulation.world(rng, rows, 500, 300, len(fields), length=6)
    employer = 5 * world.topic + rng.integers(5, size=300)
    wanted = [
        [f"{fields[topic]}-{i}" for i in rng.choice(8, 3, replace=False)] for topic in world.topic
    ]
    own = [
        [f"{fields[topic]}-{i}" for topic in topics for i in rng.choice(8, 3, replace=False)]
        for topics in simulation.likes(rng, world, 3)
    ]
    age = (world.seconds - simulation.START) / simulation.SECONDS
    log = {
        "search": names("s", world.request),
        "seeker": names("p", world.user),
        "employer": names("firm", employer[world.ad]),
        "vacancy": world.ad,
        "rank": world.position,
        "fold": np.where(age < 0.8, "train", np.where(age < 0.9, "validation", "test")),
        "opened": world.clicked,
        "applied": world.engaged,
    }
    vacancies = {
        "employer": names("firm", employer),
        "vacancy": range(300),
        "title": [f"{fields[topic]} {rng.choice(('junior', 'senior'))}" for topic in world.topic],
        "place": pick(CITIES, rng.integers(6, size=300)),
        "salary": rng.normal(80_000, 15_000, 300).round(-3),
        "skills_wanted": [";".join(skills) for skills in wanted],
        "remote": rng.choice(("yes", "no"), 300),
    }
    seekers = {
        "seeker": names("p", range(500)),
        "home": pick(CITIES, rng.integers(6, size=500)),
        "years": rng.integers(0, 30, size=500),
        "skills": [";".join(skills) for skills in own],
    }
    return Tables(log, vacancies, seekers)


EXAMPLES = {make.__name__: make for make in (apps, articles, display_ads, feeds, jobs, shop)}


def names(prefix: str, numbers: Any) -> list[str]:
    """Returns ids such as u12."""
    return [f"{prefix}{number}" for number in numbers]


def pick(values: Sequence[str], indices: np.ndarray) -> list[str]:
    """Returns the values at indices."""
    return [values[index] for index in indices.tolist()]


def iso(seconds: np.ndarray) -> list[str]:
    """Returns times as ISO 8601."""
    times = (datetime.datetime.fromtimestamp(s, datetime.UTC) for s in seconds.tolist())
    return [f"{time:%Y-%m-%dT%H:%M:%SZ}" for time in times]
