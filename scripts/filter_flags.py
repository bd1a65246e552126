"""The flag that says which ads are eligible."""

import json
import pathlib
from typing import Any

import command_line
from absl import flags

flags.DEFINE_string(
    "filters",
    None,
    "Which ads are eligible, where the request does not say: a JSON object such as "
    '{"conditions": [{"field": "price", "at_most": 9}]}, or a file with one.',
)
FLAGS = flags.FLAGS


def filters() -> dict[str, Any] | None:
    """Returns the filters that the flag asks for.

    Raises:
        ValueError: It is no JSON object.
    """
    if FLAGS.filters is None:
        return None
    text = FLAGS.filters
    if not text.lstrip().startswith("{"):
        text = command_line.read_text(pathlib.Path(text))
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"--filters: expected a JSON object or a file with one, got no JSON ({error})."
        ) from error
    if not isinstance(value, dict):
        raise ValueError(f"--filters: expected a JSON object, got {value!r}.")
    return value
