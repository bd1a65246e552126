"""Says what to install where an optional dependency of a script is not there."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def require_extra(extra: str) -> Iterator[None]:
    """Imports made inside are of packages that an extra of this distribution brings.

    A missing one ends the process with exit status 1 and the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        sys.exit(
            f"error: this needs {error.name}, which is not installed. Install the extra "
            f"{extra!r}: {sys.executable} -m pip install -c constraints.txt -e '.[{extra}]'"
        )
