"""The demo needs only Python, replays a recording and says so."""

import ast
import json
import subprocess
import sys

import pytest
from repository import ROOT

pytestmark = pytest.mark.process

DEMO = ROOT / "scripts" / "demo.py"
RECORDING = ROOT / "docs" / "demo_recording.json"


def run(*flags, status=0):
    """Runs the demo without any installed package."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(DEMO), *flags], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == status, done.stderr
    return done


def test_it_runs_on_python_3_8_with_the_standard_library():
    tree = ast.parse(DEMO.read_text(), feature_version=(3, 8))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert imported <= {"__future__", *sys.stdlib_module_names}


def test_every_recorded_answer_is_shown():
    recording = json.loads(RECORDING.read_text())
    out = run().stdout
    assert f"a RECORDING of {recording['recorded']}, not a computation" in out
    assert len(recording["acts"]) >= 4
    for act in recording["acts"]:
        assert "Ten ads, " + act["title"] in out
        assert len(act["answer"]["ads"]) == 10
        for ad in act["answer"]["ads"]:
            score = ad["retrieval_score"] if ad["utility"] is None else ad["utility"]
            title = ad["show"]["title"]
            row = next(
                line
                for line in out.split("Ten ads, " + act["title"])[1].splitlines()
                if line.startswith(f"  {ad['rank']:4}  {title[:24]}")
            )
            assert f"{score:.4f}" in row


def test_the_recording_has_an_unreachable_ranker_and_weights_that_change_the_order():
    acts = json.loads(RECORDING.read_text())["acts"]
    assert acts[-1]["answer"]["degraded"]
    assert acts[-1]["answer"]["ads"][0]["utility"] is None
    orders = [[ad["ad_id"] for ad in act["answer"]["ads"]] for act in acts]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("text", ["{}", "[1]", "3", "null", "no JSON"])
def test_a_file_that_is_not_a_recording_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    done = run(f"--recording={tmp_path / 'x.json'}", status=1)
    assert "expected a recording of scripts/docs/record_demo.py" in done.stderr


def test_help_has_an_example():
    assert "python3 scripts/demo.py" in run("--help").stdout
