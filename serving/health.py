"""What is wrong with a running service, part by part."""

import logging
import threading
from collections.abc import Callable

_logger = logging.getLogger(__name__)


class Health:
    """The current problem of each part, such as `ranker` or `user store`. Thread-safe.

    A problem is logged once, and so is its end.

    Args:
        observe: Called with the part and whether it has a problem, after each change.
    """

    def __init__(
        self, observe: Callable[[str, bool], None] = lambda part, has_problem: None
    ) -> None:
        self._observe = observe
        # Part and release, which is None for a part of the process.
        self._problems: dict[tuple[str, int | None], Exception | str] = {}
        self._lock = threading.Lock()

    @property
    def problems(self) -> dict[str, str]:
        """Part -> why it does not work as it should."""
        with self._lock:
            known = sorted(self._problems.items(), key=str)
        found: dict[str, str] = {}
        for (part, _), problem in known:
            found[part] = f"{found[part]} {problem}" if part in found else str(problem)
        return found

    def problem(self, part: str, release: int | None = None) -> str | None:
        """Returns the problem of a part, or None."""
        found = self._problems.get((part, release))
        return None if found is None else str(found)

    def set(self, part: str, problem: Exception | str | None, release: int | None = None) -> None:
        """Records the problem of a part. None: it works.

        Args:
            part: The part, from a small fixed set.
            problem: What is wrong. Of exceptions of one class in a row, the first is logged.
            release: Version of the release that the part belongs to. None: the process.
        """
        with self._lock:
            before = self._problems.pop((part, release), None)
            if problem is not None:
                self._problems[part, release] = problem
            has_problem = any(known == part for known, _ in self._problems)
        if _kind(problem) == _kind(before):
            return
        if problem is not None:
            _logger.error("%s: %s", part, problem)
        else:
            _logger.warning("%s: works again.", part)
        self._observe(part, has_problem)


def _kind(problem: Exception | str | None) -> object:
    return type(problem) if isinstance(problem, Exception) else problem
