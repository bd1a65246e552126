"""Suggestions for misspelled names."""

import difflib
from collections.abc import Iterable


def suggestion_for(value: str, known: Iterable[str]) -> str:
    """Returns ` Did you mean 'x'?` for the known name closest to `value`, or ""."""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(value.lower(), by_lower, n=1)
    return f" Did you mean {by_lower[found[0]]!r}?" if found else ""
