"""Files of a data set: checksums, JSON, and Arrow tables, which are memory-mapped."""

import json
import pathlib
from collections.abc import Sequence
from concurrent import futures
from typing import Any

import pyarrow as pa

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
    """Verifies files on all cores; raises the same errors as `check_file`."""
    with futures.ThreadPoolExecutor() as pool:
        list(pool.map(check_file, paths, sha256))


def write_arrow(table: pa.Table, path: pathlib.Path) -> None:
    """Writes a table without compression, so that it can be memory-mapped."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def read_arrow(path: pathlib.Path) -> pa.Table:
    """Reads a table without copying it.

    Raises:
        FileNotFoundError: The file does not exist.
    """
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()
