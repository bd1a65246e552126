"""Verifies files by their checksums."""

import json
import pathlib
from collections.abc import Sequence
from concurrent import futures
from typing import Any

from tfrecords import files


def check_file(path: pathlib.Path, sha256: str) -> None:
    """Verifies a file's checksum.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file has another checksum.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; convert the log again.")
    found = files.sha256(path)
    if found != sha256:
        raise ValueError(
            f"{path} is damaged: its checksum is {found[:16]}…; expected {sha256[:16]}…. Copy it "
            "again, or convert the log again."
        )


def read_json(path: pathlib.Path) -> Any:
    """Reads a JSON file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; convert the log again.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}). Copy it again, or convert the log again."
        ) from error


def check_files(paths: Sequence[pathlib.Path], sha256: Sequence[str]) -> None:
    """Verifies files on all cores; errors as `check_file`."""
    with futures.ThreadPoolExecutor() as pool:
        list(pool.map(check_file, paths, sha256))
