"""Texts that are numbers, and those that stand for a missing one."""

import re

import numpy as np

# What stands for a missing number; a missing string is empty.
MISSING = (
    "", "NA", "N/A", "n/a", "NaN", "nan", "NAN", "NULL", "null", "None", "none", "-", "\\N",
)  # fmt: skip
# With blanks, of any width that a column may have.
NULLS = (*MISSING, *(" " * width for width in range(1, 33)))
# Beside `MISSING`; Arrow reads it as a number that is none.
_NAN = re.compile(r"[+-]?nan", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def is_missing(text: str) -> bool:
    """Returns whether a text stands for a missing number, as Arrow reads it; blanks do."""
    return text in MISSING or not text.strip(" ") or _NAN.fullmatch(text) is not None


def fault(name: str, value: str) -> str | None:
    """Returns what is wrong with a number as text, or None."""
    # Spaces around a number are allowed, as Arrow allows them.
    text = value.strip(" ")
    if is_missing(value) or (_NUMBER.fullmatch(text) and np.isfinite(float(text))):
        return None
    return f"{name} must be a finite number or empty, got {value[:40]!r}"
