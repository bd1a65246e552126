"""Comparisons of a query's fields with an ad's, and the fields worth comparing."""

from tfrec.layers.comparisons.comparison import Comparisons
from tfrec.layers.comparisons.field_pairs import find_comparisons
from tfrec.layers.comparisons.pair_rates import (
    LabeledRows,
    PairRates,
    find_pair_rates,
    pair_rates_of,
)
from tfrec.layers.comparisons.values import FieldPair

__all__ = [
    "Comparisons",
    "FieldPair",
    "LabeledRows",
    "PairRates",
    "find_comparisons",
    "find_pair_rates",
    "pair_rates_of",
]
