"""Factors of the training clicks in closed form, beside the embeddings of the towers.

Towers learn from one click at a time, a linear model from who clicked what as a whole. On logs of
ids the two err differently, and the sum of their scores orders ads better than either does
(docs/experiments/0052).

The training clicks [U, N] are divided by the square root of each user's number of clicks, and by
that of each ad to a power. The rows of V √S of their singular value decomposition are the factors
of ads, and a user has the sum of those of the ads clicked, over the root of their number. Both are
appended to the embeddings of the towers:

    query   [query tower,  √c factors of the user,  0]
    ad      [ad tower,     √c factors of the ad,    what all ads lack of the same length]

Scaled to length one, their inner products are in the order of cosine + c × linear score. Users and
ads out of the vocabulary have no factors. Held-out clicks choose c, and whether there are few
factors or many: a sparse log needs few, and a catalog of many small groups many.

Shapes: U users and N ads, Vu and Va ids of them, K factors, Q clicks, W columns of ids.

References:
    Shen et al., How Powerful is Graph Convolution for Recommendation?, 2021 (what the factors
        are divided by).
    Bachrach et al., Speeding Up the Xbox Recommender System, 2014 (inner products as cosines by one
        more dimension).
"""

import dataclasses
import pathlib

import numpy as np
import scipy.sparse.linalg
import tensorflow as tf

from tfrec import layers
from tfrec.retrieval import retrieval_model, retrieval_validation, towers
from tfrecords import encoding, files, reader

# With the one more dimension, half as long as an embedding of the towers, or one and a half times.
COUNTS = (127, 383)
FILE = "click_factors.npz"
# Standard deviations of the linear score over ads that count as one of the cosine.
_SHARES = (0.125, 0.25, 0.5, 1.0, 2.0)
_POPULARITY_POWER = 0.4
# Of users or ads, whichever are fewer, times factors: the decomposition takes 16 bytes for each.
_MAX_VALUES = 1 << 27
# Held-out clicks times ads.
_MAX_SCORES = 100_000_000
_MEASURED_FOR_DEVIATIONS = 256


