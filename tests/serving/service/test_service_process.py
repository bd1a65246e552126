"""A process of the service."""

import logging

import pytest

from serving import service


@pytest.fixture
def root():
    logger = logging.getLogger()
    before = logger.level
    yield logger
    logger.setLevel(before)


def test_warnings_are_logged_as_text_too(root):
    # The level of all commands.
    root.setLevel(logging.ERROR)
    service.prepare_logs(json_logs=False)
    assert root.isEnabledFor(logging.WARNING)
