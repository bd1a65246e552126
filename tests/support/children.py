"""Processes that a test starts."""

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any


@contextlib.contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen]:
    """Starts a process; killed at the end where it still runs.

    A plain `with subprocess.Popen(...)` waits for a process that a failed test leaves behind, for
    ever.
    """
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
