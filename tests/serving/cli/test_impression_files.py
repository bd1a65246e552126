"""The flags of an impression log and of a log of events take directories, files and patterns."""

import pytest

from serving.cli import impression_files


def test_event_files_are_given_as_a_directory_a_pattern_or_a_list(tmp_path):
    for name in ("feedback-b.jsonl", "feedback-a.jsonl", "impressions-a.parquet"):
        (tmp_path / name).write_bytes(b"{}")
    own = [tmp_path / "feedback-a.jsonl", tmp_path / "feedback-b.jsonl"]
    assert impression_files.find_events("feedback", str(tmp_path)) == own
    assert impression_files.find_events("feedback", f"{tmp_path}/*.jsonl") == own
    assert impression_files.find_events("feedback", ",".join(map(str, own))) == own


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (".", r"--feedback: .* has no file feedback-\*"),
        ("*.jsonl", "No file matches .*jsonl"),
        ("missing", r"--feedback: .*/missing does not exist\. Name the directory"),
    ],
)
def test_a_log_of_events_without_files_is_refused(tmp_path, place, message):
    # Without events, each history that is not empty would differ from the one computed.
    with pytest.raises(FileNotFoundError, match=message):
        impression_files.find_events("feedback", str(tmp_path / place))


@pytest.mark.parametrize("ending", [".gz", ".1", "-20261201"])
def test_rotated_files_are_refused(tmp_path, ending):
    for name in ("feedback-a.jsonl", "impressions-a.parquet"):
        (tmp_path / name).touch()
    (tmp_path / f"feedback-b.jsonl{ending}").touch()
    message = rf"feedback-b\.jsonl{ending} is renamed or compressed; expected files feedback-"
    with pytest.raises(ValueError, match=message):
        impression_files.find_events("feedback", str(tmp_path))
    assert impression_files.find("impressions", str(tmp_path)) == [
        tmp_path / "impressions-a.parquet"
    ]
    (tmp_path / f"impressions-b.parquet{ending}").touch()
    with pytest.raises(ValueError, match=r"impressions-b\.parquet.* is renamed or compressed"):
        impression_files.find("impressions", str(tmp_path))
