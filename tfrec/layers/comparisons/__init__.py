"""Comparisons of a query's fields with an ad's, and the fields worth comparing."""

from tfrec.layers.comparisons.comparison import Comparisons
from tfrec.layers.comparisons.field_pairs import find_comparisons
from tfrec.layers.comparisons.repeated_clicks import RepeatedClicks
from tfrec.layers.comparisons.values import FieldPair

__all__ = ["Comparisons", "FieldPair", "RepeatedClicks", "find_comparisons"]
