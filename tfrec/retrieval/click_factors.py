"""Latent factors of the user-ad click matrix, appended to the embeddings of the towers.

Towers learn from one click at a time, a linear model from the whole matrix at once. On logs of ids
their errors differ, and the sum of their scores ranks ads better than either score does
(docs/experiments/0052).

Each entry of the binary click matrix [U, N] is divided by the square root of the user's number of
clicks and by the ad's number of clicks to the power 0.4. The rows of V √S of its truncated singular
value decomposition are the factors of ads. A user has the sum of the clicked ads' factors, divided
by the square root of their number. Both are appended to the embeddings of the towers:

    query   [query tower,  √c factors of the user,  0]
    ad      [ad tower,     √c factors of the ad,    padding that gives all ads the same norm]

After L2 normalization, inner products rank ads by cosine + c × linear score. Users and ads out of
the vocabulary have no factors, and of a user's clicks at most 1,000 count. Held-out clicks choose c
and the number of factors: a sparse log needs few, a catalog of many small groups many.

Shapes: U users and N ads, Vu and Va ids of them, K factors, Q clicks, W columns of ids.

References:
    Shen et al., How Powerful is Graph Convolution for Recommendation?, 2021 (a similar
        normalization, and low-rank filters).
    Halko et al., Finding Structure with Randomness, 2011 (subspace iteration).
    Bachrach et al., Speeding Up the Xbox Recommender System, 2014 (inner products as cosines by one
        more dimension).
"""

import dataclasses
import operator
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np
import scipy.sparse
import tensorflow as tf

from tfrec import layers, training
from tfrec.retrieval import retrieval_model, retrieval_validation, towers
from tfrec.retrieval.retrieval_validation import METRIC, means
from tfrecords import encoding, files, reader

# With the padding, half or one and a half times as long as a default embedding of the towers.
COUNTS = (127, 383)
FILE = "click_factors.npz"
# Standard deviations of the linear score over ads that count as one of the cosine.
_SHARES = (0.125, 0.25, 0.5, 1.0, 2.0)
_POPULARITY_POWER = 0.4
_FIRST_SHARE = 0.5
# Subspace iteration: steps, and the vectors beyond the factors.
_STEPS, _MORE_VECTORS = 4, 64
# max(users, ads) times factors; 1 GB, of which several copies exist.
_MAX_VALUES = 1 << 27
_MAX_SCORES, _MIN_CLICKS = 100_000_000, 1_000
# The length of embeddings divides into the codes of an index.
_MULTIPLE = 16
_MEASURED_FOR_DEVIATIONS = 256


