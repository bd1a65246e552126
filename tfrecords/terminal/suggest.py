"""What may have been meant by a misspelt name."""

import difflib
from collections.abc import Iterable


def suggestion_for(value: str, known: Iterable[str]) -> str:
    """Returns ` Did you mean 'x'?` for the known name that `value` is nearly, or nothing."""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(value.lower(), by_lower, n=1)
    return f" Did you mean {by_lower[found[0]]!r}?" if found else ""
