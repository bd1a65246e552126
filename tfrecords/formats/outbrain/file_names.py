"""Finds the files of Outbrain's log."""

import dataclasses
import pathlib
from collections.abc import Mapping

from tfrecords.formats import protocol
from tfrecords.formats.outbrain import columns_of_tables

_OTHERS = (
    columns_of_tables.EVENTS,
    columns_of_tables.PROMOTED,
    *dict.fromkeys(columns_of_tables.OF_DOCUMENT.values()),
)


def resolve(files: protocol.Files) -> tuple[protocol.Files, Mapping[str, pathlib.Path]]:
    """Finds the files of a log.

    Args:
        files: The log is the directory or clicks_train.csv; a table of ads replaces
            promoted_content.csv.

    Returns:
        The files of rows, and the other existing files by name.

    Raises:
        FileNotFoundError: The file of clicks does not exist.
    """
    resolved = dataclasses.replace(
        files,
        log=tuple(_clicks(path, "clicks_train.csv") for path in files.log),
        test=tuple(_clicks(path, "clicks_test.csv") for path in files.test),
    )
    directory = resolved.log[0].parent
    found = {n: _find(directory, n) for n in _OTHERS}
    paths = {name: path for name, path in found.items() if path is not None}
    if files.ads is not None:
        paths[columns_of_tables.PROMOTED] = files.ads
    return resolved, paths


def _clicks(path: pathlib.Path, name: str) -> pathlib.Path:
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"No log at {path}; check the path.")
        return path
    found = _find(path, name)
    if found is None:
        raise FileNotFoundError(not_there(path, name))
    return found


def _find(directory: pathlib.Path, name: str) -> pathlib.Path | None:
    candidates = (directory / name, directory / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def not_there(directory: pathlib.Path, name: str) -> str:
    """Returns the message about a missing file."""
    zipped = (directory / f"{name}.zip").is_file()
    todo = f"unzip {name}.zip" if zipped else "download it from Kaggle's outbrain-click-prediction"
    return f"{directory} has neither {name} nor {name}.gz; {todo}."
