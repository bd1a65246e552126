"""The peers of retrieval: baselines, matrix factorization, the TFRS tutorial's model and SASRec.

Each learns the clicks of splits and is a recommender as in `evaluation`: called with queries, it
returns the scores of all ads. Its options are tuned on the clicks of the validation split; with the
best ones it learns training and validation, as the two-tower model does in its refit.

Shapes: C clicks, U users, N ads, B queries, D embedding.

References:
    Hu, Koren and Volinsky, Collaborative Filtering for Implicit Feedback Datasets, 2008 (as in the
    package `implicit`).
    TensorFlow Recommenders, Recommending movies: retrieval (the tutorial).
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tfrec  # noqa: F401  (first: it selects Keras 2 and lets TensorFlow start quietly)

# isort: split
import implicit.als
import numpy as np
import scipy.sparse
import tensorflow as tf
import tensorflow_recommenders as tfrs
from peers import networks, peer_data, sasrec, search

from tfrec import evaluation, retrieval, tuning
from tfrec.evaluation import baselines, corpus_ranking
from tfrecords import reader

VALIDATION_METRIC = "ndcg_at_10"


@dataclasses.dataclass(frozen=True)
class Learned:
    """The clicks that a recommender learns, and its seed; the log must have users."""

    data_set: reader.DataSet
    splits: Sequence[str]
    seed: int

    @functools.cached_property
    def catalog(self) -> reader.Catalog:
        """All ads."""
        return self.data_set.catalog()

    @functools.cached_property
    def history(self) -> baselines.History:
        """Clicks by user."""
        history = evaluation.read_history(self.data_set, self.splits, len(self.catalog))
        assert history is not None
        return history

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns encoded queries [C, Wq] and ads [C, Wa] of the clicks."""
        clicks = [retrieval.read_clicks(self.data_set, split) for split in self.splits]
        rows = np.concatenate([part.ad_rows for part in clicks])
        return np.concatenate([part.query for part in clicks]), np.asarray(self.catalog.features)[
            rows
        ]


class MatrixFactorization:
    """Matrix factorization of all pairs by alternating least squares; clicked pairs weigh more.

    Users without clicks get the most popular ads. Options are those of
    `implicit.als.AlternatingLeastSquares`.
    """

    def __init__(self, history: baselines.History, seed: int, **options: Any) -> None:
        self._history = history
        model = implicit.als.AlternatingLeastSquares(random_state=seed, **options)
        model.fit(scipy.sparse.csr_matrix(history.matrix), show_progress=False)
        self._users, self._ads = model.user_factors, model.item_factors

    def __call__(self, queries: corpus_ranking.Queries) -> np.ndarray:
        """Returns [B, N]: inner products of users and ads."""
        assert queries.user is not None
        known = self._history.users
        rows = np.searchsorted(known, queries.user).clip(max=len(known) - 1)
        scores = self._users[rows] @ self._ads.T
        return np.where((known[rows] == queries.user)[:, None], scores, self._history.clicks)


