"""The log of events that users give to answers."""

import shutil

import pytest

from serving import errors, impressions, requests

EVENT = requests.Event(event_id="e", user_id="u", ad_id="a", event="click", time=1.0)


def test_a_failure_is_a_problem_for_a_minute_if_no_events_follow(tmp_path):
    now, observed = 100.0, []
    log = impressions.FeedbackLog(
        tmp_path / "log", clock=lambda: now, observe_problem=observed.append
    )
    shutil.rmtree(tmp_path / "log")
    with pytest.raises(errors.ImpressionLogError, match="cannot be written"):
        log.append([EVENT])
    now = 160.0
    assert "cannot be written" in (log.problem or "")
    now = 161.0
    assert log.problem is None
    (tmp_path / "log").mkdir()
    log.append([EVENT])
    assert observed == [True, False]
