"""The commands that lead from any table to a training."""

import json
import pathlib

import pytest
import scripts_in_forks

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
