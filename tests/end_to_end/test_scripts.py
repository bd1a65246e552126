"""The scripts, run in processes of their own as a user runs them."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import logs
import pyarrow.parquet as pq
import pytest
import scripts_in_forks
from repository import ROOT

from tfrecords import schema

pytestmark = pytest.mark.process

TINY = ["--stage1_epochs=1", "--stage2_epochs=1", "--index=Flat"]


def run(script: str, *flags: str, status: int = 0) -> subprocess.CompletedProcess:
    """Runs a script and checks its exit status."""
    done = scripts_in_forks.run(script, *flags)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def log_flags(directory: pathlib.Path) -> list[str]:
    return [f"--data_path={directory}/train.txt", f"--schema_path={directory}/schema.json"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A work directory with a bundle trained on some fields of a Criteo log with a bad line."""
    directory = tmp_path_factory.mktemp("work")
    rows = logs.rows(2_000)
    # All held-out rows are the same, so no scores are better than the rate of their clicks.
    rows[1_600:1_800] = [[row[0], *rows[1_600][1:]] for row in rows[1_600:1_800]]
    text = logs.text(rows[:100]) + b"1\tshort\n" + logs.text(rows[100:])
    (directory / "train.txt").write_bytes(text)
    schema.save_schema(logs.FEW_FIELDS, directory / "schema.json")
    done = run("quickstart.py", *log_flags(directory), f"--workdir={directory}", *TINY)
    assert "release 1, 10 ads by " in done.stdout
    said = " ".join(done.stdout.split())  # Lines are wrapped anywhere.
    assert "Training has " in said
    assert "click is weak: it is not known to predict better than its base rate" in said
    assert "2,001 rows = 2,000 written + 1 rejected, see " in done.stdout
    assert re.search(r"ads, click rate [0-9.]+% in training$", done.stdout, re.MULTILINE)
    assert "Not measured: revenue: the schema names no revenue" in done.stdout
    return directory


def test_a_finished_step_is_not_redone(workdir):
    before = (workdir / "bundle" / "manifests" / "1.json").read_bytes()
    done = run("train.py", *log_flags(workdir), f"--workdir={workdir}", *TINY)
    assert done.stdout.count("finished before, unchanged") == 5
    assert (workdir / "bundle" / "manifests" / "1.json").read_bytes() == before
    assert len(list((workdir / "bundle" / "manifests").glob("*.json"))) == 1


def test_filters_of_the_command_line_apply_to_requests_without_any(workdir):
    flags = (f"--workdir={workdir}", "--demo", "--json")
    done = run("inference.py", *flags, '--filters={"allowed_ads": ["no such ad"]}')
    assert json.loads(done.stdout)["ads"] == []
    done = run("inference.py", *flags, "--filters={", status=1)
    assert "--filters: expected a JSON object or a file with one, got invalid JSON" in done.stderr


