"""Distills the ranker into the towers, so that they find the ads that it would choose.

A tower that is trained on clicks finds ads that the logging policy shows and users click. The
ranker orders by utility, and its choice may not be among the candidates. So, after the clicks, the
towers learn from the ranker: a lesson has some training requests and ads, at first uniform ads and
then also ads that the towers find, and the utility gives soft targets

    p = softmax(z / τ),    z the utility, standardized over the ads of a lesson
    loss = −Σ_j p_j log softmax_j(cosines / T)

Each request of a lesson counts with several weights of the utility: the default ones, each head
alone, and random ones. They share the tower's embedding of the query: see `weighted_query`.

`UtilityShare` measures the result on validation requests without any ground truth: the ranker's
utility of the ten best ads among the tower's first K, as a share of the utility of the ten best
overall.

WORKDIR/distillation/uniform   checkpoints, best/, tensorboard/, as in any training
WORKDIR/distillation/hard      the same for the second training

Shapes: L lessons, R requests, B requests of a lesson, C ads of a lesson, W weights of a request,
N ads, H heads, K length of lists.

References:
    Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015.
    Tang and Wang, Ranking Distillation, 2018.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import tensorflow as tf

from tfrec import layers, training
from tfrec.config import RetrievalConfig
from tfrec.retrieval import reading, retrieval_model, towers, two_tower, weighted_query
from tfrec.retrieval.retrieval_validation import RECALL_AT
from tfrecords import columns, reader, terminal
from tfrecords.schema import NUM_CANDIDATES

METRIC = "validation_utility_share"
UTILITY = "utility"
LIST_LENGTH = 10
DISTILLATION_DIRECTORY = "distillation"
# The first lessons have uniform ads; the second also have ads that the towers find after them.
LESSONS = {
    "uniform": "lessons of the ranker on random ads",
    "hard": "lessons of the ranker, also on ads that the towers find",
}
# Sharper targets gained nothing (docs/experiments/0039-distillation.md).
_TEMPERATURE, _TARGET_TEMPERATURE = 0.05, 0.5
# Many requests with few ads each work better than few requests with many ads, at the same cost.
_REQUESTS_PER_LESSON, _ADS_PER_LESSON = 128, 64
# For a large log, lessons have five pairs for each training row, as many as five epochs of the
# ranker, so its scores take a fraction of its training time.
_MIN_REQUESTS, _MAX_REQUESTS, _PAIRS_PER_ROW = 16_384, 65_536, 5
# A request of a small log is in several lessons, with other ads in each.
_MAX_REPEATS = 8
# The first lessons only prepare those with ads that the towers find.
_FIRST_EPOCHS, _LAST_EPOCHS, _PATIENCE = 3, 10, 2
# Each request counts with the default weights, with each head alone, and with random weights.
_RANDOM_WEIGHTINGS = 4
_NEGATIVE_SHARE = 0.1
# The embeddings are learned already.
_SHARE_OF_EMBEDDING_RATE = 1 / 3
_MIN_MEASURED, _MAX_MEASURED, _MAX_MEASURED_PAIRS = 16, 100, 500_000
_ADS_PER_CALL = 4_096


@dataclasses.dataclass(frozen=True)
class Teacher:
    """The values that a ranker gives to ads, which the towers learn from.

    Attributes:
        weights: Head -> default weight of its value in the utility.
        score: Maps ids of queries [B, Wq] and of ads [B, C, Wa] to values: head -> [B, C].
    """

    weights: Mapping[str, float]
    score: Callable[[tf.Tensor, tf.Tensor], Mapping[str, tf.Tensor]]

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads, in the order of values."""
        return tuple(self.weights)

    @property
    def weightings(self) -> dict[str, np.ndarray]:
        """Name -> weights [H]: of the default utility, and of each head alone."""
        alone = np.eye(len(self.weights), dtype=np.float32)
        default = np.array(list(self.weights.values()), np.float32)
        return {UTILITY: default, **dict(zip(self.heads, alone, strict=True))}

    def values(self, query: np.ndarray, ads: np.ndarray) -> np.ndarray:
        """Returns the values [B, C, H] float32 of ads [C, Wa] for each of the queries [B, Wq]."""
        repeated = tf.broadcast_to(ads[None], [len(query), *ads.shape])
        values = self.score(tf.constant(query), repeated)
        return np.stack([np.asarray(values[head], np.float32) for head in self.heads], axis=-1)


