"""The options of all jobs, with their defaults and help texts.

Commands derive their command-line flags from these dataclasses, and each run writes its
resolved configuration as JSON into its work directory.
"""

import dataclasses
import json
import pathlib
from typing import Any

from tfrec.heads import HEADS
from tfrecords import plugins
from tfrecords.splits import SplitOptions

# On two cores, two parts take little more than half the time for a request of 500 candidates, and
# 0.3 ms longer for a request of a few (ADR 22).
CANDIDATE_PARTS = 2


def option(default: Any, help: str) -> Any:
    """Returns a dataclass field with the help text of its flag."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
    """Log to data set."""

    validation_fraction: float = option(
        0.1, "Share of the log, just before the test part, that is held out for validation."
    )
    test_fraction: float = option(0.1, "Share at the end of the log that is held out for testing.")
    max_rejected_fraction: float = option(
        0.01, "Maximum share of unusable lines; a log with more is refused."
    )
    split: str = option(
        "auto",
        "How the log is split: auto (by file, column or time if there is one, else by order), "
        "order, time, fraction (a random share), column, file, leave_last_out, "
        "leave_fraction_out or leave_random_fraction_out (of each user).",
    )
    sampled_negatives: int = option(
        0, "Ads sampled as not clicked for each click; for logs that hold clicks only."
    )
    engagement_window_seconds: float = option(
        0.0,
        "How long after a click an engagement can come, in seconds: rows this close to the end of "
        "the log have no label of engagement and revenue. 0: every label is final.",
    )
    seed: int = option(1, "Seed of random splits, sampled negatives and the order of training.")

    def __post_init__(self) -> None:
        # Checks the options before anything is read or written.
        SplitOptions(self.split, self.validation_fraction, self.test_fraction, self.seed)


@dataclasses.dataclass(frozen=True)
class RetrievalConfig:
    """Stage one: the two-tower model."""

    retrieval_model: str = option(
        "two_tower",
        "The retrieval model: two_tower, a name that an installed package gives one "
        "(tfrec.retrieval_models), or MODULE:CLASS for one of your own.",
    )
    embedding_dim: int = option(256, "Length of the query and ad embeddings.")
    field_dim: int = option(
        0, "Length of a field's embedding inside a tower; 0: 256 / number of fields, in [16, 128]."
    )
    hidden_dim: int = option(256, "Width of the towers' hidden layers.")
    num_cross_layers: int = option(1, "Cross layers (DCN-V2) in each tower.")
    dropout: float = option(0.1, "Dropout rate in the towers.")
    id_dropout: float = option(
        0.05,
        "Share of the users, and of the ads that have other fields, whose id training hides; a "
        "field with many more out-of-vocabulary values in held-out rows is hidden more, and half "
        "of the ids of ads with vectors. 0: none.",
    )
    initial_temperature: float = option(
        0.1, "Softmax temperature of the first epoch; then it is learned on held-out clicks."
    )
    epochs: int = option(20, "Maximum number of epochs over the clicks; sets the schedule.")
    patience: int = option(4, "Epochs without a better validation recall before stopping.")
    batch_size: int = option(1024, "Maximum number of clicks in a batch; fewer for a small log.")
    uniform_negatives: int = option(
        1024, "Ads drawn uniformly from the catalog as extra negatives of each batch."
    )
    learning_rate: float = option(1e-3, "Peak learning rate of the dense layers (Adam).")
    embedding_learning_rate: float = option(
        0.3, "Peak learning rate of the embedding tables (Adagrad)."
    )
    embedding_accumulator: float = option(
        0.01, "Initial value of the embedding tables' sums of squared gradients (Adagrad)."
    )
    embedding_l2: float = option(3e-4, "Squared-norm penalty on the field embeddings used.")
    refit: bool = option(
        True,
        "Whether, once the best epoch is known, the model is retrained for as many epochs on the "
        "training and the validation clicks together; only if no ranker teaches it.",
    )
    click_factors: bool = option(
        True,
        "Whether latent factors of users and ads are appended to the embeddings if held-out "
        "clicks prefer it; only if no ranker teaches the model.",
    )
    seed: int = option(1, "Seed of initialization and shuffling.")

    def __post_init__(self) -> None:
        _name_class(self, "retrieval_model")


@dataclasses.dataclass(frozen=True)
class RankerConfig:
    """Stage two: the multi-head-attention ranker."""

    ranker: str = option(
        "attention",
        "The ranker: attention, a name that an installed package gives one (tfrec.rankers), or "
        "MODULE:CLASS for one of your own.",
    )
    field_dim: int = option(16, "Length of each field's embedding.")
    model_dim: int = option(128, "Width of an encoded candidate.")
    num_blocks: int = option(3, "Attention blocks.")
    num_heads: int = option(8, "Attention heads in a block.")
    head_dim: int = option(8, "Width of an attention head.")
    feed_forward_dim: int = option(256, "Width of the candidate encoder's hidden layers.")
    num_cross_layers: int = option(1, "Cross layers (DCN-V2) of the candidate encoder.")
    dropout: float = option(0.1, "Dropout rate.")
    id_dropout: float = option(
        0.05,
        "Share of the users, and of the ads that have other fields, whose id training hides; a "
        "field with many more out-of-vocabulary values in held-out rows is hidden more, and half "
        "of the ids of ads with vectors. 0: none.",
    )
    num_positions: int = option(
        50,
        "Positions whose effect on clicks is learned, if the log has them, and left out at "
        "serving; later positions count as the last. 0: positions are not used.",
    )
    negative_keep_rate: float = option(
        1.0,
        "Share of the unclicked training rows that an epoch keeps, sampled again for each epoch; "
        "scores are exactly corrected for it.",
    )
    epochs: int = option(
        8, "Maximum number of epochs over the training requests; sets the schedule."
    )
    patience: int = option(
        2, "Epochs without a better validation loss before stopping; more for a small log."
    )
    batch_size: int = option(
        512,
        "Approximate maximum number of impressions in a batch; fewer for a small log. Lists are "
        "kept whole.",
    )
    learning_rate: float = option(2e-3, "Peak learning rate of the dense layers (Adam).")
    embedding_learning_rate: float = option(
        0.4, "Peak learning rate of the embedding tables (Adagrad)."
    )
    average_decay: float = option(0.998, "Decay per step of the average of the dense weights.")
    embedding_l2: float = option(6e-3, "Squared-norm penalty on the field embeddings used.")
    engagement_weight: float = option(
        HEADS["engagement"].loss_weight, "Weight of the engagement loss."
    )
    revenue_weight: float = option(HEADS["revenue"].loss_weight, "Weight of the revenue loss.")
    seed: int = option(1, "Seed of initialization and shuffling.")

    def __post_init__(self) -> None:
        _name_class(self, "ranker")
        if not 0 < self.negative_keep_rate <= 1:
            raise ValueError(
                f"negative_keep_rate is {self.negative_keep_rate}; expected a number in (0, 1]."
            )

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of each head's loss."""
        return {h: getattr(self, f"{h}_weight", own.loss_weight) for h, own in HEADS.items()}


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Measuring both stages on the test split."""

    resamples: int = option(
        200, "Bootstrap resamples behind each interval; fewer on more than a million rows."
    )
    segment_fields: str = option(
        "",
        "Ad fields, separated by commas, whose values are measured separately; empty: the two that "
        "group ads most as advertisers do.",
    )
    seed: int = option(1, "Seed of the resamples and of simulated outcomes.")

    def __post_init__(self) -> None:
        if self.resamples < 0:
            raise ValueError(f"resamples: expected 0 or more, got {self.resamples}.")


def _name_class(config: Any, name: str) -> None:
    """Replaces a class given as an option by MODULE:CLASS, which can be written as JSON."""
    object.__setattr__(config, name, plugins.reference_to(getattr(config, name)))


def save_config(config: Any, path: pathlib.Path) -> None:
    """Writes a resolved configuration as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dataclasses.asdict(config), indent=2, default=str) + "\n")
