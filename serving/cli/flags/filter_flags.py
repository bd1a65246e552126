"""The flag for filters of eligible ads."""

from typing import Any

from absl import flags

from serving.cli import command_line

flags.DEFINE_string(
    "filters",
    None,
    "Filters for requests without any: a JSON object such as "
    '{"conditions": [{"field": "price", "at_most": 9}]}, or a file with one.',
)
FLAGS = flags.FLAGS


def filters() -> dict[str, Any] | None:
    """Returns the filters of the flag, or None.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The value is not a JSON object.
    """
    return command_line.json_of_flag("filters")
