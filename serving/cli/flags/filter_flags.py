"""The flag that says which ads are eligible."""

from typing import Any

from absl import flags

from serving.cli.flags import json_flag

flags.DEFINE_string(
    "filters",
    None,
    "Eligible ads of requests that do not say: a JSON object such as "
    '{"conditions": [{"field": "price", "at_most": 9}]}, or a file with one.',
)
FLAGS = flags.FLAGS


def filters() -> dict[str, Any] | None:
    """Returns the filters that the flag asks for.

    Raises:
        FileNotFoundError, ValueError: As `json_flag.value`.
    """
    return json_flag.value("filters")
