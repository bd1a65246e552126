"""The --help of every command, and the errors for mistyped commands, flags and files."""

import contextlib
import importlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest
import requirements
import scripts_in_forks
from repository import ROOT

import tfrec
from serving.cli import command_line, entry

# Runs each command with wrong flags and with --help, in a fork that has imported what most of them
# need. Prints a line of JSON for each: [name, {flag: [exit code or message, output]}, which of the
# slow packages were imported].
FLAGS_ALONE = """
import contextlib, io, json, os, sys
from serving import config
from serving.cli import command_line, entry
for name in entry.MODULES:
    if os.fork():
        os.wait()
        continue
    ended = {}
    for flag in ("--debug=maybe", "--no_such_flag=1", "--help"):
        sys.argv = ["tfrec", name, flag]
        with contextlib.redirect_stdout(io.StringIO()) as output:
            try:
                entry.main()
            except SystemExit as error:
                ended[flag] = [error.code, output.getvalue()]
    slow = [package for package in ("pandas", "tensorflow") if package in sys.modules]
    print(json.dumps([name, ended, slow]), flush=True)
    os._exit(0)
"""
# The facts that the message must name.
MISTAKES = {
    ("train.py", "--wrokdir=x"): ["wrokdir", "workdir"],
    ("train.py", "--n_samples=many"): ["n_samples", "many"],
    ("train.py", "--n_samples=7"): ["n_samples", "7", "100"],
    ("train.py", "something"): ["'something'"],
    ("train.py",): ["--use_synthetic", "--data_path"],
    ("train.py", "--data_path=x", "--format=critoe"): ["'critoe'"],
    ("train.py", "--data_path=x", "--split=tiem"): ["split", "tiem", "time"],
    ("train.py", "--data_path=x", "--validation_fraction=0.6", "--test_fraction=0.6"): ["0.6"],
    ("train.py", "--data_path=/nowhere/at/all"): ["/nowhere/at/all"],
    ("train.py", "--data_path=/tmp"): ["is a directory"],
    ("train.py", "--use_synthetic", "--index=ivfqp"): ["ivfqp", "IVFPQ"],
    ("train.py", "--use_synthetic", "--ranker=atention"): ["atention", "attention"],
    ("train.py", "--use_synthetic", "--retrieval_model=x:Y"): ["no module 'x'"],
    ("train.py", "--use_synthetic", "--index_backend=milvus", "--milvus_uri=here"): ["milvus_uri"],
    ("train_ranker.py", "--dropout=1"): ["dropout", ">= 0 and < 1"],
    ("train_ranker.py", "--workdir=/nowhere/at/all"): ["/nowhere/at/all/data", "tfrec convert"],
    ("evaluate.py", "--resamples=1"): ["resamples", ">= 2"],
    ("tune.py", "--minutes=0"): ["minutes", "0.01"],
    ("convert.py", "--use_synthetic", "--runner="): ["--runner"],
    ("convert.py", "--use_synthetic", "--unknown=1"): ["--unknown"],
    ("convert.py", "--use_synthetic", "--write_schema=no/such/s.json"): ["no/such/s.json"],
    ("inspect_dataset.py", "--data=LICENSE"): ["LICENSE/dataset.json", "Not a directory"],
    ("inference.py",): ["--demo", "--request", "--input"],
    ("inference.py", "--workdir=/nowhere/at/all", "--demo"): ["no published bundle"],
    ("inference.py", "--input=rows.jsonl", "--output=./rows.jsonl"): ["--output=./rows.jsonl"],
    ("serve.py", "--deadline_ms=nan"): ["deadline_ms", "nan", ">= 1"],
    ("serve.py", "--workdir=/nowhere/at/all"): ["no published bundle"],
    ("serve.py", "--rules={"): ["--rules", "invalid JSON"],
    ("serve.py", "--rules=/no/such"): ["/no/such"],
    ("serve.py", "--rules=[1]"): ["--rules", "[1]"],
    ("serve.py", "--user_store=redis://h:abc/0"): ["redis://h:abc/0", "redis://HOST"],
    ("join_feedback.py",): ["impressions"],
    ("join_feedback.py", "--impressions=scripts", "--feedback=x", "--output=/tmp/x.parquet"): [
        "scripts",
        "impressions-",
    ],
}


def run_python(code, *, shell=None, **environment):
    """Runs a program in a new Python that finds the packages; `shell` adds redirections."""
    command = [sys.executable, "-c", code]
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {shell}', "sh", *command] if shell else command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def test_each_command_has_a_script_of_its_name():
    scripts = {path.stem: path.read_text() for path in (ROOT / "scripts").glob("*.py")}
    assert set(scripts) == {*entry.MODULES, "demo", "launch"}
    for name in entry.MODULES:
        assert scripts[name] == scripts["train"].replace("train", name)