def test_the_demo_shows_ten_ads_with_the_only_head(workdir):
    # Not a fork of a process that has imported TensorFlow, because the import must print nothing.
    done = subprocess.run(
        [sys.executable, "scripts/inference.py", f"--workdir={workdir}", "--demo", "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    assert [ad["rank"] for ad in answer["ads"]] == list(range(1, 11))
    assert answer["absent_heads"] == ["engagement", "revenue"]
    assert answer["ads"][0]["engagement_probability"] is None
    assert 0 < answer["ads"][0]["click_probability"] < 1
    assert answer["degraded"] is None
    assert done.stderr == ""


def test_a_batch_file_is_answered_in_order_and_a_refused_line_says_why(workdir, tmp_path):
    lines = ['{"k": 1}', "no json", '{"context": {"I1": "x"}, "k": 1}', '{"k": 2}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out.jsonl"
    done = run(
        "inference.py", f"--workdir={workdir}", f"--input={tmp_path / 'in.jsonl'}",
        f"--output={out}", status=1,
    )  # fmt: skip
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [len(answer.get("ads", [])) for answer in answers] == [1, 0, 0, 2]
    assert "line 2: expected a JSON request" in answers[1]["error"]
    assert "I1: expected a finite number" in answers[2]["error"]
    assert "2 of 4" in done.stdout


def test_metrics_of_a_real_log_name_what_is_absent(workdir):
    metrics = json.loads(run("evaluate.py", f"--workdir={workdir}", "--json").stdout)
    assert metrics["absent_heads"] == ["engagement", "revenue"]
    assert set(metrics["ranker"]) == {"click"}
    assert metrics["funnel"]["truth"] == "held-out clicks"
    assert metrics["funnel"]["index"] == "Flat, built as in an export"
    assert (workdir / "evaluation" / "report.html").is_file()
    manifest = json.loads((workdir / "bundle" / "manifests" / "1.json").read_text())
    assert manifest["metrics"]["funnel"] == metrics["funnel"]
    assert not {"segments", "curves"} & set(manifest["metrics"])


def test_a_deleted_evaluation_report_is_written_again(workdir):
    page = workdir / "evaluation" / "report.html"
    text = page.read_text(encoding="utf-8")
    page.unlink()
    done = run("evaluate.py", f"--workdir={workdir}")
    assert "finished before, unchanged" in done.stdout
    assert f"Report: {page}" in done.stdout
    assert page.read_text(encoding="utf-8") == text


def test_an_evaluation_measures_the_loss_by_filters_in_the_published_index(workdir, tmp_path):
    copy = tmp_path / "work"
    shutil.copytree(workdir, copy)
    filters = '{"allowed_ads": ["no such ad"]}'
    done = run("evaluate.py", f"--workdir={copy}", f"--filters={filters}")
    assert "index: Flat of release 1; filters: " in done.stdout
    assert "which 0 of " in done.stdout
    assert f"Report: {copy / 'evaluation' / 'report.html'}" in done.stdout
    funnel = json.loads((copy / "evaluation" / "metrics.json").read_text())["funnel"]
    assert funnel["survived"]["ranker"]["value"] == 0.0
    assert funnel["lost"]["filters"]["value"] == funnel["survived"]["index"]["value"] > 0.0
    # A mistake leaves the evaluation and its options as they are.
    kept = [path.read_bytes() for path in (copy / "evaluation").iterdir()]
    failed = run("evaluate.py", f"--workdir={copy}", "--segment_fields=nope", status=1)
    assert "error: segment_fields: expected categorical fields of the ad side (" in failed.stderr
    assert failed.stderr.endswith("), got 'nope'.\n")
    assert [path.read_bytes() for path in (copy / "evaluation").iterdir()] == kept
    again = run("evaluate.py", f"--workdir={copy}", f"--filters={filters}")
    assert "finished before, unchanged" in again.stdout


def test_two_logs_of_the_same_name_get_different_work_directories(tmp_path, monkeypatch, script):
    monkeypatch.chdir(tmp_path)
    quickstart = script("serving.cli.offline.quickstart")
    first, other = tmp_path / "a" / "train.txt", tmp_path / "b" / "train.txt"
    for log in (first, other):
        log.parent.mkdir()
        log.write_bytes(b"x")
    assert quickstart._workdir_of(str(first)) == pathlib.Path("workdir/train")
    note = pathlib.Path("workdir/train/steps/data.json")
    note.parent.mkdir(parents=True)
    note.write_text(json.dumps({"inputs": {"files": [{"path": str(first)}]}}))
    assert quickstart._workdir_of(str(first)) == pathlib.Path("workdir/train")
    assert quickstart._workdir_of(str(other)) == pathlib.Path("workdir/train-2")


def test_a_damaged_data_set_is_converted_again_and_models_stay(workdir, tmp_path):
    copy = tmp_path / "work"
    shutil.copytree(workdir, copy)
    command = ("convert.py", *log_flags(workdir), f"--workdir={copy}")
    (shard,) = (copy / "data").glob("test-*.tfrecord")
    written = shard.read_bytes()
    for damage in (shard.unlink, lambda: shard.write_bytes(written[:-1])):
        damage()
        assert "removing the data set, which cannot be used" in run(*command).stdout
        assert shard.read_bytes() == written
    assert "finished before, unchanged" in run(*command).stdout
    run("evaluate.py", f"--workdir={copy}")


def test_models_are_not_used_with_the_data_of_another_log(workdir, tmp_path):
    copy = tmp_path / "work"
    shutil.copytree(workdir, copy)
    logs.write(tmp_path / "train.txt", logs.rows(2_000, seed=9))
    schema.save_schema(logs.FEW_FIELDS, tmp_path / "schema.json")
    run("convert.py", *log_flags(tmp_path), f"--workdir={copy}")
    for script in ("evaluate.py", "export.py"):
        done = run(script, f"--workdir={copy}", status=1)
        assert "was trained on data set" in done.stderr


def test_later_commands_use_the_ranker_named_by_a_flag(workdir, tmp_path):
    copy = tmp_path / "work"
    shutil.copytree(workdir, copy)
    run("train_ranker.py", f"--workdir={copy}", "--epochs=1", "--ranker=examples.dlrm_ranker:DLRM")
    written = json.loads((copy / "ranker" / "config.json").read_text())
    assert written["ranker"] == "examples.dlrm_ranker:DLRM"
    assert "finished before" not in run("evaluate.py", f"--workdir={copy}").stdout


def test_a_lost_manifest_is_exported_again_and_a_publish_keeps_the_flags_of_the_export(
    workdir, tmp_path
):
    copy = tmp_path / "work"
    shutil.copytree(workdir, copy)
    manifests = copy / "bundle" / "manifests"
    (manifests / "1.json").unlink()
    run("export.py", f"--workdir={copy}", "--index=Flat", "--force", "--candidate_parts=1")
    asked = json.loads((copy / "steps" / "bundle.json").read_text())["inputs"]
    assert asked["candidate_parts"] == 1
    assert asked["index"]["kind"] == "Flat"
    publish = ["release.py", "--action=publish", f"--workdir={copy}", "--force"]
    # Without changes, no release is added.
    run(*publish)
    assert [path.name for path in manifests.glob("*.json")] == ["2.json"]
    (manifests / "2.json").unlink()
    run(*publish)
    assert [path.name for path in manifests.glob("*.json")] == ["3.json"]
    assert json.loads((copy / "steps" / "bundle.json").read_text())["inputs"] == asked


def test_a_log_without_a_click_is_refused_before_the_first_stage(tmp_path):
    rows = [["0", *row[1:]] for row in logs.rows(100)]
    path = logs.write(tmp_path / "log.tsv", rows)
    done = run("train.py", f"--data_path={path}", f"--workdir={tmp_path}", status=1)
    assert "The train split of" in done.stderr
    assert "has no clicks (column 'label'); expected at least one" in done.stderr
    assert "training the two-tower" not in done.stdout


def test_a_mostly_bad_log_is_refused_with_its_first_lines(tmp_path):
    bad = tmp_path / "bad.txt"
    bad.write_bytes(logs.text([["label", *row[1:]] for row in logs.rows(50)]))
    done = run("convert.py", f"--data_path={bad}", f"--workdir={tmp_path}", status=1)
    assert "50 of 50 lines are rejected" in done.stderr
    assert f"{bad}, line 1: looks like a header line" in done.stderr


def test_logged_answers_are_joined_with_feedback(workdir, tmp_path):
    done = run(
        "inference.py", f"--workdir={workdir}", "--demo", "--k=3", "--json",
        f"--impression_log={tmp_path / 'log'}", '--rules={"caps": [{"field": "C13", "max": 1}]}',
    )  # fmt: skip
    answer = json.loads(done.stdout)
    ads = [ad["ad_id"] for ad in answer["ads"]]
    values = [ad["fields"]["C13"] for ad in answer["ads"] if ad["fields"]["C13"] is not None]
    assert (len(ads), len(set(values))) == (3, len(values))
    event = {"request_id": answer["request_id"], "ad_id": ads[1], "click": 1}
    (tmp_path / "events.jsonl").write_text(json.dumps(event))
    output = tmp_path / "new" / "shown.parquet"
    done = run(
        "join_feedback.py", f"--impressions={tmp_path / 'log'}", f"--output={output}",
        f"--feedback={tmp_path / 'events.jsonl'}",
    )  # fmt: skip
    assert f"{output}: 3 impressions of 1 answers; click 1" in done.stdout
    assert "events: 1, of which 1 match an impression" in done.stdout
    rows = pq.read_table(output).sort_by("_position").to_pylist()
    assert [row["_ad_id"] for row in rows] == ads
    assert [row["_click"] for row in rows] == [0, 1, 0]
    fields = json.loads((tmp_path / "new" / "shown.schema.json").read_text())["fields"]
    assert len(fields) == len(logs.FEW_FIELDS.fields)
