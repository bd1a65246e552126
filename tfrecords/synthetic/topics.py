"""A small world whose ads have titles and vectors: what their content reveals about new ads.

    world = synthetic.TopicWorld()
    paths = world.write("work/topics", 20_000)

Each ad has a latent topic vector. Its title is made of words of its topics and of words that mean
nothing; its vector is a fixed rotation of its topics with noise. A user looks for something: a mix
of topics close to the user's taste, which a search text expresses in words of these topics.

    click logit = intercept + affinity_scale * <wanted topics, topics of the ad> + effect of the ad

A share of the ads is never shown. Their ids do not occur in training, so a model without content
cannot distinguish them, and the click probabilities say which of them it should find.

    log.parquet    request, time, user, search, taste (a vector), ad, click; rows in time order
    ads.parquet    ad, advertiser, title, image (a vector); all ads

Shapes: N ads, U users, K topics, n values of a vector, R requests, Q queries, C shown ads.
"""

import dataclasses
import os
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tfrecords.schema import Field, Schema
from tfrecords.synthetic.world_parts import intercept, sigmoid

_SYLLABLES = ("ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "zo")
_QUERIES_AT_ONCE = 1_000
_EXPOSURE_NOISE = 0.2
# Contents that the schema of a log can use: the ids of ads, or also their content.
CONTENTS = {"ids": (), "text": ("title",), "vector": ("image",), "both": ("title", "image")}


@dataclasses.dataclass(frozen=True)
class TopicWorldConfig:
    """The constants of a world of topics.

    Attributes:
        seed: Seed of everything.
        num_ads, num_users, num_topics, num_advertisers: Sizes.
        never_shown_share: Share of the ads that the log never shows.
        ads_per_request: Number of shown ads C.
        words_per_topic: Number of words of each topic.
        title_words, noise_words: Number of topical and of meaningless words of a title.
        vector_length: Number of values of a vector.
        vector_noise: Expected length of the noise that is added to vectors of length one.
        click_rate: Share of clicked rows.
        affinity_scale, ad_scale: Scales of the terms of the click logit.
    """

    seed: int = 1
    num_ads: int = 2_000
    num_users: int = 2_000
    num_topics: int = 20
    num_advertisers: int = 50
    never_shown_share: float = 0.25
    ads_per_request: int = 4
    words_per_topic: int = 12
    title_words: int = 4
    noise_words: int = 2
    vector_length: int = 32
    vector_noise: float = 0.5
    click_rate: float = 0.2
    affinity_scale: float = 6.0
    ad_scale: float = 0.3


@dataclasses.dataclass(frozen=True)
class TopicQueries:
    """Requests of a world of topics.

    Attributes:
        user: Number of the user [R].
        wanted: Shares of the topics that the user looks for [R, K].
        search: Text [R], "" is missing.
        taste: Vector of the user's taste [R, n] float32.
    """

    user: np.ndarray
    wanted: np.ndarray
    search: np.ndarray
    taste: np.ndarray

    def columns(self) -> dict[str, pa.Array]:
        """Returns the raw query fields."""
        lists = pa.FixedSizeListArray.from_arrays(
            pa.array(self.taste.reshape(-1)), self.taste.shape[1]
        )
        return {
            "user": pa.array([f"u{user}" for user in self.user.tolist()]),
            "search": pa.array(self.search.tolist(), pa.string()),
            "taste": lists.cast(pa.list_(pa.float32())),
        }


class TopicWorld:
    """A world of topics; equal configs give equal worlds.

    Attributes:
        config: The constants.
        titles: Titles of the ads [N].
        images: Their vectors [N, n] float32.
        is_shown: Whether the log may show an ad [N] bool.
    """

    def __init__(self, config: TopicWorldConfig | None = None) -> None:
        self.config = config = config or TopicWorldConfig()
        rng = np.random.default_rng([config.seed, 0])
        num_topics = config.num_topics
        num_words = num_topics * config.words_per_topic
        words = _words(rng, 2 * num_words)
        self._words = words[:num_words].reshape(num_topics, config.words_per_topic)
        self._noise_words = words[num_words:]
        self._rotation = np.linalg.qr(rng.standard_normal((config.vector_length, num_topics)))[
            0
        ]  # [n, K]
        self._ads = rng.dirichlet(np.full(num_topics, 0.1), config.num_ads)
        self._users = rng.dirichlet(np.full(num_topics, 0.2), config.num_users)
        self._effects = config.ad_scale * rng.standard_normal(config.num_ads)
        self._advertisers = rng.integers(config.num_advertisers, size=config.num_ads)
        num_never = round(config.never_shown_share * config.num_ads)
        self.is_shown = rng.permutation(config.num_ads) >= num_never
        sizes = config.title_words, config.noise_words
        self.titles = [self._text(rng, ad, *sizes) for ad in self._ads]
        self.images = self._vectors(rng, self._ads)
        self._tastes = self._vectors(rng, self._users)
        self._intercept = 0.0
        queries = self.queries(rng, 500)
        shown = self._logits(queries.wanted)[:, self.is_shown]
        self._intercept = intercept(shown, np.ones_like(shown), config.click_rate)

    def queries(self, rng: np.random.Generator, count: int) -> TopicQueries:
        """Draws requests."""
        user = rng.integers(self.config.num_users, size=count)
        wanted = np.stack([rng.dirichlet(4 * taste + 0.01) for taste in self._users[user]])
        search = ["" if rng.random() < 0.2 else self._text(rng, topics, 2, 0) for topics in wanted]
        return TopicQueries(user, wanted, np.array(search, object), self._tastes[user])

    def click_probability(self, queries: TopicQueries) -> np.ndarray:
        """Returns p(click) of all ads for all queries, float64 [Q, N]."""
        return sigmoid(self._logits(queries.wanted))

    def write(self, directory: str | os.PathLike[str], num_rows: int) -> tuple[pathlib.Path, ...]:
        """Writes a log of about `num_rows` shown ads and the table of ads; returns both paths."""
        directory, config = pathlib.Path(directory), self.config
        directory.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([config.seed, 1])
        queries = self.queries(rng, max(num_rows // config.ads_per_request, 1))
        parts = [
            self._impressions(rng, queries.wanted[first : first + _QUERIES_AT_ONCE])
            for first in range(0, len(queries.user), _QUERIES_AT_ONCE)
        ]
        shown, clicked = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        request = np.repeat(np.arange(len(shown)), config.ads_per_request)
        columns = {
            "request": pa.array(request),
            "time": pa.array(request.astype(np.float64)),
            **{name: column.take(pa.array(request)) for name, column in queries.columns().items()},
            "ad": pa.array([f"a{ad}" for ad in shown.ravel().tolist()]),
            "click": pa.array(clicked.ravel().astype(np.int8)),
        }
        ads = {
            "ad": [f"a{ad}" for ad in range(config.num_ads)],
            "advertiser": [f"adv{advertiser}" for advertiser in self._advertisers.tolist()],
            "title": self.titles,
            "image": pa.array(list(self.images), pa.list_(pa.float32())),
        }
        paths = directory / "log.parquet", directory / "ads.parquet"
        for path, table in zip(paths, (columns, ads), strict=True):
            pq.write_table(pa.table(table), path)
        return paths

    def schema(self, content: str) -> Schema:
        """Returns the schema of a log with some content of ads, a key of `CONTENTS`.

        The query side has the content of the same kind: texts of searches, vectors of tastes.
        """
        length, known = self.config.vector_length, CONTENTS[content]
        fields = [
            Field("user", "categorical", "query"),
            Field("ad", "categorical", "ad"),
            Field("advertiser", "categorical", "ad"),
            Field("search", "text" if "title" in known else "categorical", "query"),
        ]
        if "title" in known:
            fields.append(Field("title", "text", "ad"))
        if "image" in known:
            fields.append(Field("taste", "dense", "query", length=length))
            fields.append(Field("image", "dense", "ad", length=length))
        return Schema(
            f"topics_{content}",
            tuple(fields),
            ad_key=("ad",),
            click="click",
            request_key="request",
            time="time",
            user_key="user",
        )

    def _impressions(
        self, rng: np.random.Generator, wanted: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws ads [R, C] by noisy relevance, as an older system would, and their clicks."""
        probabilities, count = sigmoid(self._logits(wanted)), self.config.ads_per_request
        noisy = probabilities + _EXPOSURE_NOISE * rng.gumbel(size=probabilities.shape)
        noisy[:, ~self.is_shown] = -np.inf
        shown = np.argpartition(-noisy, count, axis=1)[:, :count]
        return shown, rng.random(shown.shape) < np.take_along_axis(probabilities, shown, axis=1)

    def _logits(self, wanted: np.ndarray) -> np.ndarray:
        affinity = wanted @ self._ads.T
        return self._intercept + self.config.affinity_scale * affinity + self._effects

    def _text(self, rng: np.random.Generator, topics: np.ndarray, topical: int, noise: int) -> str:
        drawn = rng.choice(len(topics), size=topical, p=topics / topics.sum())
        words = [self._words[topic][rng.integers(self.config.words_per_topic)] for topic in drawn]
        words += rng.choice(self._noise_words, size=noise).tolist()
        return " ".join(rng.permutation(words))

    def _vectors(self, rng: np.random.Generator, topics: np.ndarray) -> np.ndarray:
        exact = topics @ self._rotation.T
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
        scale = self.config.vector_noise / self.config.vector_length**0.5
        return (exact + scale * rng.standard_normal(exact.shape)).astype(np.float32)


def _words(rng: np.random.Generator, count: int) -> np.ndarray:
    """Returns different words of three syllables [count]."""
    drawn = rng.choice(len(_SYLLABLES) ** 3, size=count, replace=False)
    indices = np.unravel_index(drawn, (len(_SYLLABLES),) * 3)
    return np.array(["".join(_SYLLABLES[i] for i in word) for word in zip(*indices, strict=True)])
