"""The stable release and the canary: `BASE/releases.json`.

    {"format_version": 1, "stable": 3, "canary": {"version": 4, "share": 0.1}, "previous": [2, 1]}

The file is replaced atomically, so that readers see a promotion as one step. Without the file,
the latest published release is stable. It contains no timestamps.
"""

import dataclasses
import json
import pathlib
from typing import Any

from serving import errors
from tfrecords import files

POINTER_FILE = "releases.json"
_FORMAT_VERSION = 1
# Number of rollbacks in a row that are possible.
_MAX_PREVIOUS = 20


@dataclasses.dataclass(frozen=True)
class Pointer:
    """Content of `releases.json`: the releases that serve requests.

    Attributes:
        stable: Version that serves all requests but the canary's.
        canary: Version of the canary, or None.
        share: Share of the requests that the canary serves, in [0, 1].
        previous: Versions that were stable before, most recent first.
    """

    stable: int
    canary: int | None = None
    share: float = 0.0
    previous: tuple[int, ...] = ()


def read_pointer(base: pathlib.Path) -> Pointer | None:
    """Reads `releases.json`; returns None if it does not exist.

    Raises:
        ReleasesFileError: The content is invalid.
    """
    path = base / POINTER_FILE
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _invalid(path, str(error)) from error
    pointer = _parsed(document)
    if pointer is None:
        raise _invalid(path, f"it contains {str(document)[:200]}")
    return pointer


def write_pointer(base: pathlib.Path, pointer: Pointer) -> None:
    """Replaces `releases.json` atomically and durably."""
    canary = None
    if pointer.canary is not None:
        canary = {"version": pointer.canary, "share": pointer.share}
    document = {
        "format_version": _FORMAT_VERSION,
        "stable": pointer.stable,
        "canary": canary,
        "previous": list(pointer.previous[:_MAX_PREVIOUS]),
    }
    path = base / POINTER_FILE
    try:
        files.write_json(path, document, durable=True)
    except OSError as error:
        raise errors.PublishError(
            f"{path} cannot be written durably ({error}). Check the directory and the space on its "
            "disk, look at the file, and try again."
        ) from error


def _parsed(document: Any) -> Pointer | None:
    match document:
        case {
            "format_version": 1,
            "stable": int(stable),
            "canary": None | {"version": int(), "share": int() | float()} as canary,
            "previous": list(previous),
        } if all(isinstance(version, int) for version in previous):
            pointer = Pointer(stable, previous=tuple(previous))
            if canary is None:
                return pointer
            if canary["version"] != stable and 0 <= canary["share"] <= 1:
                return dataclasses.replace(
                    pointer, canary=canary["version"], share=float(canary["share"])
                )
    return None


def _invalid(path: pathlib.Path, reason: str) -> errors.ReleasesFileError:
    return errors.ReleasesFileError(
        f"{path} is invalid ({reason}); expected format_version {_FORMAT_VERSION}, stable, canary "
        "and previous. Rewrite it with tfrec release --action=promote --version=N, or remove it "
        "to make the latest release stable."
    )
