"""The splits of a data set, and the options that say how a log is split."""

import dataclasses

from tfrecords import terminal

SPLITS = ("train", "validation", "test")
SPLIT_KINDS = (
    "auto",
    "order",
    "time",
    "fraction",
    "column",
    "file",
    "leave_last_out",
    "leave_fraction_out",
    "leave_random_fraction_out",
)


@dataclasses.dataclass(frozen=True)
class SplitOptions:
    """The options of a split.

    Attributes:
        kind: One of `SPLIT_KINDS`; `auto` is the first of file, column, time and order that the
            log allows.
        validation_fraction: Share of the validation split, before the test split.
        test_fraction: Share of the test split, at the end.
        seed: Seed of random choices.

    Raises:
        ValueError: An option is not allowed.
    """

    kind: str = "auto"
    validation_fraction: float = 0.1
    test_fraction: float = 0.1
    seed: int = 1

    def __post_init__(self) -> None:
        if self.kind not in SPLIT_KINDS:
            raise ValueError(
                f"split: expected one of {', '.join(SPLIT_KINDS)}, got {self.kind!r}."
                f"{terminal.suggestion_for(self.kind, SPLIT_KINDS)}"
            )
        if self.seed < 0:
            raise ValueError(f"seed: expected 0 or more, got {self.seed}.")
        shares = (self.validation_fraction, self.test_fraction)
        if not (min(shares) > 0 and sum(shares) < 1):
            raise ValueError(
                "validation_fraction and test_fraction: expected positive shares with a sum below "
                f"1, got {shares[0]} and {shares[1]}."
            )
