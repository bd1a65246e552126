"""Samples of logs of several files."""

import json
import pathlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfrecords.schema_inference import proposal as infer
from tfrecords.schema_inference.sample import sample_files


def write(path: pathlib.Path, rows: range, **more: Any) -> pathlib.Path:
    """Writes rows of 7 users and 5 ads, every third one clicked."""
    lines = [f"u{n % 7},a{n % 5},{int(n % 3 == 0)},d{n % 4}" for n in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["user_id,ad_id,click,device", *lines]) + "\n", **more)
    return path


@pytest.mark.parametrize("first", [0, 3])
def test_a_small_first_file_does_not_decide(tmp_path: pathlib.Path, first: int) -> None:
    paths = [
        write(tmp_path / "0.csv", range(1, 1 + first)),
        write(tmp_path / "1.csv", range(90)),
        write(tmp_path / "2.csv", range(90, 180)),
    ]
    proposal, notes = infer.propose(paths)
    assert [field["name"] for field in proposal["fields"]] == ["user_id", "ad_id", "device"]
    assert f"The sample has {180 + first} rows of 3 of 3 files." in notes
    assert any(note.startswith(f"About {180 + first} rows:") for note in notes)


def test_files_without_rows_are_refused(tmp_path: pathlib.Path) -> None:
    paths = [write(tmp_path / f"{n}.csv", range(0)) for n in range(2)]
    with pytest.raises(ValueError, match=r"0\.csv has no rows below its header"):
        infer.propose(paths)


def test_the_sample_is_spread_over_the_files(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_files, "ROWS", 40)
    paths = [write(tmp_path / f"{n:02}.csv", range(100 if n % 4 else 2)) for n in range(25)]
    # Every third file: 0, 3, …, 24. Of these, 0, 12 and 24 have 2 rows; the 6 others complete 40.
    parts = sample_files.parts(paths, ["user_id", "ad_id"], (), [])
    assert [part.rows.num_rows for part in parts] == [2, 6, 6, 6, 2, 6, 5, 5, 2]
    # If these are too few, other files are read: 9 times 2 rows, then 11 more files.
    paths = [write(tmp_path / f"{n:02}.csv", range(2)) for n in range(25)]
    parts = sample_files.parts(paths, ["user_id", "ad_id"], (), [])
    assert [part.rows.num_rows for part in parts] == [2] * 20


def test_files_may_have_columns_in_another_order_of_another_type_or_not(
    tmp_path: pathlib.Path,
) -> None:
    tables = [
        {"ad_id": [1, 2], "tags": [["x"], ["y", "z"]], "price": [1.0, 2.0]},
        {"price": ["3", "4"], "ad_id": [3, 4]},
    ]
    paths = []
    for index, table in enumerate(tables):
        paths.append(tmp_path / f"{index}.parquet")
        pq.write_table(pa.table(table), paths[-1])
    parts = sample_files.parts(paths, ["ad_id", "tags", "price"], (), [])
    columns = {n: sample_files.joined([p.rows[n] for p in parts]) for n in ("tags", "price")}
    assert columns["tags"].to_pylist() == [["x"], ["y", "z"], None, None]
    assert columns["price"].to_pylist() == ["1", "2", "3", "4"]


@pytest.mark.parametrize("name", ["dt", "event_date"])
@pytest.mark.parametrize("has_time", [False, True])
def test_the_date_in_the_names_of_folders_is_the_time_if_there_is_no_other(
    tmp_path: pathlib.Path, name: str, has_time: bool
) -> None:
    paths = []
    for day in range(1, 4):
        paths.append(tmp_path / f"{name}=2024-05-0{day}" / "country=de" / "0.jsonl")
        paths[-1].parent.mkdir(parents=True)
        rows = [
            {"user_id": f"u{n % 7}", "ad_id": n % 5, "click": n % 3 == 0, "device": f"d{n % 4}"}
            | ({"at": f"2024-05-0{day} 10:{n:02}:00"} if has_time else {})
            for n in range(60)
        ]
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    proposal, notes = infer.propose(paths)
    assert proposal["time"] == ("at" if has_time else name)
    assert {field["name"] for field in proposal["fields"]} == {
        "user_id", "ad_id", "device", "recent_clicks",
    }  # fmt: skip
    said = " ".join(notes)
    assert "Left out: the column 'country' of the folder" in said
    assert (f"Left out: the column '{name}' of the folder" in said) == has_time
