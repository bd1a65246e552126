"""Validates and converts the Arrow columns of a log."""

from tfrecords.columns.arrow import (
    as_strings,
    distinct,
    filtered_lists,
    is_text,
    recode,
)
from tfrecords.columns.checks import (
    TRUTHS,
    RowFaults,
    checked_labels,
    checked_numbers,
    checked_positions,
    checked_splits,
    checked_times,
    checked_truths,
    parse_times,
)
from tfrecords.columns.codes import (
    KeyIndex,
    Strings,
    as_lists,
    coded_keys,
    coded_lists,
    coded_strings,
    last_rows,
    smallest_codes,
    with_fingerprints,
)
from tfrecords.columns.placeholders import (
    MISSING_NUMBERS,
    NULLS,
    is_missing_number,
    number_fault,
    without_placeholders,
)
from tfrecords.columns.time_units import UNITS_PER_SECOND, unit_of_times, units_per_second
from tfrecords.columns.vectors import checked_vectors, decoded_vectors, vector_array

__all__ = [
    "MISSING_NUMBERS",
    "NULLS",
    "TRUTHS",
    "UNITS_PER_SECOND",
    "KeyIndex",
    "RowFaults",
    "Strings",
    "as_lists",
    "as_strings",
    "checked_labels",
    "checked_numbers",
    "checked_positions",
    "checked_splits",
    "checked_times",
    "checked_truths",
    "checked_vectors",
    "coded_keys",
    "coded_lists",
    "coded_strings",
    "decoded_vectors",
    "distinct",
    "filtered_lists",
    "is_missing_number",
    "is_text",
    "last_rows",
    "number_fault",
    "parse_times",
    "recode",
    "smallest_codes",
    "unit_of_times",
    "units_per_second",
    "vector_array",
    "with_fingerprints",
    "without_placeholders",
]
