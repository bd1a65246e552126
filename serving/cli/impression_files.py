"""Finds the files of an impression log, or of a log of events, given by a flag."""

import pathlib

from serving import impressions
from tfrecords import formats


def find(flag: str, value: str) -> list[pathlib.Path]:
    """Returns the files of an impression log, the oldest first.

    Args:
        flag: Name of the flag, for error messages.
        value: Directory of the log, or its files, comma-separated or as a pattern.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The directory has compressed or renamed files of the log.
    """
    hint = "tfrec serve --impression_log writes the first one a minute after the first answer."
    return _find(flag, value, impressions.FILE_PATTERN, hint)


def find_events(flag: str, value: str) -> list[pathlib.Path]:
    """Returns the files of a log of events; see `find`."""
    hint = "Name the directory of the events that a service logged, or files of events."
    return _find(flag, value, impressions.FEEDBACK_PATTERN, hint)


def _find(flag: str, value: str, pattern: str, hint: str) -> list[pathlib.Path]:
    directory = pathlib.Path(value)
    if not directory.is_dir():
        found = list(formats.expand_paths(value))
        missing = [path for path in found if not path.exists()]
        if missing:
            raise FileNotFoundError(f"--{flag}: {missing[0]} does not exist. {hint}")
        return found
    found = _files_in(directory, pattern)
    if not found:
        raise FileNotFoundError(f"--{flag}: {directory} has no file {pattern}. {hint}")
    return found


def _files_in(directory: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    # Without the events of a rotated file, for example, its impressions would not be clicked.
    rotated = sorted(directory.glob(f"{pattern}?*"))
    if rotated:
        raise ValueError(
            f"{rotated[0]} is renamed or compressed; expected files {pattern}, as the service "
            "writes them. Restore such files, or move them to another directory to leave them out."
        )
    return sorted(directory.glob(pattern))
