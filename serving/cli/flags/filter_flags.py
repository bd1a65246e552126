"""The flag for filters of eligible ads."""

from absl import flags

flags.DEFINE_string(
    "filters",
    None,
    "Filters for requests without any: a JSON object such as "
    '{"conditions": [{"field": "price", "at_most": 9}]}, or a file with one.',
)
