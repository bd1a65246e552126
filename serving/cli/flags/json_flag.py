"""Reads flags whose value is a JSON object, or a file with one."""

import json
import pathlib
from typing import Any

from absl import flags

from serving.cli import command_line


def value(name: str) -> dict[str, Any] | None:
    """Returns the JSON object that a flag gives, or None where it is not set.

    Raises:
        FileNotFoundError: It names a file that is not there.
        ValueError: It is no JSON object.
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
            f"--{name}: expected a JSON object or a file with one, got no JSON ({error})."
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"--{name}: expected a JSON object, got {found!r}.")
    return found
