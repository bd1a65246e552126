"""Texts that are numbers, and those that stand for a missing one."""

import re

import numpy as np

# What stands for a missing number; a missing string is empty.
MISSING_NUMBERS = (
    "", "NA", "N/A", "n/a", "NaN", "nan", "NAN", "NULL", "null", "None", "none", "-", "\\N",
)  # fmt: skip
# With blanks, of any width that a column may have.
NULLS = (*MISSING_NUMBERS, *(" " * width for width in range(1, 33)))
# Beside `MISSING_NUMBERS`; Arrow reads it as a number that is none.
_NAN = re.compile(r"[+-]?nan", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def is_missing_number(text: str) -> bool:
    """Returns whether a text stands for a missing number, as Arrow reads it; blanks do."""
    return text in MISSING_NUMBERS or not text.strip(" ") or _NAN.fullmatch(text) is not None


def number_fault(name: str, value: str) -> str | None:
    """Returns what is wrong with a number as text, or None."""
    # Spaces around a number are allowed, as Arrow allows them.
    text = value.strip(" ")
    if is_missing_number(value) or (_NUMBER.fullmatch(text) and np.isfinite(float(text))):
        return None
    return f"{name} must be a finite number or empty, got {value[:40]!r}"