@pytest.mark.process
def test_a_python_without_tfrec_is_told_the_command_to_type():
    # -S: without the packages of the environment.
    python = [sys.executable, "-S", "scripts/train.py", "--workdir=my logs"]
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(python, cwd=ROOT, env=plain, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{ROOT}/.venv/bin/python scripts/train.py '--workdir=my logs'" in done.stderr


@pytest.mark.process
def test_a_reader_that_closes_the_output_early_sees_no_error():
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [sys.executable, "scripts/inspect_dataset.py", "--help"],
        cwd=ROOT,
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    os.close(theirs)
    assert done.returncode
    assert "Traceback" not in done.stderr


@pytest.mark.process
@pytest.mark.parametrize("command", MISTAKES)
def test_an_error_message_names_the_value_and_what_was_expected(command):
    if "redis://" in command[-1]:
        pytest.importorskip("redis", reason=requirements.NO_REDIS)
    done = scripts_in_forks.run(*command)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    for fact in MISTAKES[command]:
        assert fact in done.stderr


@pytest.mark.process
def test_an_error_of_a_plugin_keeps_its_traceback(tmp_path):
    own = tmp_path / "plugins" / "own.py"
    own.parent.mkdir()
    own.write_text("def names():\n    (name,) = []\n")
    job = tmp_path / "scripts" / "job.py"
    job.parent.mkdir()
    job.write_text(
        f"import sys\nsys.path.append({str(own.parent)!r})\n"
        "from serving.cli import command_line\nimport own\n\n\ndef main():\n    own.names()\n"
        "\n\ncommand_line.run(main)\n"
    )
    done = scripts_in_forks.run(job)
    assert done.returncode
    assert f'File "{own}", line 2' in done.stderr
    assert "not enough values to unpack" in done.stderr


@pytest.mark.process
def test_a_terminated_command_cleans_up_and_says_so(tmp_path):
    (tmp_path / "job.py").write_text(
        "import sys\nfrom serving.cli import command_line\n\n\ndef main():\n"
        "    try:\n        print('started', flush=True)\n        sys.stdin.read()\n"
        "    finally:\n        print('cleaned up')\n\n\ncommand_line.run(main)\n"
    )
    process = subprocess.Popen(
        [sys.executable, tmp_path / "job.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with process:
        assert process.stdout.readline() == "started\n"
        process.terminate()
        out, err = process.communicate()
    assert (process.returncode, out) == (128 + signal.SIGTERM, "cleaned up\n")
    assert err == "Terminated. Run the same command again to continue.\n"


@pytest.mark.process
def test_an_error_about_a_full_disk_says_so(tmp_path):
    # A limit on the size of files stands in for a full disk.
    (tmp_path / "job.py").write_text(
        "import resource\nimport tensorflow as tf\nfrom serving.cli import command_line\n\n\n"
        "def main():\n    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))\n"
        f"    tf.train.Checkpoint(a=tf.Variable([0.0] * 1_000)).write({str(tmp_path / 'a')!r})\n"
        "\n\ncommand_line.run(main)\n"
    )
    done = scripts_in_forks.run(tmp_path / "job.py")
    assert done.returncode == 1
    assert re.fullmatch(rf"error: The disk is full \(.*{tmp_path}/a.*\)\. Free .*\n", done.stderr)


@pytest.fixture(scope="module")
def flags_alone():
    """Maps each command to its exits and outputs, and the slow packages that it imported."""
    done = run_python(FLAGS_ALONE)
    assert done.returncode == 0, done.stderr
    return {name: rest for name, *rest in map(json.loads, done.stdout.splitlines())}


@pytest.mark.process
@pytest.mark.parametrize("name", entry.MODULES)
def test_help_and_flag_errors_are_quick_and_say_what_to_type(flags_alone, name):
    ended, slow = flags_alone[name]
    assert slow == []
    for flag in ("debug=maybe", "no_such_flag=1"):
        message, shown = ended[f"--{flag}"]
        assert message.startswith("error: ")
        assert flag.partition("=")[0] in message
        assert shown == ""
    status, shown = ended["--help"]
    assert status == 0
    assert f"    tfrec {name}" in shown
    assert "\nFlags:\n  --" in shown


def tfrec_command(monkeypatch, *arguments):
    """Runs `tfrec` in this process up to the flags of a command."""
    monkeypatch.setattr(sys, "argv", ["tfrec", *arguments])
    entry.main()


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)])
def test_tfrec_lists_its_commands_with_what_they_do(monkeypatch, capsys, arguments):
    tfrec_command(monkeypatch, *arguments)
    lines = capsys.readouterr().out.splitlines()
    commands = [line.split(maxsplit=1) for line in lines if re.match("  [a-z]", line)]
    assert [name for name, _ in commands] == list(entry.MODULES)
    assert ["quickstart", "Runs all steps from a log to ten ranked ads."] in commands
    assert max(map(len, lines)) <= 100


def test_tfrec_prints_its_version(monkeypatch, capsys):
    tfrec_command(monkeypatch, "--version")
    assert capsys.readouterr().out == f"tfrec {tfrec.__version__}\n"


@pytest.mark.parametrize("argument", ["trian", "--workdir=x"])
def test_an_unknown_command_is_refused(monkeypatch, argument):
    with pytest.raises(SystemExit, match=rf"^error: .*{argument}.*tfrec --help"):
        tfrec_command(monkeypatch, argument)


@pytest.mark.process
def test_a_command_may_be_written_with_hyphens(flags_alone):
    done = run_python("from serving.cli import entry; import sys; sys.argv = "
                      "['tfrec', 'train-ranker', '--help']; entry.main()")  # fmt: skip
    assert [done.returncode, done.stdout] == flags_alone["train_ranker"][0]["--help"]
    assert done.stderr == ""


def test_a_missing_extra_is_named_with_its_installation():
    missing = pytest.raises(SystemExit, match=r"needs no_such_package, .* -e '\.\[beam\]'$")
    with missing, command_line.require_extra("beam"):
        importlib.import_module("no_such_package")


def test_a_file_of_a_flag_may_be_a_pipe():
    reader, writer = os.pipe()
    os.write(writer, b"ad-5\n\nad-6\n")
    os.close(writer)
    assert command_line.read_lines(pathlib.Path(f"/dev/fd/{reader}")) == ["ad-5", "ad-6"]
    with contextlib.suppress(OSError):
        os.close(reader)
