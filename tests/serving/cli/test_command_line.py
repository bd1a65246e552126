"""Every script's --help, and what is said to mistyped flags."""

import importlib
import json
import os
import pty
import re
import subprocess
import sys
import termios

import children
import pytest
import requirements
from repository import ROOT

from tfrecords import terminal

RUNNER = ROOT / "tests" / "support" / "script_runner.py"
STANDARD_LIBRARY_ONLY = {"demo.py"}
# Workers of a benchmark, started with places, not flags.
WORKERS = {"index_load.py", "index_scann.py"}


NAMES = sorted(
    path.name
    for path in (ROOT / "scripts").glob("*.py")
    if '__name__ == "__main__"' in path.read_text()
    and path.name not in STANDARD_LIBRARY_ONLY | WORKERS
)
WITH_FLAGS = [
    pytest.param(name, marks=requirements.NEEDS_BEAM) if name == "convert_beam.py" else name
    for name in NAMES
]
MISTAKES = {
    ("train.py", "--wrokdir=x"): "error: Unknown flag --wrokdir. Did you mean --workdir? See",
    ("train.py", "--nofroce"): "error: Unknown flag --nofroce. Did you mean --noforce? See",
    ("train.py", "--index=ivfqp"): (
        "error: --index: expected one of auto, Flat, IVF, IVFPQ, HNSW, got 'ivfqp'. "
        "Did you mean 'IVFPQ'?"
    ),
    ("train.py", "--n_samples=many"): "error: --n_samples: expected integer >= 100, got 'many'.",
    ("train.py", "--n_samples=7"): "error: --n_samples: expected integer >= 100, got '7'.",
    ("train.py", "--json=maybe"): "error: --json: expected --json or --nojson, got 'maybe'.",
    ("serve.py", "something"): "error: Unexpected argument 'something'; options start with --.",
    ("train.py", "workdir=x"): (
        "error: Unexpected argument 'workdir=x'; options start with --. "
        "Did you mean --workdir=x? See --help."
    ),
    ("train.py",): "error: Give either --use_synthetic or --data_path=FILE.",
    ("train.py", "--data_path=x", "--format=critoe"): "Did you mean 'criteo'?",
    ("train.py", "--data_path=x", "--split=tiem"): "Did you mean 'time'?",
    ("train_ranker.py", "--workdir=/nowhere/at/all"): "/nowhere/at/all/data",
    ("inspect_dataset.py", "--workdir=/nowhere/at/all"): "/nowhere/at/all/data",
    ("inference.py", "--workdir=/nowhere/at/all", "--demo"): "/nowhere/at/all/bundle",
    ("inference.py",): "Give one of --demo, --request=FILE and --input=FILE --output=FILE.",
    ("model_config.py", "--workdir=/nowhere/at/all"): "/nowhere/at/all/bundle",
    ("tune_index.py", "--embeddings=setup.py", "--queries=setup.py"): (
        "error: setup.py: expected an array of numpy.save (.npy), got "
    ),
    ("tune_index.py", "--embeddings=nowhere.npy", "--queries=x.npy"): "nowhere.npy: No such file",
    ("join_feedback.py",): "error: Give --impressions=…: The impression log: its directory",
}


@pytest.fixture(scope="module")
def ran():
    """Runs all command lines of this file; maps them to exit status, output and error."""
    commands = [(script, "--help") for script in NAMES]
    commands += [(script, "--no_such_flag=1") for script in NAMES]
    commands += list(MISTAKES)
    done = subprocess.run(
        [sys.executable, str(RUNNER)],
        input="".join(json.dumps(command) + "\n" for command in commands),
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "NO_COLOR": "1"},
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(commands, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.process
@pytest.mark.parametrize("script", WITH_FLAGS)
def test_help_explains_with_an_example_and_the_flags(ran, script):
    status, out, err = ran[script, "--help"]
    assert (status, err) == (0, "")
    assert f"python scripts/{script}" in out
    assert "\nFlags:\n" in out
    assert re.search(r"^  --", out, re.MULTILINE)


@pytest.mark.process
@pytest.mark.parametrize("script", WITH_FLAGS)
def test_an_unknown_flag_is_refused_in_one_line(ran, script):
    status, out, err = ran[script, "--no_such_flag=1"]
    assert (status, out) == (1, "")
    assert "no_such_flag" in err
    assert err.count("\n") == 1


@pytest.mark.process
@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_answered_with_what_was_expected(ran, command):
    status, out, err = ran[command]
    assert (status, out) == (1, "")
    assert MISTAKES[command] in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_the_close_name_is_found_whatever_its_case():
    assert terminal.suggestion_for("hnws", ("Flat", "HNSW")) == " Did you mean 'HNSW'?"
    assert terminal.suggestion_for("xyz", ("Flat", "HNSW")) == ""


def on_a_terminal(code, **environment):
    """Runs Python with standard error on a terminal; returns what is written there."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    plain = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    with children.started(
        [sys.executable, "-c", code],
        cwd=ROOT / "scripts",
        env={**plain, "PYTHONPATH": str(ROOT), **environment},
        stderr=theirs,
        stdout=subprocess.DEVNULL,
    ):
        os.close(theirs)
        text = b""
        try:
            while read := os.read(ours, 4096):
                text += read
        except OSError:  # Linux's way to say that the other end is closed.
            text += b""
    os.close(ours)
    return text.decode()


@pytest.mark.process
def test_colours_are_for_terminals_and_not_for_those_who_want_none():
    code = "from serving.cli import flag_messages; flag_messages.fail('broken.')"
    assert on_a_terminal(code) == "\x1b[31merror:\x1b[0m broken.\r\n"
    assert on_a_terminal(code, NO_COLOR="1") == "error: broken.\r\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "scripts", capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stderr == "error: broken.\n"


@pytest.mark.process
def test_a_bar_shows_rate_and_time_left_on_a_terminal_alone():
    code = (
        "import time; from tfrecords.terminal import progress\n"
        "progress._SECONDS_UNTIL_SHOWN = 0.01\n"
        "for _ in progress.progress_steps(100, 25, 'embedding'): time.sleep(0.6)"
    )
    shown = on_a_terminal(code)
    assert re.search(r"embedding: .*\| 50\.0/100 \[00:01<00:0\d, .* rows/s\]", shown), shown
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_what_an_extra_brings_is_named_where_it_is_missing(script):
    extras = script("serving.cli.extras")
    missing = pytest.raises(SystemExit, match=r"needs no_such_package, .* -e '\.\[beam\]'$")
    with missing, extras.require_extra("beam"):
        importlib.import_module("no_such_package")
