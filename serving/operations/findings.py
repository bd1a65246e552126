"""The results of tfrec doctor: whether each check passed, and otherwise what to do."""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from serving import errors


@dataclasses.dataclass(frozen=True)
class DoctorFinding:
    """The result of one check.

    Attributes:
        check: Name of the check.
        status: `ok`, `failed`, or `skipped` if it could not be checked.
        found: The result.
        expected: The expected result; empty unless the check failed.
        remedy: What to do; empty unless the check failed.
    """

    check: str
    status: str
    found: str
    expected: str = ""
    remedy: str = ""


class WrongError(Exception):
    """A check failed.

    Args:
        expected: The expected result.
        found: The actual result.
        remedy: What to do.
    """

    def __init__(self, expected: str, found: str, remedy: str) -> None:
        super().__init__(found)
        self.expected = expected
        self.found = found
        self.remedy = remedy


class SkippedError(Exception):
    """A check cannot be run; the message says why."""


def finding_of(check: str, run: Callable[[], str]) -> DoctorFinding:
    """Runs a check: `run` returns what was found, or raises if the check fails."""
    try:
        return DoctorFinding(check, "ok", run())
    except WrongError as error:
        return DoctorFinding(check, "failed", error.found, error.expected, error.remedy)
    except SkippedError as error:
        return DoctorFinding(check, "skipped", str(error))
    except (errors.ServingError, OSError, ValueError) as error:
        # The message of such an error says what was expected and what to do.
        return DoctorFinding(check, "failed", str(error))


def finding_as_text(finding: DoctorFinding) -> str:
    """Returns a finding as lines of text."""
    lines = [f"{finding.status:8}{finding.check}: {finding.found}"]
    if finding.expected:
        lines.append(f"{'':8}  expected: {finding.expected}")
    if finding.remedy:
        lines.append(f"{'':8}  to do: {finding.remedy}")
    return "\n".join(lines)


def summary(findings: Sequence[DoctorFinding]) -> str:
    """Returns how many checks passed, failed and were skipped."""
    counts = collections.Counter(finding.status for finding in findings)
    statuses = ("ok", "failed", "skipped")
    return ", ".join(f"{counts[status]} {status}" for status in statuses if counts[status])


def findings_as_json(findings: Sequence[DoctorFinding]) -> dict[str, Any]:
    """Returns the findings as the JSON that tfrec doctor --json prints."""
    return {
        "ok": not any_failed(findings),
        "checks": [dataclasses.asdict(finding) for finding in findings],
    }


def any_failed(findings: Sequence[DoctorFinding]) -> bool:
    """Returns whether any check failed."""
    return any(finding.status == "failed" for finding in findings)
