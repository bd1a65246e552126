"""Which release is stable and which is tried on a share of the requests: `BASE/releases.json`.

    {"format_version": 1, "stable": 3, "canary": {"version": 4, "share": 0.1}, "previous": [2, 1]}

The file is replaced as a whole, so that a promotion is one step for everybody who reads it.
Without it the latest published release is stable. Nothing in it depends on a clock.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from serving import errors
from tfrecords import files

POINTER_FILE = "releases.json"
_FORMAT_VERSION = 1
# A rollback goes back one step; nobody goes back so many.
_MOST_PREVIOUS = 20


@dataclasses.dataclass(frozen=True)
class Pointer:
    """What requests are answered by.

    Attributes:
        stable: Version for all requests but the canary's.
        canary: Version that is tried, or None.
        share: Share of the requests that the canary gets, in [0, 1].
        previous: Versions that were stable before, the last one first.
    """

    stable: int
    canary: int | None = None
    share: float = 0.0
    previous: tuple[int, ...] = ()


def read_pointer(base: pathlib.Path) -> Pointer | None:
    """Returns what the file says, or None where there is none.

    Raises:
        ReleasesFileError: It is not such a file.
    """
    path = base / POINTER_FILE
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _unreadable(path, str(error)) from error
    pointer = _parsed(document)
    if pointer is None:
        raise _unreadable(path, f"it holds {str(document)[:200]}")
    return pointer


def write_pointer(base: pathlib.Path, pointer: Pointer) -> None:
    """Replaces the file in one step; it is on the disk when this returns.

    Raises:
        OSError: It cannot be written; the old one stays.
    """
    canary = None
    if pointer.canary is not None:
        canary = {"version": pointer.canary, "share": pointer.share}
    document = {
        "format_version": _FORMAT_VERSION,
        "stable": pointer.stable,
        "canary": canary,
        "previous": pointer.previous[:_MOST_PREVIOUS],
    }
    files.write_json(base / POINTER_FILE, document, durable=True)


@contextlib.contextmanager
def lock_pointer(path: pathlib.Path, wait_seconds: float, refusal: str) -> Iterator[None]:
    """Keeps other processes from what a lock file stands for.

    Args:
        path: Of the lock file.
        wait_seconds: How long to wait for another process.
        refusal: What is said when that was too short.

    Raises:
        PublishError: Another process has the lock.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(path, wait_seconds))
        except BlockingIOError as error:
            raise errors.PublishError(refusal) from error
        yield


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


def _unreadable(path: pathlib.Path, reason: str) -> errors.ReleasesFileError:
    return errors.ReleasesFileError(
        f"{path} cannot be used ({reason}); expected format_version {_FORMAT_VERSION}, stable, "
        "canary and previous. Write it anew with tfrec release --action=promote --version=N, "
        "or remove it: the latest release is then stable."
    )