class TutorialTwoTower(tfrs.Model):
    """The two-tower model of the tutorial: an embedding per side, and in-batch softmax.

    The encoded ids are the tutorial's lookups. With several fields on a side, their embeddings are
    joined by a dense layer.
    """

    def __init__(self, data_set: reader.DataSet, embedding_dim: int) -> None:
        super().__init__()
        self.query_tower, self.ad_tower = (
            _tower(peer_data.fields_of(data_set, fields), embedding_dim)
            for fields in (data_set.schema.query_fields, data_set.schema.ad_fields)
        )
        self._task = tfrs.tasks.Retrieval()

    def compute_loss(
        self, inputs: tuple[tf.Tensor, tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        """Returns the loss of queries [B, Wq] and the ads [B, Wa] that they clicked."""
        query, ad = inputs
        return self._task(self.query_tower(query), self.ad_tower(ad), compute_metrics=False)


def _tower(fields: tuple[peer_data.PeerField, ...], dim: int) -> tf.keras.Model:
    layers = [networks.Fields(fields, dim, 0.0), tf.keras.layers.Flatten()]
    if len(fields) > 1:
        layers.append(tf.keras.layers.Dense(dim))
    return tf.keras.Sequential(layers)


def _tutorial(
    learned: Learned, embedding_dim: int, learning_rate: float, epochs: int, batch_size: int
) -> corpus_ranking.Recommender:
    tf.keras.backend.clear_session()  # a search builds many models
    tf.keras.utils.set_random_seed(learned.seed)
    model = TutorialTwoTower(learned.data_set, embedding_dim)
    model.compile(tf.keras.optimizers.Adagrad(learning_rate))
    pairs = reader.without_tuning(tf.data.Dataset.from_tensor_slices(learned.pairs()))
    pairs = pairs.shuffle(len(pairs), seed=learned.seed).batch(batch_size)
    model.fit(pairs, epochs=epochs, verbose=0)
    ads = _embedded(model.ad_tower, np.asarray(learned.catalog.features))

    def scores(queries: corpus_ranking.Queries) -> np.ndarray:
        return _embedded(model.query_tower, queries.query) @ ads.T

    return scores


def _embedded(tower: tf.keras.Model, ids: np.ndarray) -> np.ndarray:
    return tower.predict(ids, batch_size=8_192, verbose=0)


@dataclasses.dataclass(frozen=True)
class RetrievalPeer:
    """A peer of the two-tower model.

    Attributes:
        label: Name in tables.
        build: Learns clicks: `Learned` and the options.
        defaults: Options that are always tried.
        space: Option -> the range that a search proposes.
        reads_history: Whether it expects a schema with a history of the ads that a user clicked.
    """

    label: str
    build: Callable[..., corpus_ranking.Recommender]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    space: search.Space = dataclasses.field(default_factory=dict)
    reads_history: bool = False


PEERS = {
    "popularity": RetrievalPeer(
        "popularity", lambda learned: evaluation.Popularity(learned.history.clicks)
    ),
    "item_knn": RetrievalPeer(
        "item neighbors",
        lambda learned, **options: evaluation.ItemNeighbors(learned.history, **options),
        {"num_neighbors": baselines.NUM_NEIGHBORS, "shrinkage": baselines.SHRINKAGE},
        {"num_neighbors": search.whole(10, 1_000), "shrinkage": tuning.log_range(1.0, 500.0)},
    ),
    "ease": RetrievalPeer(
        "EASE",
        lambda learned, **options: evaluation.Ease(learned.history, **options),
        {"l2": baselines.EASE_L2},
        {"l2": tuning.log_range(5.0, 10_000.0)},
    ),
    "matrix_factorization": RetrievalPeer(
        "matrix factorization (implicit)",
        lambda learned, **options: MatrixFactorization(learned.history, learned.seed, **options),
        # The defaults of the package, but for fewer factors.
        {"factors": 64, "regularization": 0.01, "alpha": 1.0, "iterations": 15},
        {
            "factors": search.whole(8, 256),
            "regularization": tuning.log_range(1e-3, 100.0),
            "alpha": tuning.log_range(0.3, 100.0),
            "iterations": search.whole(5, 40),
        },
    ),
    "tfrs_tutorial": RetrievalPeer(
        "two-tower of the TFRS tutorial",
        _tutorial,
        {"embedding_dim": 32, "learning_rate": 0.1, "epochs": 3, "batch_size": 8_192},
        {
            "embedding_dim": tuning.one_of(16, 32, 64, 128),
            "learning_rate": tuning.log_range(0.01, 1.0),
            "epochs": search.whole(1, 60),
            "batch_size": tuning.one_of(512, 2_048, 8_192),
        },
    ),
    "sasrec": RetrievalPeer(
        "SASRec, softmax over all ads",
        lambda learned, **options: sasrec.Recommender(
            learned.data_set, *learned.pairs(), learned.seed, **options
        ),
        {
            "embedding_dim": 64,
            "num_blocks": 2,
            "dropout": 0.5,
            "learning_rate": 1e-3,
            "epochs": 80,
            "batch_size": 128,
        },
        {
            "embedding_dim": tuning.one_of(32, 64, 128),
            "num_blocks": search.whole(1, 3),
            "dropout": tuning.one_of(0.1, 0.2, 0.5),
            "learning_rate": tuning.log_range(3e-4, 3e-3),
            "epochs": search.whole(10, 160),
            "batch_size": tuning.one_of(64, 128),
        },
        reads_history=True,
    ),
}


def peers_of(data_set: reader.DataSet) -> dict[str, RetrievalPeer]:
    """Returns the peers that can learn a data set."""
    has_history = sasrec.history_of_ads(data_set) is not None
    return {name: peer for name, peer in PEERS.items() if has_history or not peer.reads_history}


def fit(
    name: str, data_set: reader.DataSet, seed: int, tune_minutes: float
) -> tuple[corpus_ranking.Recommender, dict[str, Any]]:
    """Tunes a peer on the validation split, and learns training and validation.

    Args:
        name: Name of the peer, one of `PEERS`.
        data_set: Converted log with users.
        seed: Seed of the peer and of the search.
        tune_minutes: Budget of the search, in processor minutes; 0: the defaults.

    Returns:
        The recommender; and its `options`, the number of `trials` and `cpu_seconds`.

    Raises:
        ValueError: The validation split has no clicks on ads that their users had not clicked.
    """
    started = time.process_time()
    peer, trials = PEERS[name], 1
    options = dict(peer.defaults)
    if tune_minutes and peer.space:
        options, trials = _tuned(peer, data_set, seed, tune_minutes)
    recommender = peer.build(Learned(data_set, retrieval.REFIT_SPLITS, seed), **options)
    spent = time.process_time() - started
    return recommender, {"options": options, "trials": trials, "cpu_seconds": spent}


def _tuned(
    peer: RetrievalPeer, data_set: reader.DataSet, seed: int, tune_minutes: float
) -> tuple[dict[str, Any], int]:
    learned = Learned(data_set, ("train",), seed)
    clicks = retrieval.read_clicks(data_set, "validation")
    users = corpus_ranking.held_out_users(clicks, learned.history.clicks_of, len(learned.catalog))
    if not len(users.queries):
        raise ValueError(
            f"The validation split of {data_set.directory} has no clicks to tune a peer; expected "
            "some. Convert the log with a larger --validation_fraction."
        )
    tried: list[tuple[float, dict[str, Any]]] = []

    def loss_of(options: dict[str, Any]) -> float:
        quality = corpus_ranking.per_user(peer.build(learned, **options), users)
        assert quality is not None
        tried.append((-quality[VALIDATION_METRIC], options))
        return tried[-1][0]

    trials = search.search(peer.space, [peer.defaults], loss_of, tune_minutes, seed)
    return min(tried, key=lambda trial: trial[0])[1], trials
