"""A process of the service."""

import logging
import re

import clocks
import pytest

from serving import service
from serving.ranker import verified_ranker
from serving.service import http_server, log_format


@pytest.fixture
def root():
    logger = logging.getLogger()
    before = logger.level
    yield logger
    logger.setLevel(before)


def test_text_logs_include_warnings(root):
    # The level of all commands.
    root.setLevel(logging.ERROR)
    service.prepare_logs(json_logs=False)
    assert root.isEnabledFor(logging.WARNING)


def test_log_lines_of_a_spawned_process_have_the_time(root, monkeypatch, capsys):
    # As in a spawned process, where logging is not configured.
    monkeypatch.setattr(root, "handlers", [])
    service.prepare_logs(json_logs=False)
    logging.warning("The user store can be used again.")
    # W1201 01:27:48.716156 139892914906816 user_data.py:294] The user store …
    expected = r"W\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ .*\] The user store can be used again\.\n"
    printed = capsys.readouterr().err
    assert re.fullmatch(expected, printed), printed


def test_a_line_of_code_logs_once_a_second_with_the_number_of_suppressed_records():
    clock = clocks.Clock()
    limited = log_format.OncePerSecond(clock)

    def passed(line, *arguments):
        record = logging.LogRecord("n", logging.WARNING, "file.py", line, "%s", arguments, None)
        return record.getMessage() if limited.filter(record) else None

    assert [passed(1, "a"), passed(1, "b"), passed(2, "c"), passed(1, "d")] == [
        *("a", None, "c", None)
    ]
    clock.advance(1)
    assert passed(1, "e") == "e (2 more since the last such message)"
    clock.advance(1)
    assert passed(1, "f") == "f"


def test_late_ranker_calls_are_rate_limited():
    assert verified_ranker.__name__ in http_server._LOUD_LOGGERS