@dataclasses.dataclass(frozen=True)
class Lessons:
    """The teacher's values of ads for requests: the transfer set of Hinton et al.

    Attributes:
        query: [L, B, Wq] int32.
        ad_rows: [L, C] int32 catalog rows.
        values: [L, B, C, H] float32.
    """

    query: np.ndarray
    ad_rows: np.ndarray
    values: np.ndarray

    @classmethod
    def draw(
        cls,
        teacher: Teacher,
        queries: np.ndarray,
        ads: np.ndarray,
        found: np.ndarray | None,
        seed: int,
    ) -> Self:
        """Draws lessons, of uniform ads or also of ads that the towers find.

        Args:
            teacher: Scores ads for requests.
            queries: [R, Wq] int32 queries of training requests.
            ads: [N, Wa] int32 encoded ads.
            found: [R, K] catalog rows that the towers find; half of the ads of a lesson are drawn
                from them. None: all are uniform.
            seed: Seed of the order of requests and of the choice of ads.
        """
        rng = np.random.default_rng(seed)
        size, num_ads = min(_REQUESTS_PER_LESSON, len(queries)), min(_ADS_PER_LESSON, len(ads))
        lessons = rng.permutation(len(queries))[: len(queries) // size * size].reshape(-1, size)
        ad_rows = np.empty((len(lessons), num_ads), np.int32)
        for requests, drawn in zip(lessons, ad_rows, strict=True):
            drawn[:] = rng.choice(len(ads), num_ads, replace=False)
            if found is not None:
                found_ads = columns.distinct_numbers(found[requests])
                drawn[: num_ads // 2] = rng.choice(found_ads, num_ads // 2)
        values = terminal.map_with_progress(
            lambda lesson: teacher.values(queries[lessons[lesson]], ads[ad_rows[lesson]]),
            range(len(lessons)),
            "asking the ranker",
            "lessons",
        )
        return cls(queries[lessons], ad_rows, np.array(list(values)))

    def followed_by(self, others: Self) -> Self:
        """Returns these lessons followed by others of the same shapes [B, C]."""
        parts = {name: np.concatenate([a, vars(others)[name]]) for name, a in vars(self).items()}
        return dataclasses.replace(self, **parts)

    @property
    def deviations(self) -> np.ndarray:
        """[H] mean standard deviation of each head's values over the ads of a request."""
        return self.values.std(axis=2).mean(axis=(0, 1))

    def stream(self, seed: int, number: reader.Seed) -> tf.data.Dataset:
        """Streams the lessons in the random order of an epoch: `query`, `ad_rows` and `values`."""
        lessons = tf.data.Dataset.from_tensor_slices(vars(self))
        return lessons.shuffle(len(self.query), seed + number)


class Student(training.StageModel):
    """The towers of a retrieval model, which learn from lessons.

    Args:
        model: A retrieval model with a `weighted_query_tower`.
        ads: [N, Wa] int32 encoded ads.
    """

    def __init__(self, model: retrieval_model.RetrievalModel, ads: np.ndarray) -> None:
        super().__init__()
        assert model.weighted_query_tower is not None
        self.query_tower, self.ad_tower = model.weighted_query_tower, model.ad_tower
        self.id_dropout, self.temperature = model.id_dropout, model.temperature
        self._ads = tf.constant(ads)
        self._generator = layers.new_generator()
        # Lessons read the stored sums of the users' clicks, which have no gradient.
        for part in self.query_tower.submodules:
            if isinstance(part, layers.UserClicks):
                part.trainable = False
        self.built = True

    def compute_loss(self, inputs: reader.Batch, training: bool = False) -> tf.Tensor:
        """Returns the loss of a lesson.

        Args:
            inputs: `query` [B, Wq] and `ad_rows` [C], int32; `values` [B, C, H] float32.
            training: Whether dropout of ids is on.
        """
        query, ads = inputs["query"], tf.gather(self._ads, inputs["ad_rows"])
        if training:
            query, ads = self.id_dropout.query(query), self.id_dropout.ad(ads)
        weights = self._draw_weights(tf.shape(query)[0])
        # Soft targets do not overfit, so the towers need no dropout.
        queries = self.query_tower.weighted(self.query_tower.tower(query), weights)
        queries = tf.reshape(queries, [-1, queries.shape[-1]])  # [B W, D]
        cosines = tf.matmul(queries, self.ad_tower(ads), transpose_b=True)
        utility = tf.matmul(weights, inputs["values"], transpose_b=True)  # [B, W, C]
        utility = tf.reshape(utility, tf.shape(cosines))
        mean, variance = tf.nn.moments(utility, axes=[1], keepdims=True)
        standardized = tf.math.divide_no_nan(utility - mean, tf.sqrt(variance))
        losses = tf.nn.softmax_cross_entropy_with_logits(
            tf.nn.softmax(standardized / _TARGET_TEMPERATURE), cosines / _TEMPERATURE
        )
        # If all ads are worth the same, but for rounding, every order is right.
        has_order = tf.squeeze(variance > 1e-12 * tf.square(mean), axis=1)
        return tf.reduce_mean(tf.where(has_order, losses, 0.0))

    def _draw_weights(self, count: tf.Tensor) -> tf.Tensor:
        """Returns weights [B, W, H]: the default ones, each head alone, and random ones."""
        num_heads = len(self.query_tower.heads)
        shape = [count, _RANDOM_WEIGHTINGS, num_heads]
        drawn = self._generator.uniform(shape, minval=1e-6)
        # Exponential numbers are a uniform choice of shares. Squared, they are often nearly one
        # head alone.
        drawn = tf.math.divide_no_nan(tf.square(tf.math.log(drawn)), self.query_tower.deviations)
        # A request may also give a head little weight.
        signs = tf.where(self._generator.uniform(shape) < _NEGATIVE_SHARE, -1.0, 1.0)
        same = tf.concat([self.query_tower.default_weights[None], tf.eye(num_heads)], axis=0)
        same = tf.broadcast_to(same, [count, *same.shape])
        return tf.concat([same, drawn * signs], axis=1)


class UtilityShare:
    """Measures retrieval by the utility of the ads that it finds.

    Args:
        teacher: Scores ads for requests.
        queries: [R, Wq] int32 queries of held-out requests, at least one.
        ads: [N, Wa] int32 encoded ads.
    """

    def __init__(self, teacher: Teacher, queries: np.ndarray, ads: np.ndarray) -> None:
        self._queries, self._weightings = queries, teacher.weightings
        parts = [ads[n : n + _ADS_PER_CALL] for n in range(0, len(ads), _ADS_PER_CALL)]
        values = terminal.map_with_progress(
            lambda query: np.concatenate([teacher.values(query[None], p)[0] for p in parts]),
            queries,
            "ranking all ads",
            "requests",
        )
        self._values = np.array(list(values))  # [R, N, H]
        self._best = {n: _sum_of_best(self._values @ w) for n, w in self._weightings.items()}

    def measure(
        self, tower: weighted_query.WeightedQueryTower, ads: np.ndarray
    ) -> dict[str, dict[int, tuple[float, float]]]:
        """Returns the shares of each weighting, with their standard errors: name -> K -> both.

        A weighting under which all ads have utility 0 is left out.

        Args:
            tower: The query tower.
            ads: [N, D] embeddings of the ads.
        """
        embedded = towers.embed_in_batches(tower.tower, self._queries)
        counts = sorted({min(k, len(ads)) for k in RECALL_AT})
        result: dict[str, dict[int, tuple[float, float]]] = {}
        for name, weights in self._weightings.items():
            best = self._best[name]
            if best.sum() <= 0:
                continue
            queries = tower.weighted(embedded, tf.constant(weights)).numpy()
            found = two_tower.exact_top_k(queries, ads, max(counts))
            utility = np.take_along_axis(self._values, found[..., None], axis=1) @ weights
            result[name] = {k: _share(_sum_of_best(utility[:, :k]), best) for k in counts}
        return result


def _read_queries(data_set: reader.DataSet) -> np.ndarray:
    """Reads the queries [R, Wq] of the lessons; with a small log they repeat."""
    count = round(_PAIRS_PER_ROW * data_set.num_rows("train") / _ADS_PER_LESSON)
    count = min(max(count, _MIN_REQUESTS), _MAX_REQUESTS)
    queries = reading.read_queries(data_set, "train", count)
    return np.resize(queries, (min(count, _MAX_REPEATS * len(queries)), queries.shape[1]))


def _halves(queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns as many queries of every other request, so that both halves are of the whole log."""
    count = max(len(queries) // 2, 1)
    return queries[::2][:count], (queries[1::2] if len(queries) > 1 else queries)[:count]


def restore(
    model: retrieval_model.RetrievalModel,
    description: Mapping[str, Any],
    data_set: reader.DataSet,
    workdir: pathlib.Path,
) -> None:
    """Restores a model of the same sizes, with its weights created, after `distill` in a workdir.

    Raises:
        FileNotFoundError, ValueError: See `training.restore_best`.
    """
    model.learn_weights(description["weights"])
    student = Student(model, np.asarray(data_set.catalog().features))
    directory = workdir / DISTILLATION_DIRECTORY / description["lessons"]
    training.restore_best(student, directory, workdir)


def _sum_of_best(utility: np.ndarray) -> np.ndarray:
    """Returns the sum [R] of the ten greatest of utilities [R, N]."""
    first = max(utility.shape[1] - LIST_LENGTH, 0)
    return np.partition(utility, first, axis=1)[:, first:].sum(axis=1, dtype=np.float64)


def _share(reached: np.ndarray, best: np.ndarray) -> tuple[float, float]:
    """Returns Σ reached / Σ best of requests [R], and its standard error."""
    share = reached.sum() / best.sum()
    return float(share), float(np.sqrt(np.square(reached - share * best).sum()) / best.sum())


def distill(
    model: retrieval_model.RetrievalModel,
    teacher: Teacher,
    data_set: reader.DataSet,
    config: RetrievalConfig,
    workdir: pathlib.Path,
    progress: bool = False,
    callbacks: Sequence[tf.keras.callbacks.Callback] = (),
) -> dict[str, Any]:
    """Distills a ranker into a retrieval model trained on clicks, and keeps the best epoch.

    Args:
        model: The model; afterward its queries depend on the weights of the heads.
        teacher: Scores ads for requests.
        data_set: The converted log.
        config: Options of the training on clicks.
        workdir: Its work directory; training resumes from its files.
        progress: Whether to show progress bars.
        callbacks: Additional callbacks.

    Returns:
        For `retrieval.json`: `heads`, their default `weights`, the `lessons` of the best epoch, and
        `utility_share`: weighting -> `share` of the utility in the candidates, and its standard
        `error`.
    """
    ads = np.asarray(data_set.catalog().features)
    model.learn_weights(teacher.weights)
    tower = model.weighted_query_tower
    assert tower is not None
    measured = min(max(_MAX_MEASURED_PAIRS // len(ads), _MIN_MEASURED), _MAX_MEASURED)
    shares = UtilityShare(teacher, reading.read_queries(data_set, "validation", measured), ads)

    def measure() -> dict[str, dict[int, tuple[float, float]]]:
        model.store_user_clicks()
        embedded = towers.embed_in_batches(model.ad_tower, ads)
        return shares.measure(tower, embedded)

    def validate() -> dict[str, float]:
        found = {
            f"{METRIC}_of_{name}_at_{k}": share
            for name, shares_by_k in measure().items()
            for k, (share, _) in shares_by_k.items()
        }
        return {METRIC: float(np.mean(list(found.values() or [0.0]))), **found}

    queries = _read_queries(data_set)
    # A lesson may contain all ads of a small catalog, and then the hard ones too.
    is_small = len(ads) <= _ADS_PER_LESSON
    parts: tuple[np.ndarray, ...] = (queries,) if is_small else _halves(queries)
    lessons = Lessons.draw(teacher, parts[0], ads, None, config.seed)
    tower.deviations.assign(lessons.deviations)
    student = Student(model, ads)
    reached: dict[str, float] = {}
    kinds = list(LESSONS)[: len(parts)]
    for kind in kinds:
        if kind == "hard":
            embedded = towers.embed_in_batches(model.served_query_tower, parts[1])
            embedded_ads = towers.embed_in_batches(model.ad_tower, ads)
            found = two_tower.exact_top_k(embedded, embedded_ads, NUM_CANDIDATES)
            hard = Lessons.draw(teacher, parts[1], ads, found, config.seed + 1)
            lessons = lessons.followed_by(hard)
        steps = len(lessons.query)
        plan = training.Plan(
            epochs=_LAST_EPOCHS if kind == kinds[-1] else _FIRST_EPOCHS,
            patience=_PATIENCE,
            learning_rate=config.learning_rate,
            embedding_learning_rate=config.embedding_learning_rate * _SHARE_OF_EMBEDDING_RATE,
            steps_per_epoch=steps,
            examples_per_epoch=steps,
            metric=METRIC,
            maximize=True,
            initial_accumulator=config.embedding_accumulator,
        )
        if progress:
            terminal.print_above_bars(f"  {LESSONS[kind]}")
        history = training.fit(
            student,
            functools.partial(lessons.stream, config.seed),
            validate,
            plan,
            workdir / DISTILLATION_DIRECTORY / kind,
            progress=progress,
            extra_callbacks=callbacks,
        )
        reached[kind] = history[training.best_epoch(history, plan)][METRIC]
    kept = max(reached, key=reached.__getitem__)
    training.restore_best(student, workdir / DISTILLATION_DIRECTORY / kept, workdir)
    candidate_shares = {name: by_count[max(by_count)] for name, by_count in measure().items()}
    return {
        "heads": list(teacher.heads),
        "weights": dict(teacher.weights),
        "lessons": kept,
        "utility_share": {
            name: {"share": share, "error": error}
            for name, (share, error) in candidate_shares.items()
        },
    }
