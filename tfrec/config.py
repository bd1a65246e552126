"""The options of all jobs, with their defaults and help texts.

Commands derive their command-line flags from these dataclasses, and each run writes its
resolved configuration as JSON into its work directory.
"""

import dataclasses
import json
import math
import numbers
import operator
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tfrec.heads import HEADS
from tfrecords import files, plugins
from tfrecords.splits import SplitOptions

# On two cores, two parts take little more than half the time for a request of 500 candidates, and
# 0.3 ms longer for a request of a few (ADR 22).
CANDIDATE_PARTS = 2


def option(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> Any:
    """Returns a dataclass field with the help text of its flag, and the range of its values.

    The default is a number, a string or a boolean, whose type is that of the flag.
    """
    limits = {">=": at_least, ">": above, "<=": at_most, "<": below}
    limits = {sign: limit for sign, limit in limits.items() if limit is not None}
    return dataclasses.field(default=default, metadata={"help": help, "limits": limits})


# The seeds of NumPy; distillation also uses seed + 1.
_SEEDS = {"at_least": 0, "at_most": 2**32 - 2}
_ID_DROPOUT = (
    "Probability that training replaces the id of a user, or of an ad that has other fields, by an "
    "out-of-vocabulary id. It is raised for fields that are out of vocabulary more often in "
    "held-out rows, and to 0.5 for ads with vectors. 0: no id is replaced."
)
_Config = TypeVar("_Config")
_IS_WITHIN: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
_TYPES = {bool: bool, int: numbers.Integral, float: numbers.Real, str: str}
_NOUNS = {bool: "True or False", int: "a whole number", float: "a number", str: "a string"}


def check_options(config: Any) -> None:
    """Checks the types and the ranges of the options of a configuration.

    Raises:
        ValueError: An option has another type, or is out of range.
    """
    for field in dataclasses.fields(config):
        if "limits" not in field.metadata:
            continue  # An option of a subclass; see `check_kind`.
        kind: Any = type(field.default)
        value = getattr(config, field.name)
        if isinstance(value, _TYPES[kind]) and isinstance(value, bool) == (kind is bool):
            value = kind(value)  # A number of NumPy cannot be written as JSON.
            object.__setattr__(config, field.name, value)
            if is_within(field, value):
                continue
        raise ValueError(
            f"{type(config).__name__}.{field.name}: expected {values_of(field)}, got {value!r}."
        )


def values_of(field: dataclasses.Field[Any]) -> str:
    """Returns the type and the range of an option, such as `a whole number >= 1`."""
    limits = field.metadata["limits"].items()
    noun = _NOUNS[type(field.default)]
    return " ".join([noun, " and ".join(f"{sign} {limit:.15g}" for sign, limit in limits)]).strip()


def is_within(field: dataclasses.Field[Any], value: Any) -> bool:
    """Returns whether a value of the type of an option is in its range, and finite."""
    limits = field.metadata["limits"].items()
    is_finite = not isinstance(value, float) or math.isfinite(value)
    return is_finite and all(_IS_WITHIN[sign](value, limit) for sign, limit in limits)


def check_kind(config: Any, kind: type) -> None:
    """Checks that a configuration is an instance of exactly this class.

    Raises:
        ValueError: It is an instance of another class, or of a subclass, whose additional options
            a trained model would lose.
    """
    if type(config) is not kind:
        hint = (
            " A subclass of the config is not saved: define a model's own options as class "
            "attributes, with one model subclass per variant."
            if isinstance(config, kind)
            else ""
        )
        raise ValueError(f"expected an instance of {kind.__name__}, got {config!r}.{hint}")


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
    """Conversion of a log to a data set."""

    validation_fraction: float = option(
        0.1,
        "Share of the log held out for validation; in a split by order or time, just before the "
        "test part.",
        above=0,
        below=1,
    )
    test_fraction: float = option(
        0.1,
        "Share of the log held out for testing; in a split by order or time, at its end.",
        above=0,
        below=1,
    )
    max_rejected_fraction: float = option(
        0.01, "Maximum share of unusable lines; a log with more is refused.", at_least=0, at_most=1
    )
    split: str = option(
        "auto",
        "How the log is split: auto (by file, column or time if there is one, else by order), "
        "order, time, fraction (a random share), column, file, leave_last_out, "
        "leave_fraction_out or leave_random_fraction_out (of each user).",
    )
    sampled_negatives: int = option(
        0, "Ads sampled as not clicked for each click; for logs with clicks only.", at_least=0
    )
    engagement_window_seconds: float = option(
        0.0,
        "How long after a click an engagement can occur, in seconds: rows this close to the end of "
        "the log have no engagement or revenue label. 0: every label is final.",
        at_least=0,
    )
    seed: int = option(
        1, "Seed of random splits, sampled negatives and the order of training.", **_SEEDS
    )

    def __post_init__(self) -> None:
        # Checks the options before anything is read or written.
        check_options(self)
        SplitOptions(self.split, self.validation_fraction, self.test_fraction, self.seed)


@dataclasses.dataclass(frozen=True)
class RetrievalConfig:
    """Stage one: the two-tower model."""

    retrieval_model: str = option(
        "two_tower",
        "The retrieval model: two_tower, a name registered by an installed package "
        "(tfrec.retrieval_models), or MODULE:CLASS for your own.",
    )
    embedding_dim: int = option(256, "Length of the query and ad embeddings.", at_least=1)
    field_dim: int = option(
        0,
        "Length of a field's embedding inside a tower; 0: 256 / number of fields, in [16, 128].",
        at_least=0,
    )
    hidden_dim: int = option(256, "Width of the towers' hidden layers.", at_least=1)
    num_cross_layers: int = option(1, "Cross layers (DCN-V2) in each tower.", at_least=0)
    dropout: float = option(0.1, "Dropout rate in the towers.", at_least=0, below=1)
    id_dropout: float = option(0.05, _ID_DROPOUT, at_least=0, at_most=1)
    initial_temperature: float = option(
        0.1,
        "Softmax temperature of the first epoch; then it is learned on held-out clicks.",
        above=0,
    )
    epochs: int = option(
        20,
        "Maximum number of epochs over the clicks, and length of the learning rate's schedule; at "
        "most three if a ranker is distilled afterward.",
        at_least=1,
    )
    patience: int = option(
        4, "Epochs without a better validation recall before stopping.", at_least=1
    )
    batch_size: int = option(
        1024, "Maximum number of clicks in a batch; fewer for a small log.", at_least=1
    )
    uniform_negatives: int = option(
        1024, "Ads drawn uniformly from the catalog as extra negatives of each batch.", at_least=0
    )
    learning_rate: float = option(1e-3, "Peak learning rate of the dense layers (Adam).", above=0)
    embedding_learning_rate: float = option(
        0.3, "Peak learning rate of the embedding tables (Adagrad).", above=0
    )
    embedding_accumulator: float = option(
        0.01, "Initial value of the embedding tables' sums of squared gradients (Adagrad).", above=0
    )
    embedding_l2: float = option(
        3e-4, "Squared-norm penalty on the field embeddings used.", at_least=0
    )
    embedding_shrinkage: float = option(
        20.0,
        "After each epoch, the embedding of a value with n training clicks is multiplied by "
        "n / (n + this), so that rare values do not memorize rows. 0: never.",
        at_least=0,
    )
    refit: bool = option(
        True,
        "Whether the model is retrained, for the best number of epochs, on training and validation "
        "clicks together; only without distillation from a ranker.",
    )
    click_factors: bool = option(
        True,
        "Whether latent factors of users and ads are appended to the embeddings if that improves "
        "recall of held-out clicks; only without distillation from a ranker.",
    )
    seed: int = option(1, "Seed of initialization and shuffling.", **_SEEDS)

    def __post_init__(self) -> None:
        _name_class(self, "retrieval_model")
        check_options(self)


@dataclasses.dataclass(frozen=True)
class RankerConfig:
    """Stage two: the multi-head-attention ranker."""

    ranker: str = option(
        "attention",
        "The ranker: attention, a name registered by an installed package (tfrec.rankers), or "
        "MODULE:CLASS for your own.",
    )
    field_dim: int = option(32, "Length of each field's embedding.", at_least=1)
    model_dim: int = option(64, "Width of an encoded candidate.", at_least=1)
    num_blocks: int = option(3, "Attention blocks.", at_least=0)
    num_heads: int = option(8, "Attention heads in a block.", at_least=1)
    head_dim: int = option(8, "Width of an attention head.", at_least=1)
    feed_forward_dim: int = option(
        128, "Width of the candidate encoder's hidden layers.", at_least=1
    )
    num_cross_layers: int = option(1, "Cross layers (DCN-V2) of the candidate encoder.", at_least=0)
    dropout: float = option(0.1, "Dropout rate.", at_least=0, below=1)
    id_dropout: float = option(0.05, _ID_DROPOUT, at_least=0, at_most=1)
    num_positions: int = option(
        50,
        "Number of positions whose effect on clicks is learned, if the log has them, and left out "
        "at serving; later positions count as the last. 0: positions are not used.",
        at_least=0,
    )
    negative_keep_rate: float = option(
        1.0,
        "Share of the unclicked training rows that an epoch keeps, sampled again for each epoch; "
        "scores are exactly corrected for it.",
        above=0,
        at_most=1,
    )
    epochs: int = option(
        8, "Maximum number of epochs over the training requests; sets the schedule.", at_least=1
    )
    patience: int = option(
        2,
        "Epochs without a better validation loss before stopping; more for a small log.",
        at_least=1,
    )
    batch_size: int = option(
        512,
        "Approximate maximum number of impressions in a batch; fewer for a small log. Lists are "
        "kept whole.",
        at_least=1,
    )
    learning_rate: float = option(2e-3, "Peak learning rate of the dense layers (Adam).", above=0)
    embedding_learning_rate: float = option(
        0.4, "Peak learning rate of the embedding tables (Adagrad).", above=0
    )
    average_decay: float = option(
        0.998, "Decay per step of the average of the dense weights.", at_least=0, below=1
    )
    embedding_l2: float = option(
        6e-3, "Squared-norm penalty on the field embeddings used.", at_least=0
    )
    embedding_shrinkage: float = option(
        50.0,
        "After each epoch, the embedding of a value with n training rows is multiplied by "
        "n / (n + this), so that rare values do not memorize rows. 0: never.",
        at_least=0,
    )
    engagement_weight: float = option(
        HEADS["engagement"].loss_weight, "Weight of the engagement loss.", at_least=0
    )
    revenue_weight: float = option(
        HEADS["revenue"].loss_weight, "Weight of the revenue loss.", at_least=0
    )
    seed: int = option(1, "Seed of initialization and shuffling.", **_SEEDS)

    def __post_init__(self) -> None:
        _name_class(self, "ranker")
        check_options(self)

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of each head's loss."""
        return {h: getattr(self, f"{h}_weight", head.loss_weight) for h, head in HEADS.items()}


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation of both stages on the test split."""

    resamples: int = option(
        200,
        "Bootstrap resamples behind each interval; fewer on more than a million rows.",
        at_least=2,
    )
    segment_fields: str = option(
        "",
        "Ad fields whose values are measured as separate segments, separated by commas; empty: two "
        "fields, such as advertiser and category, whose number of values is closest to the square "
        "root of the number of ads.",
    )
    seed: int = option(1, "Seed of the bootstrap resamples.", **_SEEDS)

    def __post_init__(self) -> None:
        check_options(self)


def _name_class(config: Any, name: str) -> None:
    """Replaces a class given as an option by MODULE:CLASS, which can be written as JSON."""
    object.__setattr__(config, name, plugins.reference_to(getattr(config, name)))


def save_config(config: Any, path: pathlib.Path, data: str, source: str | None) -> None:
    """Writes a resolved configuration as JSON into the directory of a training.

    Args:
        config: The configuration.
        path: The file.
        data: `reader.DataSet.training_checksum` of the data set.
        source: Digest of the model's source, from `plugins.Registry.digest`.

    Raises:
        ValueError: The directory has a training run with other options, data or source.
    """
    options = {**dataclasses.asdict(config), "data": data}
    if source is not None:
        options["source"] = source
    try:
        before = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):  # ValueError: an earlier release was killed writing it
        before = {}
    changed = [name for name, value in options.items() if before.get(name, value) != value]
    if changed:
        differences = ", ".join(f"{name} {before[name]}, now {options[name]}" for name in changed)
        raise ValueError(
            f"{path.parent} was trained with other options or data: {differences}. Delete it, or "
            "use another directory."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, options, default=str)


def load_config(kind: type[_Config], path: pathlib.Path) -> _Config:
    """Reads a configuration of this class that `save_config` wrote.

    Raises:
        ValueError: The file has other options, as one of another version does.
    """
    try:
        options = json.loads(path.read_text())
        for name in ("data", "source"):
            options.pop(name, None)
        return kind(**options)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: expected the options of {kind.__name__} in this version of tfrec ({error}). "
            "Train the model again."
        ) from error
