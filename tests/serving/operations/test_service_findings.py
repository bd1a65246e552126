"""Checks of a running service, against one that says what it is told."""

import pytest

from serving.operations import findings, service_findings


class _Service:
    def __init__(self, **parts):
        self._parts = parts

    def bundle(self):
        return self._parts


def test_problems_that_a_service_reports_are_found(tiny_bundle):
    check = service_findings.ServiceCheck("http://127.0.0.1:1", tiny_bundle, 1.0, None, None)
    check.close()
    # Services of earlier releases have no user_store here.
    check._client = _Service(live={"problem": None}, impression_log=None)
    assert check._problems() == "none of its live updates, user store and impression log"
    check._client = _Service(
        live={"problem": "A."}, impression_log={"problem": "B."}, user_store={"problem": None}
    )
    with pytest.raises(findings.WrongError, match=r"A\. B\."):
        check._problems()
