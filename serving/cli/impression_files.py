"""Finds the files of an impression log given by a flag."""

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
    directory = pathlib.Path(value)
    if not directory.is_dir():
        return list(formats.expand_paths(value))
    found = sorted(directory.glob(impressions.FILE_PATTERN))
    if not found:
        raise FileNotFoundError(
            f"--{flag}: {directory} has no file {impressions.FILE_PATTERN}. "
            "tfrec serve --impression_log writes the first one a minute after the first answer."
        )
    return found
