"""Logs for proposed schemas, and checks of proposals and refusals."""

import contextlib
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from tfrecords import schema


def write_json(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> pathlib.Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sides(proposal: dict[str, Any]) -> dict[str, str]:
    """Checks a proposal, and returns the side of each field."""
    schema.schema_from_json(proposal)
    return {field["name"]: field["side"] for field in proposal["fields"]}


def follow(
    refused: pytest.ExceptionInfo[ValueError], folder: pathlib.Path, name: str
) -> pathlib.Path:
    """Runs the pandas code in an error message, and returns the log that it writes."""
    program = str(refused.value).partition("with pandas:\n")[2].partition("\nThe ad is then")[0]
    with contextlib.chdir(folder):
        exec(program, {})
    return folder / name
