"""Checks optional dependencies and says what to install if one is missing."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def require_extra(extra: str) -> Iterator[None]:
    """Exits with the command that installs an extra if an import in the block fails.

    Args:
        extra: Name of the extra of this distribution.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        sys.exit(
            f"error: This command needs {error.name}, which is not installed. Install the extra "
            f"{extra!r}: {sys.executable} -m pip install -c constraints.txt -e '.[{extra}]'"
        )
