"""Processes that a test starts."""

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any


@contextlib.contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen]:
    """Starts a process, which is killed at the end if it still runs.

    A plain `with subprocess.Popen(...)` would wait forever for a process that a failed test leaves
    behind.
    """
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
