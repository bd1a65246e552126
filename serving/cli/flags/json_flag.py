"""Reads flags whose value is a JSON object or a file with one."""

import json
import pathlib
from typing import Any

from absl import flags

from serving.cli import command_line


def value(name: str) -> dict[str, Any] | None:
    """Returns the JSON object of a flag, or None if the flag is not set.

    Args:
        name: Name of the flag.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The value is not a JSON object.
    """
    text = flags.FLAGS[name].value
    if text is None:
        return None
    if not text.lstrip().startswith("{"):
        text = command_line.read_text(pathlib.Path(text))
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"--{name}: expected a JSON object or a file with one, got invalid JSON ({error})."
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"--{name}: expected a JSON object, got {found!r}.")
    return found
