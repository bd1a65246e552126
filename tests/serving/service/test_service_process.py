"""A process of the service."""

import logging
import re

import pytest

from serving import service


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