@dataclasses.dataclass(frozen=True)
class ClickFactors:
    """The factors of users and ads, by their ids.

    Attributes:
        users: [Vu, K] float32, in order of decreasing singular values.
        ads: [Va, K] float32.
        columns: Column of the ids in encoded queries, and in encoded ads.
    """

    users: np.ndarray
    ads: np.ndarray
    columns: tuple[int, int]

    def scaled(self, c: float, count: int | None = None) -> "ClickFactors":
        """Returns factors, the leading ones or all, whose inner products are c times as large."""
        root = np.float32(np.sqrt(c))
        return dataclasses.replace(
            self, users=root * self.users[:, :count], ads=root * self.ads[:, :count]
        )

    def factors_of(self, queries: np.ndarray, ads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the factors [Q, K] of queries [Q, Wq] and [N, K] of ads [N, Wa]."""
        query_column, ad_column = self.columns
        return self.users[queries[:, query_column]], self.ads[ads[:, ad_column]]

    def save(self, workdir: pathlib.Path) -> None:
        """Writes the factors into the work directory of a training."""
        with files.replacing(workdir / FILE) as path, path.open("wb") as file:
            np.savez(file, **vars(self))

    @classmethod
    def load(cls, workdir: pathlib.Path) -> "ClickFactors":
        """Reads the files of `save`.

        Raises:
            FileNotFoundError: There are no factors.
            ValueError: The file cannot be read.
        """
        path = workdir / FILE
        remedy = (
            f"Delete {workdir / 'retrieval.json'} and train again; the trained towers are kept."
        )
        try:
            with np.load(path) as stored:
                return cls(stored["users"], stored["ads"], tuple(stored["columns"].tolist()))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"No {path}. {remedy}") from error
        except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} cannot be read ({error}). {remedy}") from error


def fit(
    fitted: encoding.FittedSchema,
    catalog: reader.Catalog,
    clicked: layers.ClickedAds,
    counts: Sequence[int] = COUNTS,
) -> ClickFactors | None:
    """Fits the factors of a log's clicks.

    Args:
        fitted: The fitted schema.
        catalog: All ads.
        clicked: The clicks of all users.
        counts: Numbers of factors; the greatest that memory allows is fitted.

    Returns:
        The factors; None if users or ads have no field of ids, or are too few or too many.
    """
    users, ads = layers.KeyIds.for_users(fitted), layers.KeyIds.for_ads(fitted)
    if users is None or ads is None or not users.vocabulary:
        return None
    fingerprints = encoding.fingerprint(tf.constant(users.vocabulary, tf.string)).numpy()
    clicks = clicked.matrix(fingerprints, len(catalog))
    clicks.sum_duplicates()
    clicks.data[:] = 1.0
    user_clicks, ad_clicks = clicks.sum(axis=1), clicks.sum(axis=0)
    allowed = max((k for k in counts if k * max(clicks.shape) <= _MAX_VALUES), default=0)
    count = min(allowed, *(int((totals > 0).sum()) - 1 for totals in (user_clicks, ad_clicks)))
    if count < 1:
        return None
    per_root = scipy.sparse.diags_array(np.maximum(user_clicks, 1.0) ** -0.5)
    per_power = scipy.sparse.diags_array(np.maximum(ad_clicks, 1.0) ** -_POPULARITY_POWER)
    ad_factors = _factors((per_root @ clicks @ per_power).tocsr(), count)
    ids = np.asarray(catalog.features)
    # Ads out of the vocabulary share ids.
    factors = np.where(ads.is_known(ids)[:, None], ad_factors, 0.0)
    table_of_users, table_of_ads = (
        np.zeros((side.cardinality, count), np.float32) for side in (users, ads)
    )
    table_of_users[1 : 1 + len(fingerprints)] = per_root @ (clicks @ factors)
    table_of_ads[ads.ids_in(ids)] = factors
    return ClickFactors(table_of_users, table_of_ads, (users.column, ads.column))


def _factors(matrix: scipy.sparse.csr_array, count: int) -> np.ndarray:
    """Returns V √S [N, K] of the truncated singular value decomposition of a matrix [U, N].

    By subspace iteration with a fixed number of steps: most users of a sparse log click once or
    twice, so that hundreds of singular values are equal, and Lanczos iterations do not converge.
    """
    transposed = matrix.T.tocsr()
    width = min(count + _MORE_VECTORS, *matrix.shape)
    basis = np.random.default_rng(0).standard_normal((matrix.shape[1], width), np.float32)
    for _ in range(_STEPS):
        basis, _ = np.linalg.qr(transposed @ (matrix @ basis))
    images = matrix @ basis
    squares, vectors = np.linalg.eigh(images.T @ images)  # in ascending order
    leading = slice(-1, -count - 1, -1)
    return basis @ (vectors[:, leading] * np.maximum(squares[leading], 0.0) ** 0.25)


@dataclasses.dataclass(frozen=True)
class FactorChoice:
    """The choice by held-out clicks.

    Attributes:
        count: Number of factors; 0: none.
        scale: c.
        clicks: Number of held-out clicks.
        recall: Result of `retrieval_validation.measure` for these factors.
        recall_without: The same measure for the towers without factors.
        error: Standard error of the difference of the mean recalls.
    """

    count: int
    scale: float
    clicks: int
    recall: dict[str, float]
    recall_without: dict[str, float]
    error: float

    @property
    def gain(self) -> float:
        """The difference of the mean recalls."""
        return self.recall[METRIC] - self.recall_without[METRIC]

    @property
    def improves(self) -> bool:
        """Whether the factors are worth using.

        The gain must exceed its standard error, because longer embeddings cost time. And recall in
        the shortest lists must not fall, because these lists are served in this order.
        """
        shortest = list(self.recall)[1]  # after the mean
        not_worse = self.recall[shortest] >= self.recall_without[shortest]
        return self.gain > self.error and not_worse


def choose(
    model: retrieval_model.RetrievalModel,
    factors: ClickFactors,
    held_out: retrieval_validation.HeldOut,
    catalog: reader.Catalog,
) -> FactorChoice:
    """Returns how many factors of the model's clicks, and which c, improve held-out recall most."""
    held_out = held_out.evenly_spaced(max(_MAX_SCORES // len(catalog), _MIN_CLICKS))
    ids = np.asarray(catalog.features)
    queries = towers.embed_in_batches(model.query_tower, held_out.query)
    ads = towers.embed_in_batches(model.ad_tower, ids)
    without = retrieval_validation.recall_of_clicks(model, held_out, queries, ads)

    def choice(count: int, c: float, recall: dict[str, np.ndarray]) -> FactorChoice:
        gain = recall[METRIC] - without[METRIC]
        error = float(gain.std() / np.sqrt(len(gain)))
        return FactorChoice(count, c, len(gain), means(recall), means(without), error)

    none = choice(0, 0.0, without)
    user_factors, ad_factors = factors.factors_of(held_out.query, ids)
    known = np.flatnonzero(user_factors.any(axis=1))[:_MEASURED_FOR_DEVIATIONS]
    if not len(known):
        return none
    cosine = (queries[known] @ ads.T).std(axis=1).mean()

    def measured(count: int, share: float) -> FactorChoice:
        linear = (user_factors[known, :count] @ ad_factors[:, :count].T).std(axis=1).mean()
        c = float(share * cosine / linear)
        joined = np.hstack([queries, np.float32(c) * user_factors[:, :count]])
        joined_ads = np.hstack([ads, ad_factors[:, :count]])
        recall = retrieval_validation.recall_of_clicks(model, held_out, joined, joined_ads)
        return choice(count, c, recall)

    gain = operator.attrgetter("gain")
    counts = sorted({min(k, ad_factors.shape[1]) for k in COUNTS})
    first = max((measured(count, _FIRST_SHARE) for count in counts), key=gain)
    rescaled = (measured(first.count, share) for share in _SHARES if share != _FIRST_SHARE)
    return max((option for option in (first, *rescaled) if option.improves), key=gain, default=none)


def append(model: retrieval_model.RetrievalModel, factors: ClickFactors) -> None:
    """Appends factors to the embeddings of a trained model; its towers cannot be trained on."""
    lengths = np.square(factors.ads).sum(axis=1, keepdims=True)
    rest = np.sqrt(np.maximum(lengths.max() - lengths, 0.0))
    query_column, ad_column = factors.columns
    size = -(-(factors.ads.shape[1] + 1) // _MULTIPLE) * _MULTIPLE
    for_queries, for_ads = (
        np.pad(table, ((0, 0), (0, size - table.shape[1])))
        for table in (factors.users, np.hstack([factors.ads, rest]))
    )
    model.query_tower = FactoredTower(model.query_tower, query_column, for_queries)
    model.ad_tower = FactoredTower(model.ad_tower, ad_column, for_ads)


class FactoredTower(training.SavedAsWeights, tf.keras.Model):
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
