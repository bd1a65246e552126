"""The commands that lead from any table to a training."""

import json
import pathlib

import logs
import pyarrow.parquet as pq
import pytest
import scripts_in_forks
from pyarrow import csv

from tfrecords import formats, synthetic
from tfrecords import schema as schema_lib

pytestmark = pytest.mark.process


def write_log(path: pathlib.Path) -> pathlib.Path:
    rows = [f"u{n % 9},i{n % 5},c{n % 3},{n % 4 // 3}" for n in range(100)]
    path.write_text("\n".join(["user_id,item_id,country,click", *rows]) + "\n")
    return path


def test_another_table_without_a_format_names_the_commands(tmp_path: pathlib.Path) -> None:
    log = write_log(tmp_path / "log.csv")
    done = scripts_in_forks.run("train.py", f"--data_path={log}", f"--workdir={tmp_path / 'w'}")
    assert done.returncode == 1
    assert "is not a Criteo log" in done.stderr
    commands = [line.strip() for line in done.stderr.splitlines() if line.startswith("  tfrec")]
    assert commands == [
        f"tfrec convert --infer_schema --data_path={log} --schema_path=schema.json",
        f"tfrec train --format=tabular --data_path={log} --schema_path=schema.json",
    ]
    target = tmp_path / "schema.json"
    done = scripts_in_forks.run(
        "convert.py", "--infer_schema", f"--data_path={log}", f"--schema_path={target}"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == (
        f"  tfrec train --format=tabular --schema_path={target} --data_path={log} "
        "--workdir=workdir/log"
    )
    assert schema_lib.load_schema(target).ad_key == ("item_id",)


def test_a_format_writes_its_schema(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "avazu.json"
    done = scripts_in_forks.run("convert.py", "--format=avazu", f"--write_schema={target}")
    assert done.returncode == 0, done.stderr
    assert schema_lib.load_schema(target) == formats.FORMATS.get("avazu").schema()
    assert json.loads(target.read_text())["fields"][0]["min_count"] > 1
    done = scripts_in_forks.run("convert.py", "--format=avazu", f"--write_schema={target}")
    assert done.returncode == 1
    assert "exists" in done.stderr


def test_a_synthetic_log_writes_the_schema_of_its_world(tmp_path: pathlib.Path) -> None:
    for flags, world in ([], "shop"), (["--world=bilinear"], "bilinear"):
        target = tmp_path / f"{world}.json"
        done = scripts_in_forks.run(
            "convert.py", "--use_synthetic", *flags, f"--write_schema={target}"
        )
        assert done.returncode == 0, done.stderr
        assert schema_lib.load_schema(target) == synthetic.World(synthetic.WORLDS[world]).schema


@pytest.mark.parametrize("name", ["avazu", "criteo", "parquet"])
def test_no_schema_is_proposed_for_another_format(tmp_path: pathlib.Path, name: str) -> None:
    log, target = write_log(tmp_path / "log.csv"), tmp_path / "schema.json"
    done = scripts_in_forks.run(
        "convert.py",
        "--infer_schema",
        f"--format={name}",
        f"--data_path={log}",
        f"--schema_path={target}",
    )
    assert done.returncode == 1
    assert f"which --format=tabular reads, got --format={name}. Leave --format out" in done.stderr
    assert not target.exists()


def test_a_schema_is_proposed_for_parquet(tmp_path: pathlib.Path) -> None:
    log, target = tmp_path / "log.parquet", tmp_path / "schema.json"
    pq.write_table(csv.read_csv(write_log(tmp_path / "log.csv")), log)
    flags = [f"--data_path={log}", f"--schema_path={target}"]
    assert scripts_in_forks.run("convert.py", "--infer_schema", *flags).returncode == 0
    assert schema_lib.load_schema(target).ad_key == ("item_id",)


@pytest.mark.parametrize("command", [[], ["--format=tabular"]])
def test_a_criteo_log_needs_no_proposed_schema(tmp_path: pathlib.Path, command: list[str]) -> None:
    log = logs.write(tmp_path / "train.txt", logs.rows(300))
    flags = [f"--data_path={log}", f"--schema_path={tmp_path / 'schema.json'}", *command]
    done = scripts_in_forks.run("convert.py", "--infer_schema", *flags)
    is_refused = f"{log} is a Criteo log: 40 tab-separated columns" in done.stderr
    assert is_refused == (not command)


@pytest.mark.parametrize("name", ["avazu", "criteo_attribution", "outbrain"])
@pytest.mark.parametrize("command", [[], ["--format=tabular"]])
def test_a_public_log_with_a_header_needs_no_proposed_schema(
    tmp_path: pathlib.Path, name: str, command: list[str]
) -> None:
    columns = formats.FORMATS.get(name).HEADER
    log = tmp_path / "log.csv"
    rows = [[str(row * (7 + number) % 90) for number in range(len(columns))] for row in range(99)]
    log.write_text("".join(",".join(row) + "\n" for row in [columns, *rows]))
    flags = [f"--data_path={log}", f"--schema_path={tmp_path / 'schema.json'}", *command]
    done = scripts_in_forks.run("convert.py", "--infer_schema", *flags)
    is_refused = f"{log} has the columns of the format {name}. Give --format={name}" in done.stderr
    assert is_refused == (not command)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("tabular", "tfrec convert --infer_schema proposes one from the data."),
        ("dying_format:Dying", "docs/data.md describes its keys."),
    ],
)
def test_a_format_without_a_schema_says_how_to_get_one(
    tmp_path: pathlib.Path, name: str, remedy: str
) -> None:
    log, target = write_log(tmp_path / "log.csv"), tmp_path / "schema.json"
    for flag in (f"--data_path={log}", f"--write_schema={target}"):
        done = scripts_in_forks.run(
            "convert.py", flag, f"--format={name}", f"--workdir={tmp_path / 'w'}"
        )
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == (
            f"error: The format {name} has no schema of its own. Give --schema_path=FILE; {remedy}"
        )


@pytest.mark.parametrize("command", ["quickstart.py", "convert.py"])
@pytest.mark.parametrize("flag", ["--format=avazu", "--schema_path=schema.json"])
def test_flags_of_files_are_refused_for_the_synthetic_log(
    tmp_path: pathlib.Path, command: str, flag: str
) -> None:
    synthetic_log = ["--use_synthetic"] if command == "convert.py" else []
    done = scripts_in_forks.run(command, *synthetic_log, flag, f"--workdir={tmp_path / 'w'}")
    assert done.returncode == 1
    assert "the synthetic log is generated. Give --data_path=FILE, or leave" in done.stderr
