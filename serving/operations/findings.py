"""What tfrec doctor finds: of each check whether it holds, and if not, what to do."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from serving import errors


@dataclasses.dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: What was looked at.
        status: `ok`, `failed`, or `skipped` where it could not be looked at.
        found: What came.
        expected: What should have come, where it failed.
        remedy: What to do then.
    """

    check: str
    status: str
    found: str
    expected: str = ""
    remedy: str = ""


class WrongError(Exception):
    """A check does not hold."""

    def __init__(self, expected: str, found: str, remedy: str) -> None:
        super().__init__(found)
        self.expected = expected
        self.found = found
        self.remedy = remedy


class SkippedError(Exception):
    """A check cannot be made; the message says why."""


def finding_of(check: str, look: Callable[[], str]) -> Finding:
    """Makes a check.

    Args:
        check: What it looks at.
        look: Returns what was found right, or raises.
    """
    try:
        return Finding(check, "ok", look())
    except WrongError as error:
        return Finding(check, "failed", error.found, error.expected, error.remedy)
    except SkippedError as error:
        return Finding(check, "skipped", str(error))
    except (errors.ServingError, OSError, ValueError) as error:
        # These say themselves what was expected and what to do.
        return Finding(check, "failed", str(error))


def findings_as_text(findings: Sequence[Finding]) -> str:
    """Returns a few lines for people."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:8}{finding.check}: {finding.found}")
        if finding.expected:
            lines.append(f"{'':8}  expected: {finding.expected}")
        if finding.remedy:
            lines.append(f"{'':8}  to do: {finding.remedy}")
    counts = {status: sum(f.status == status for f in findings) for status in _STATUSES}
    lines.append(", ".join(f"{count} {status}" for status, count in counts.items() if count))
    return "\n".join(lines)


def findings_as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Returns the document of --json."""
    return {
        "ok": not any_failed(findings),
        "checks": [dataclasses.asdict(finding) for finding in findings],
    }


def any_failed(findings: Sequence[Finding]) -> bool:
    """Returns whether a check failed."""
    return any(finding.status == "failed" for finding in findings)


_STATUSES = ("ok", "failed", "skipped")
