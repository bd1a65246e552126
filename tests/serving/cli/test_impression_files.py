"""The flags of an impression log and of a log of events take directories, files and patterns."""

import pytest

from serving.cli import impression_files


def test_the_events_of_a_directory_are_its_logged_events(tmp_path):
    for name in ("feedback-b.jsonl", "feedback-a.jsonl", "impressions-a.parquet"):
        (tmp_path / name).write_bytes(b"{}")
    own = [tmp_path / "feedback-a.jsonl", tmp_path / "feedback-b.jsonl"]
    assert impression_files.find_events("feedback", str(tmp_path)) == own
    assert impression_files.find_events("feedback", f"{tmp_path}/*.jsonl") == own
    assert impression_files.find_events("feedback", ",".join(map(str, own))) == own


@pytest.mark.parametrize(
    ("place", "message"),
    [(".", r"--event_log: .* has no file feedback-\*"), ("*.jsonl", "No file matches .*jsonl")],
)
def test_a_log_of_events_without_files_is_refused(tmp_path, place, message):
    # Without events, each history that is not empty would differ from the one computed.
    with pytest.raises(FileNotFoundError, match=message):
        impression_files.find_events("event_log", str(tmp_path / place))
