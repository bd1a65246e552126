"""Expands paths, patterns and directories to files, and describes them for messages."""

import glob
import os
import pathlib
import re
from collections.abc import Iterable


def expand_paths(text: str | None) -> tuple[pathlib.Path, ...]:
    """Returns the files that a flag names.

    Args:
        text: Paths or patterns (`day_*.gz`), separated by commas, or a directory with the files
            `day_0`, `day_1`, … of the Criteo 1 TB log. None: no files.

    Returns:
        The files in the given order. Files of a pattern are sorted by name, with numbers in
        numeric order, and files of 0 bytes, which Spark writes for empty partitions, are left out.
        Other directories are returned unchanged, for the format to interpret.

    Raises:
        FileNotFoundError: No file matches a pattern.
        ValueError: The text has only commas or spaces.
    """
    paths: list[pathlib.Path] = []
    for part in (text or "").split(","):
        if not part.strip():
            continue
        path = pathlib.Path(part.strip()).expanduser()
        if path.is_dir():
            paths += _naturally(path.glob("day_*")) or [path]
        elif path.exists() or not glob.has_magic(str(path)):
            paths.append(path)
        else:
            found = _naturally(map(pathlib.Path, glob.glob(str(path))))
            if not found:
                raise FileNotFoundError(f"No file matches {path}; check the path.")
            paths += [path for path in found if path.stat().st_size] or found
    if text and not paths:
        raise ValueError(f"expected one or more paths, separated by commas, got {text!r}.")
    return tuple(paths)


def pattern_of(directory: pathlib.Path) -> str:
    """Returns a pattern for the files in a directory, such as `hive/*/*.parquet`.

    Args:
        directory: The directory; names that begin with `.` or `_`, such as `_SUCCESS`, are skipped.
    """
    for root, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if name[0] not in "._")
        for name in sorted(name for name in names if name[0] not in "._"):
            depth = len(pathlib.Path(root).relative_to(directory).parts)
            kinds = pathlib.Path(name).suffixes[-2 if name.endswith(".gz") else -1 :]
            return str(pathlib.Path(directory, *["*"] * depth, f"*{''.join(kinds)}"))
    return f"{directory}/*.csv"


def _naturally(paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """Sorts files by name, with numbers in numeric order: day_2 before day_10."""
    return sorted(
        (p for p in paths if p.is_file()),
        key=lambda p: [int(t) if t.isdecimal() else t for t in re.split(r"(\d+)", str(p))],
    )
