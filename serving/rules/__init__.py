"""Business rules of an answer: caps, diversity and exploration, and their explanations."""

from serving.rules.explaining import explain_ads, explain_answer, explain_shortage
from serving.rules.field_values import FieldValues
from serving.rules.selection import Selection, select_best, select_with_rules

__all__ = [
    "FieldValues",
    "Selection",
    "explain_ads",
    "explain_answer",
    "explain_shortage",
    "select_best",
    "select_with_rules",
]