@dataclasses.dataclass(frozen=True)
class ClickFactors:
    """The factors of users and ads, by their ids.

    Attributes:
        users: [Vu, K] float32, those of the greatest singular values first.
        ads: [Va, K] float32.
        columns: Column of the ids in encoded queries, and in encoded ads.
    """

    users: np.ndarray
    ads: np.ndarray
    columns: tuple[int, int]

    def scaled(self, c: float, count: int | None = None) -> "ClickFactors":
        """Returns factors whose inner products are c times as large.

        Args:
            c: See the module.
            count: How many of them, the first; None: all.
        """
        root = np.float32(np.sqrt(c))
        return dataclasses.replace(
            self, users=root * self.users[:, :count], ads=root * self.ads[:, :count]
        )

    def of(self, queries: np.ndarray, ads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the factors [Q, K] of queries [Q, Wq] and [N, K] of ads [N, Wa]."""
        query_column, ad_column = self.columns
        return self.users[queries[:, query_column]], self.ads[ads[:, ad_column]]

    def save(self, workdir: pathlib.Path) -> None:
        """Writes the factors into the work directory of a training."""
        with files.replacing(workdir / FILE) as path, path.open("wb") as file:
            np.savez(file, **vars(self))

    @classmethod
    def load(cls, workdir: pathlib.Path) -> "ClickFactors":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: There are no factors.
            ValueError: The file cannot be read.
        """
        path = workdir / FILE
        try:
            with np.load(path) as stored:
                return cls(stored["users"], stored["ads"], tuple(stored["columns"].tolist()))
        except (ValueError, KeyError, EOFError, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise FileNotFoundError(
                    f"No {path}. Delete {workdir}, and train the model again."
                ) from error
            raise ValueError(
                f"{path} cannot be read ({error}). Delete {workdir}, and train the model again."
            ) from error


def fit(
    fitted: encoding.FittedSchema, catalog: reader.Catalog, clicked: layers.ClickedAds
) -> ClickFactors | None:
    """Fits the factors of a log's clicks.

    Args:
        fitted: The fitted schema.
        catalog: All ads.
        clicked: The clicks of all users.

    Returns:
        The factors; None if users or ads have no field of ids, or are too few or too many.
    """
    users, ads = layers.KeyIds.of_users(fitted), layers.KeyIds.of_ads(fitted)
    if users is None or ads is None:
        return None
    if not users.vocabulary:
        return None
    fingerprints = encoding.fingerprint(tf.constant(users.vocabulary, tf.string)).numpy()
    clicks = clicked.matrix(fingerprints, len(catalog)).astype(np.float64)
    clicks.sum_duplicates()
    clicks.data[:] = 1.0
    of_users, of_ads = (np.maximum(clicks.sum(axis=axis), 1.0) for axis in (1, 0))
    allowed = [k for k in COUNTS if k * min(clicks.shape) <= _MAX_VALUES]
    with_clicks = min((clicks.sum(axis=axis) > 0).sum() for axis in (0, 1))
    count = min(max(allowed, default=0), int(with_clicks) - 1)
    if count < 1:
        return None
    per_root = scipy.sparse.diags_array(of_users**-0.5)
    normalized = per_root @ clicks @ scipy.sparse.diags_array(of_ads**-_POPULARITY_POWER)
    _, s, vt = scipy.sparse.linalg.svds(
        normalized, k=count, v0=np.random.default_rng(0).random(min(clicks.shape))
    )
    ids = np.asarray(catalog.features)
    # Ads out of the vocabulary share ids.
    factors = np.where(ads.is_known(ids)[:, None], (vt.T * np.sqrt(s))[:, ::-1], 0.0)  # [N, K]
    table_of_users, table_of_ads = (
        np.zeros((own.cardinality, count), np.float32) for own in (users, ads)
    )
    table_of_users[1 : 1 + len(fingerprints)] = per_root @ (clicks @ factors)
    table_of_ads[ads.of(ids)] = factors
    return ClickFactors(table_of_users, table_of_ads, (users.column, ads.column))


@dataclasses.dataclass(frozen=True)
class Choice:
    """What held-out clicks choose.

    Attributes:
        count: How many factors; 0: none.
        scale: c.
        recall: What `retrieval_validation.measure` says of them.
    """

    count: int
    scale: float
    recall: dict[str, float]


def choose(
    model: retrieval_model.RetrievalModel,
    factors: ClickFactors,
    held_out: retrieval_validation.HeldOut,
    catalog: reader.Catalog,
) -> Choice:
    """Returns how many factors, and which c, have the best recall of held-out clicks.

    Args:
        model: A model trained on the clicks that the factors are of.
        factors: The factors.
        held_out: [Q] clicks that neither was trained on.
        catalog: All ads.
    """
    held_out = held_out.evenly_spaced(max(_MAX_SCORES // len(catalog), 1))
    ids = np.asarray(catalog.features)
    queries = towers.embed_in_batches(model.query_tower, held_out.query)
    ads = towers.embed_in_batches(model.ad_tower, ids)
    of_users, of_ads = factors.of(held_out.query, ids)
    known = np.flatnonzero(of_users.any(axis=1))[:_MEASURED_FOR_DEVIATIONS]
    best = Choice(0, 0.0, retrieval_validation.measure(model, held_out, queries, ads))
    if not len(known):
        return best
    cosine = (queries[known] @ ads.T).std(axis=1).mean()
    most = of_ads.shape[1]
    for count in sorted({min(k, most) for k in COUNTS}):
        users, factors_of_ads = of_users[:, :count], of_ads[:, :count]
        linear = (users[known] @ factors_of_ads.T).std(axis=1).mean()
        joined = np.concatenate([ads, factors_of_ads], axis=1)
        for share in _SHARES:
            c = float(share * cosine / linear)
            of_both = np.concatenate([queries, np.float32(c) * users], axis=1)
            recall = retrieval_validation.measure(model, held_out, of_both, joined)
            metric = retrieval_validation.METRIC
            if recall[metric] > best.recall[metric]:
                best = Choice(count, c, recall)
    return best


def append(model: retrieval_model.RetrievalModel, factors: ClickFactors) -> None:
    """Appends factors to the embeddings of a trained model; its towers cannot be trained on.

    Args:
        model: The model.
        factors: The factors, scaled.
    """
    lengths = np.square(factors.ads).sum(axis=1, keepdims=True)
    rest = np.sqrt(np.maximum(lengths.max() - lengths, 0.0))
    query_column, ad_column = factors.columns
    users, ads = np.pad(factors.users, ((0, 0), (0, 1))), np.hstack([factors.ads, rest])
    model.query_tower = FactoredTower(model.query_tower, query_column, users)
    model.ad_tower = FactoredTower(model.ad_tower, ad_column, ads)


class FactoredTower(tf.keras.Model):
    """A tower with rows of a table appended to its embeddings.

    Args:
        tower: Maps ids [B, W] to embeddings [B, D].
        column: Column of the ids that name rows of the table.
        table: [V, E] float32.
    """

    def __init__(self, tower: tf.keras.layers.Layer, column: int, table: np.ndarray) -> None:
        super().__init__()
        self.tower, self._column = tower, column
        self.table = tf.Variable(table, trainable=False, name="click_factors")

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        """Embeds ids [B, W] int32 as [B, D + E] float32, L2-normalized."""
        appended = tf.gather(self.table, ids[:, self._column])
        return tf.math.l2_normalize(tf.concat([self.tower(ids), appended], axis=-1), axis=-1)
