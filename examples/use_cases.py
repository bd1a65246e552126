"""The tables of the six examples, in the shape in which such logs are kept.

Each function makes a world (`planted.py`) and names its columns as examples/NAME/schema.json
reads them. Shapes: U users, A ads, B rows.
"""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import planted

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
    """Banners in the four slots of web pages; three of four unclicked rows were not kept."""
    of = planted.world(rng, 11 * rows // 4, 600, 200, 8, length=4)
    of = of.rows((of.clicked == 1) | (rng.random(len(of.ad)) < 0.25))
    campaign = rng.integers(3, size=200) + 3 * of.topic
    segments = planted.likes(rng, of, 4)
    formats = rng.choice(("300x250", "728x90", "video"), 200)
    bids = rng.lognormal(-1, 0.4, 200).round(2)
    return Tables(
        {
            "time": of.seconds,
            "cookie": names("u", of.user),
            "country": pick(COUNTRIES, rng.integers(7, size=600)[of.user]),
            "site": names("site", rng.integers(40, size=len(of.ad))),
            "device": pick(DEVICES, rng.integers(3, size=len(of.ad))),
            "slot": of.position,
            "segments": ["|".join(names("seg", segments[user])) for user in of.user],
            "creative": names("c", of.ad),
            "campaign": names("camp", campaign[of.ad]),
            "advertiser": names("adv", campaign[of.ad] // 2),
            "category": names("cat", of.topic[of.ad]),
            "format": formats[of.ad],
            "bid": bids[of.ad],
            "clicked": of.clicked,
            "converted": of.engaged,
            "value": of.spend,
        }
    )


def shop(rng: np.random.Generator, rows: int) -> Tables:
    """Products in lists of eight, with tables of products and customers."""
    topics = ("bags", "books", "coats", "games", "lamps", "shoes", "tools", "toys")
    of = planted.world(rng, rows, 500, 400, len(topics), length=8)
    skus = names("sku", range(400))
    seen = planted.histories(of, of.clicked, skus, 10)
    searched = rng.random(of.request[-1] + 1) < 0.5
    products = {
        "sku": skus,
        "category": pick(topics, of.topic),
        "brand": names("brand", 4 * of.topic + rng.integers(4, size=400)),
        "price": rng.lognormal(3, 0.6, 400).round(2),
        "tags": [" ".join(rng.choice(("new", "sale", "eco", "gift"), 2)) for _ in skus],
    }
    customers = {
        "customer": names("k", range(500)),
        "segment": rng.choice(("new", "regular", "club"), 500),
        "city": pick(CITIES, rng.integers(6, size=500)),
    }
    log = {
        "page_view": names("p", of.request),
        "at": iso(of.seconds),
        "customer": names("k", of.user),
        "query": [
            topics[of.favorite[user]] if searched[request] else ""
            for user, request in zip(of.user, of.request, strict=True)
        ],
        "recently_viewed": ["|".join(values) for values in seen],
        "sku": pick(skus, of.ad),
        "rank": of.position,
        "clicked": of.clicked,
        "ordered": of.engaged,
        "order_value": of.spend,
    }
    return Tables(log, products, customers)


def articles(rng: np.random.Generator, rows: int) -> Tables:
    """Articles that were opened; the log has no rows of other articles."""
    topics = ("arts", "climate", "economy", "health", "politics", "science", "sport", "travel")
    of = planted.world(rng, 7 * rows, 400, 300, len(topics), length=6)
    clicks = of.clicked == 1
    ids = names("a", range(300))
    before = planted.histories(of, of.clicked, ids, 8)
    read = [before[row] for row in np.flatnonzero(clicks)]
    of = of.rows(clicks)
    words = [rng.choice([f"{topic}{i}" for i in range(12)], 4) for topic in topics]
    headlines = [[*words[t], *rng.choice(("how", "why", "new", "first"), 2)] for t in of.topic]
    return Tables(
        {
            "opened_at": iso(of.seconds),
            "reader": names("r", of.user),
            "device": pick(DEVICES, rng.integers(3, size=len(of.ad))),
            "referrer": rng.choice(("home", "search", "mail", "social"), len(of.ad)),
            "recently_read": ["|".join(values) for values in read],
            "article": pick(ids, of.ad),
            "finished": of.engaged,
        },
        {
            "article": ids,
            "section": pick(topics, of.topic),
            "author": names("author", 5 * of.topic + rng.integers(5, size=300)),
            "headline": [" ".join(own) for own in headlines],
            "length": rng.integers(200, 3000, size=300),
        },
    )


def feeds(rng: np.random.Generator, rows: int) -> Tables:
    """Posts in a feed, ten a load, with the seconds that each was in view."""
    of = planted.world(rng, rows, 500, 600, 10, length=10)
    authors = names("by", 8 * of.topic + rng.integers(8, size=600))
    tags = [names("tag", 6 * topic + rng.integers(6, size=3)) for topic in of.topic]
    media = rng.choice(("text", "photo", "video"), 600)
    follows = planted.likes(rng, of, 5)
    # The schema counts at least 3 seconds as a click.
    seconds = np.where(of.clicked, 3 + rng.exponential(9, len(of.ad)), 3 * rng.random(len(of.ad)))
    log = {
        "load": names("l", of.request),
        "time_ms": of.seconds * 1000,
        "user": names("u", of.user),
        "network": rng.choice(("wifi", "4g", "5g"), of.request[-1] + 1)[of.request],
        "follows": ["|".join(names("topic", follows[user])) for user in of.user],
        "last_authors": [
            "|".join(values) for values in planted.histories(of, of.clicked, authors, 8)
        ],
        "post": names("post", of.ad),
        "author": pick(authors, of.ad),
        "topic": names("topic", of.topic[of.ad]),
        "media": media[of.ad],
        "hashtags": ["|".join(tags[ad]) for ad in of.ad],
        "place": of.position,
        "seconds_in_view": np.floor(seconds * 100) / 100,
        "reacted": of.engaged,
    }
    return Tables(log)


def apps(rng: np.random.Generator, rows: int) -> Tables:
    """Apps in a store's lists of five; lists are lists, as the files are Parquet."""
    topics = ("chat", "fitness", "games", "maps", "money", "music", "photo", "study")
    of = planted.world(rng, rows, 500, 250, len(topics), length=5)
    ids = [f"com.{topics[topic]}.app{i}" for i, topic in enumerate(of.topic)]
    log = {
        "list_id": names("l", of.request),
        "shown_at": [datetime.datetime.fromtimestamp(s, datetime.UTC) for s in of.seconds.tolist()],
        "account": names("u", of.user),
        "country": pick(COUNTRIES, rng.integers(7, size=500)[of.user]),
        "os_version": (rng.integers(10, 18, size=500)[of.user]).astype(float),
        "installed": planted.histories(of, of.engaged, ids, 12),
        "app": pick(ids, of.ad),
        "place": of.position,
        "opened_page": of.clicked == 1,
        "installed_it": of.engaged == 1,
        "spend_7_days": of.spend,
    }
    store = {
        "app": ids,
        "category": pick(topics, of.topic),
        "developer": names("dev", 6 * of.topic + rng.integers(6, size=250)),
        "price": rng.choice((0.0, 0.0, 0.0, 0.99, 3.99), 250),
        "rating": np.clip(4 + 0.4 * of.appeal + 0.1 * rng.normal(size=250), 1, 5).round(1),
        "permissions": [rng.choice(("camera", "contacts", "location"), 2).tolist() for _ in ids],
    }
    return Tables(log, store)


def jobs(rng: np.random.Generator, rows: int) -> Tables:
    """Vacancies in lists of six; a column of the log assigns rows to the splits."""
    fields = ("care", "cooking", "data", "law", "sales", "teaching", "transport", "welding")
    of = planted.world(rng, rows, 500, 300, len(fields), length=6)
    employer = 5 * of.topic + rng.integers(5, size=300)
    wanted = [
        [f"{fields[topic]}-{i}" for i in rng.choice(8, 3, replace=False)] for topic in of.topic
    ]
    own = [
        [f"{fields[topic]}-{i}" for topic in topics for i in rng.choice(8, 3, replace=False)]
        for topics in planted.likes(rng, of, 3)
    ]
    age = (of.seconds - planted.START) / planted.SECONDS
    log = {
        "search": names("s", of.request),
        "seeker": names("p", of.user),
        "employer": names("firm", employer[of.ad]),
        "vacancy": of.ad,
        "rank": of.position,
        "fold": np.where(age < 0.8, "train", np.where(age < 0.9, "validation", "test")),
        "opened": of.clicked,
        "applied": of.engaged,
    }
    vacancies = {
        "employer": names("firm", employer),
        "vacancy": range(300),
        "title": [f"{fields[topic]} {rng.choice(('junior', 'senior'))}" for topic in of.topic],
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
