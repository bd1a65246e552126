"""A small simulated world of users and ads for the examples, with known tastes.

Each user has tastes, and each ad has a topic and an appeal. Half of the ads that users see are on
topics that they like. Clicks depend on taste, appeal and position; what follows a click depends on
the ad. The world is for trying out a schema, and is not evidence about any real log.

Shapes: U users, A ads, T topics, B rows (an ad that was shown), R requests.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

DAYS = 28
SECONDS = DAYS * 86_400
START = 1_767_225_600  # 1 January 2026, UTC


@dataclasses.dataclass(frozen=True)
class SimulatedLog:
    """Users, ads, and impressions.

    Attributes:
        taste: [U, T] weight of each topic for each user; sums to 1 over topics.
        topic: [A] topic of each ad.
        appeal: [A] appeal of each ad; 0 is average.
        request: [B] ascending, in order of time.
        user: [B].
        ad: [B].
        position: [B] position in the list, from 0.
        seconds: [B] since 1970.
        clicked: [B] 0 or 1.
        engaged: [B] 0 or 1, 0 where not clicked.
        spend: [B], 0 where not engaged.
    """

    taste: np.ndarray
    topic: np.ndarray
    appeal: np.ndarray
    request: np.ndarray
    user: np.ndarray
    ad: np.ndarray
    position: np.ndarray
    seconds: np.ndarray
    clicked: np.ndarray
    engaged: np.ndarray
    spend: np.ndarray

    @property
    def favorite(self) -> np.ndarray:
        """[U] the topic that each user likes most."""
        return self.taste.argmax(axis=1)

    def rows(self, keep: np.ndarray) -> "SimulatedLog":
        """Returns the world with only the rows where `keep` [B] is true."""
        shown = ("request", "user", "ad", "position", "seconds", "clicked", "engaged", "spend")
        return dataclasses.replace(self, **{name: getattr(self, name)[keep] for name in shown})


def world(
    rng: np.random.Generator, rows: int, num_users: int, num_ads: int, num_topics: int, length: int
) -> SimulatedLog:
    """Makes a world in which at least `rows` ads are shown, in lists of `length`."""
    taste = rng.dirichlet(np.full(num_topics, 0.3), num_users)
    topic = rng.integers(num_topics, size=num_ads)
    appeal = rng.normal(size=num_ads)
    num_requests = -(-rows // length)
    visits = rng.choice(num_users, num_requests, p=_shares(num_users, 0.6))
    seconds = START + np.sort(rng.integers(SECONDS, size=num_requests))
    lists = np.stack([_list(rng, taste[user], topic, length) for user in visits])
    request, position = np.divmod(np.arange(num_requests * length), length)
    user, ad = visits[request], lists.ravel()
    liked = taste[user, topic[ad]] * num_topics
    click_logit = -3.2 + 0.7 * np.minimum(liked, 5) + 0.7 * appeal[ad] - 0.25 * position
    clicked = _drawn(rng, click_logit)
    engaged = clicked * _drawn(rng, -1.6 + 0.3 * np.minimum(liked, 5) + 0.5 * appeal[ad])
    # Topics differ in spending.
    spend = engaged * np.exp(1.5 + 0.3 * topic[ad] + 0.4 * rng.normal(size=len(ad))).round(2)
    return SimulatedLog(
        taste, topic, appeal, request, user, ad, position, seconds[request], clicked, engaged, spend
    )


def likes(rng: np.random.Generator, log: SimulatedLog, max_topics: int) -> list[list[int]]:
    """Draws up to `max_topics` different topics of each user [U], by taste."""
    counts = rng.integers(1, max_topics + 1, size=len(log.taste))
    return [
        list(dict.fromkeys(rng.choice(len(taste), count, p=taste).tolist()))
        for taste, count in zip(log.taste, counts, strict=True)
    ]


def histories(
    log: SimulatedLog, events: np.ndarray, values: Sequence[str], length: int
) -> list[list[str]]:
    """Returns for each row [B] the values of its user's earlier ads, oldest first.

    Args:
        log: The world.
        events: [B] 1 for the rows that count, such as the clicked ones.
        values: [A] value of each ad.
        length: Maximum number of values.
    """
    seen: dict[int, list[str]] = {}
    result, start = [], 0
    for end in [*(np.flatnonzero(np.diff(log.request)) + 1), len(log.request)]:
        user = int(log.user[start])
        before = seen.get(user, [])
        result += [before] * (end - start)
        new = [values[ad] for ad in log.ad[start:end][events[start:end] == 1]]
        seen[user] = [*before, *new][-length:]
        start = end
    return result


def _list(
    rng: np.random.Generator, taste: np.ndarray, topic: np.ndarray, length: int
) -> np.ndarray:
    """Draws `length` different ads, weighted by popularity and the taste for their topics."""
    weights = 0.5 / len(taste) + 0.5 * taste[topic]
    popular = _shares(len(topic), 0.5) * weights
    # The smallest exponential variables divided by weights are a draw without replacement.
    return np.argpartition(rng.exponential(size=len(topic)) / popular, length)[:length]


def _shares(count: int, exponent: float) -> np.ndarray:
    """Returns shares [count] that fall with the rank and sum to 1."""
    shares = np.arange(1, count + 1) ** -exponent
    return shares / shares.sum()


def _drawn(rng: np.random.Generator, logits: np.ndarray) -> np.ndarray:
    return (rng.random(len(logits)) < 1 / (1 + np.exp(-logits))).astype(int)
