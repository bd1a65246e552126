"""Finds the files of an impression log that a flag names."""

import pathlib

from serving import impressions
from tfrecords import formats


def find(flag: str, place: str) -> list[pathlib.Path]:
    """Returns the files, the oldest first.

    Args:
        flag: Its name, for messages.
        place: The log's directory, or files of it with commas or as a pattern.

    Raises:
        FileNotFoundError: There are none.
    """
    directory = pathlib.Path(place)
    if not directory.is_dir():
        return list(formats.expand_paths(place))
    found = sorted(directory.glob(impressions.FILE_PATTERN))
    if not found:
        raise FileNotFoundError(
            f"--{flag}: no file {impressions.FILE_PATTERN} in {directory}. "
            "tfrec serve --impression_log writes them, a minute after the first answer."
        )
    return found
