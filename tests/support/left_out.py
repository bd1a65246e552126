"""Prints at the end of a run which tests were skipped and what they need.

With --fail-on-skip, as in CI, a run that left out a test fails. Tests marked `engines` do not
count: `make test-engines` runs them.
"""

import collections

import pytest

_ENGINES = "make test-engines"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fail-on-skip", action="store_true", help="a skipped test fails the run")
    parser.addoption("--engines", action="store_true", help="run the tests marked engines too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("engines"):
        for item in items:
            if item.get_closest_marker("engines"):
                item.add_marker(pytest.mark.skip(reason=_ENGINES))


def _left_out(config: pytest.Config) -> dict[tuple[str, str], set[str]]:
    """Returns (file, reason) -> the tests that were skipped, or the file itself."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    found = collections.defaultdict(set)
    for report in terminal.stats.get("skipped", []):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        found[report.nodeid.split("::")[0], reason].add(report.nodeid)
    return found


def pytest_sessionfinish(session: pytest.Session) -> None:
    is_strict = session.config.getoption("fail_on_skip") and not hasattr(
        session.config, "workerinput"
    )
    if is_strict and any(reason != _ENGINES for _, reason in _left_out(session.config)):
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    parts = [
        f"{file} ({reason})" if nodes == {file} else f"{len(nodes)} of {file} ({reason})"
        for (file, reason), nodes in sorted(_left_out(terminalreporter.config).items())
    ]
    terminalreporter.write_line(f"left out: {', '.join(parts) or 'nothing'}")
