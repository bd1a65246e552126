"""The search space of each stage: options, their ranges and the metric to improve."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from optuna import distributions

from tfrec import ranking, retrieval
from tfrec.config import RankerConfig, RetrievalConfig


def log_range(low: float, high: float) -> distributions.BaseDistribution:
    """Returns a range of numbers that are searched by their logarithm."""
    return distributions.FloatDistribution(low, high, log=True)


def uniform(low: float, high: float) -> distributions.BaseDistribution:
    """Returns a range of numbers."""
    return distributions.FloatDistribution(low, high)


def one_of(*values: int) -> distributions.BaseDistribution:
    """Returns a choice."""
    return distributions.CategoricalDistribution(values)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage to tune.

    Attributes:
        name: `retrieval` or `ranker`.
        defaults: The configuration of the first trial; the others change the options in `space`.
        train: Trains the stage: data set, configuration, directory, progress, callbacks.
        metric: Validation metric of each epoch.
        maximize: Whether a larger metric is better.
        space: Option -> its range, which contains the default.
        source: Returns the digest of the model's source, given a configuration; None: no plugin.
    """

    name: str
    defaults: RankerConfig | RetrievalConfig
    train: Callable[..., None]
    metric: str
    maximize: bool
    space: Mapping[str, distributions.BaseDistribution]
    source: Callable[[Any], str | None]


RANKER = Stage(
    "ranker",
    RankerConfig(),
    ranking.train_ranker,
    "validation_loss",
    False,
    {
        "learning_rate": log_range(3e-4, 1e-2),
        "embedding_learning_rate": log_range(0.05, 1.5),
        "embedding_l2": log_range(3e-4, 5e-2),
        "embedding_shrinkage": log_range(5, 500),
        "dropout": uniform(0.0, 0.4),
        "id_dropout": uniform(0.0, 0.7),
        "batch_size": one_of(256, 512, 1024, 2048),
        "field_dim": one_of(16, 32, 48),
        "model_dim": one_of(32, 64, 128),
        "num_blocks": one_of(1, 2, 3, 4),
        "feed_forward_dim": one_of(64, 128, 256),
    },
    lambda config: ranking.RANKERS.digest(config.ranker),
)

# The refit measures nothing, and click factors come after the measurement. The length of the
# embeddings is not searched: it decides the size and the speed of the index.
RETRIEVAL = Stage(
    "retrieval",
    RetrievalConfig(refit=False, click_factors=False),
    retrieval.train_two_tower,
    "validation_corpus_recall",
    True,
    {
        "learning_rate": log_range(2e-4, 5e-3),
        "embedding_learning_rate": log_range(0.05, 1.5),
        "embedding_l2": log_range(3e-5, 3e-3),
        "dropout": uniform(0.0, 0.4),
        "id_dropout": uniform(0.0, 0.3),
        "batch_size": one_of(256, 512, 1024, 2048),
        "uniform_negatives": one_of(256, 1024, 4096),
        "field_dim": one_of(0, 16, 32, 64, 128),
        "hidden_dim": one_of(128, 256, 512),
        "num_cross_layers": one_of(0, 1, 2, 3),
    },
    lambda config: retrieval.RETRIEVAL_MODELS.digest(config.retrieval_model),
)
