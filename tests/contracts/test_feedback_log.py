"""The log of users' feedback on answers."""

import os
import shutil

import pytest

from serving import errors, impressions, requests
from serving.health import Health

EVENT = requests.Event(event_id="e", user_id="u", ad_id="a", event="click", time=1.0)


def test_a_failure_is_a_problem_until_events_are_written_again(tmp_path):
    health = Health()
    log = impressions.FeedbackLog(tmp_path / "log", health=health)
    shutil.rmtree(tmp_path / "log")
    with pytest.raises(errors.ImpressionLogError, match="cannot be written"):
        log.append([EVENT])
    assert "cannot be written" in health.problems["event log"]
    (tmp_path / "log").mkdir()
    log.append([EVENT])
    assert health.problems == {}


def test_a_new_file_is_started_after_one_was_moved_away(tmp_path):
    log = impressions.FeedbackLog(tmp_path / "log", clock=lambda: 100.0)
    (tmp_path / "moved").mkdir()
    for _ in range(2):
        log.append([EVENT])
        log.append([EVENT])
        # One file until it is moved.
        (path,) = (tmp_path / "log").iterdir()
        path.rename(tmp_path / "moved" / path.name)
    lines = [path.read_text().count("\n") for path in (tmp_path / "moved").iterdir()]
    assert lines == [2, 2]


def test_a_file_that_is_moved_away_before_it_is_opened_is_not_created_again(tmp_path, monkeypatch):
    log = impressions.FeedbackLog(tmp_path / "log")
    (tmp_path / "moved").mkdir()
    open_file = os.open

    def move_and_open(path, *arguments):
        if path.exists():
            path.rename(tmp_path / "moved" / path.name)
        return open_file(path, *arguments)

    monkeypatch.setattr(os, "open", move_and_open)
    for _ in range(3):
        log.append([EVENT])
    names = [path.name for folder in ("log", "moved") for path in (tmp_path / folder).iterdir()]
    assert len(set(names)) == len(names) == 3


def test_new_directories_are_readable_by_the_owner_only(tmp_path):
    impressions.FeedbackLog(tmp_path / "events")
    impressions.ImpressionLog(tmp_path / "answers").close()
    for name in ("events", "answers"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o700
