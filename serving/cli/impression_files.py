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
    """
    hint = "tfrec serve --impression_log writes the first one a minute after the first answer."
    return _find(flag, value, impressions.FILE_PATTERN, hint)


def find_events(flag: str, value: str) -> list[pathlib.Path]:
    """Returns the files of a log of events.

    Args:
        flag: Name of the flag, for error messages.
        value: Directory of the log, or its files, comma-separated or as a pattern.

    Raises:
        FileNotFoundError: There is no such file.
    """
    hint = "Name the directory of the events that a service logged, or files of events."
    return _find(flag, value, impressions.FEEDBACK_PATTERN, hint)


def _find(flag: str, value: str, pattern: str, hint: str) -> list[pathlib.Path]:
    directory = pathlib.Path(value)
    if not directory.is_dir():
        return list(formats.expand_paths(value))
    found = sorted(directory.glob(pattern))
    if not found:
        raise FileNotFoundError(f"--{flag}: {directory} has no file {pattern}. {hint}")
    return found
