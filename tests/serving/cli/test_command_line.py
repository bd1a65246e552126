"""The --help of every command, and the errors for mistyped commands and flags."""

import contextlib
import errno
import importlib
import json
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
import termios

import children
import pytest
import requirements
import scripts_in_forks
from repository import ROOT

import tfrec
from serving.cli import command_line, entry, flag_messages
from tfrecords import terminal

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
MISTAKES = {
    ("train.py", "--wrokdir=x"): "error: Unknown flag --wrokdir. Did you mean --workdir? See",
    ("train.py", "--nofroce"): "error: Unknown flag --nofroce. Did you mean --noforce? See",
    ("train.py", "--revenue_weight=2"): "It is a flag of tfrec train_ranker. See --help.",
    ("train.py", "--epochs=2"): "It is a flag of tfrec train_retrieval and tfrec train_ranker. See",
    ("train.py", "--index=ivfqp"): (
        "error: Unknown index kind 'ivfqp'; expected one of auto, Flat, IVF, IVFPQ, HNSW, or "
        "MODULE:CLASS for your own class. Did you mean 'IVFPQ'?"
    ),
    ("train.py", "--n_samples=many"): "error: --n_samples: expected integer >= 100, got 'many'.",
    ("release.py", "--wait_seconds=inf"): (
        "error: --wait_seconds: expected a finite number, got inf."
    ),
    ("size.py", "--machine_gb=nan"): "error: --machine_gb: expected a finite number, got nan.",
    (
        "size.py",
        "--rps=1e300",
    ): "error: --rps: expected a number in the range [0.0, 1000000000.0], got",
    ("size.py", "--constants=tests"): "error: tests is not a file; expected constants that",
    ("convert.py", "--use_synthetic", "--runner="): "error: --runner is empty; expected a runner",
    ("consume_events.py", "--stream_server=127.0.0.1:6379", "--user_store=sqlite:users.db"): (
        "error: --stream_server is '127.0.0.1:6379'; expected redis://HOST:PORT/DATABASE"
    ),
    (
        "consume_events.py",
    ): "error: Expected the server of the stream, got none. Set --stream_server",
    ("rebuild_users.py", "--impressions=nowhere", "--user_store=redis://h:abc/0"): (
        "error: --user_store, or TFREC_USER_STORE: The address of the server is 'redis://h:abc/0'; "
        "expected redis://HOST:PORT/DATABASE"
    ),
    ("rebuild_users.py", "--impressions=nowhere"): (
        "error: Expected the address of a user store, got none. Set --user_store or the environment"
    ),
    ("evaluate.py", "--resamples=1"): "error: --resamples: expected a whole number >= 2, got '1'.",
    ("tune.py", "--minutes=0"): "error: --minutes: expected number >= 0.01, got '0'.",
    (
        "tune.py",
        "--seed=-1",
    ): "error: --seed: expected an integer in the range [0, 2147483647], got",
    ("train_ranker.py", "--dropout=1"): "--dropout: expected a number >= 0 and < 1, got '1'.",
    ("serve.py", "--deadline_ms=nan"): "error: --deadline_ms: expected a number >= 1, got 'nan'.",
    ("train.py", "--n_samples=7"): "error: --n_samples: expected integer >= 100, got '7'.",
    ("train.py", "--json=maybe"): "error: --json: expected --json or --nojson, got 'maybe'.",
    ("serve.py", "something"): "error: Unexpected argument 'something'; options start with --.",
    ("train.py", "workdir=x"): (
        "error: Unexpected argument 'workdir=x'; options start with --. "
        "Did you mean --workdir=x? See --help."
    ),
    ("train.py",): "error: Give either --use_synthetic or --data_path=FILE.",
    (
        "train.py",
        "--data_path=x",
        "--format=critoe",
    ): "error: Unknown log format 'critoe'",
    ("train.py", "--data_path=x", "--split=tiem"): (
        "error: --split: expected one of auto, order, time, fraction, column, file, "
        "leave_last_out, leave_fraction_out, leave_random_fraction_out, got 'tiem'. Did you mean "
        "'time'?"
    ),
    ("train.py", "--data_path=x", "--validation_fraction=0.6", "--test_fraction=0.6"): (
        "error: --validation_fraction and --test_fraction: expected positive shares with a sum "
        "below 1, got 0.6 and 0.6."
    ),
    ("train.py", "--data_path=/nowhere/at/all"): "error: No file at /nowhere/at/all",
    ("train.py", "--data_path=/tmp"): "is a directory",
    ("train.py", "--use_synthetic", "--index_config=tests"): (
        "error: tests: Is a directory; expected a file; check the path."
    ),
    ("convert.py", "--use_synthetic", "--write_schema=no/such/s.json"): (
        "error: no/such/s.json: No such file or directory; check the path."
    ),
    ("inspect_dataset.py", "--data=LICENSE"): (
        "error: LICENSE/dataset.json: Not a directory; part of the path is a file; check the path."
    ),
    ("train.py", "--use_synthetic", "--index_backend=milvus", "--milvus_uri=here"): (
        "error: --milvus_uri: expected the address of Milvus, as http://HOST:19530, or the path of"
    ),
    ("train.py", "--use_synthetic", "--ranker=atention"): "Did you mean 'attention'?",
    ("train.py", "--use_synthetic", "--retrieval_model=x:Y"): "no module 'x' on the Python",
    ("train_ranker.py", "--workdir=/nowhere", "--ranker=atention"): "Did you mean 'attention'?",
    ("train_retrieval.py", "--workdir=/nowhere", "--retrieval_model=x:Y"): "no module 'x' on the",
    ("train_ranker.py", "--workdir=/nowhere/at/all"): (
        "error: No data set at /nowhere/at/all/data/dataset.json; run tfrec convert first."
    ),
    ("inspect_dataset.py", "--workdir=/nowhere/at/all"): "/nowhere/at/all/data",
    ("inference.py", "--workdir=/nowhere/at/all", "--demo"): (
        "error: /nowhere/at/all/bundle has no published bundle"
    ),
    ("inference.py", "--input=rows.jsonl", "--output=./rows.jsonl"): (
        "--output=./rows.jsonl is the file of --input; name another file."
    ),
    ("inference.py",): "Give one of --demo, --request=FILE and --input=FILE --output=FILE.",
    ("serve.py", "--workdir=/nowhere/at/all"): "has no published bundle",
    ("serve.py", "--rules={"): (
        "error: --rules: expected a JSON object or a file with one, got invalid JSON"
    ),
    ("serve.py", "--rules=/no/such"): (
        "error: --rules: expected a JSON object or a file with one, but /no/such does not exist; "
        "check the path."
    ),
    ("serve.py", "--rules=[1]"): "error: --rules: expected a JSON object, got [1].",
    ("serve.py", "--port=8500"): "error: --port and --model_server_port are both 8500; expected",
    ("model_config.py", "--workdir=/nowhere/at/all"): "/nowhere/at/all/bundle",
    ("tune_index.py", "--embeddings=LICENSE", "--queries=LICENSE"): (
        "error: LICENSE: expected an array of numpy.save (.npy), got "
    ),
    (
        "tune_index.py",
        "--embeddings=nowhere.npy",
        "--queries=x.npy",
    ): "error: nowhere.npy: No such file or directory; check the path.",
    ("tune_index.py", "--workdir=/nowhere/at/all", "--output=tests"): (
        "error: tests: Is a directory; expected a file; check the path."
    ),
    ("join_feedback.py",): "error: --impressions is required: The impression log: its directory",
    ("join_feedback.py", "--impressions=scripts", "--feedback=x", "--output=/tmp/x.parquet"): (
        "scripts has no file impressions-*.parquet"
    ),
}


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
    first, *commands = done.stderr.splitlines()
    assert first == f"error: {sys.executable} has no module 'serving'. Type:"
    assert commands[-1] == f"  {ROOT}/.venv/bin/python scripts/train.py '--workdir=my logs'"
    assert (len(commands) == 2) == (not (ROOT / ".venv").exists())
    assert len(commands) == 1 or commands[0] == f"  make -C {ROOT} .venv/.installed"


@pytest.mark.process
@pytest.mark.parametrize(
    "command",
    [["-m", "tfrec", "--help"], ["scripts/train.py", "--help"], ["scripts/demo.py", "--fast"]],
)
def test_a_reader_that_closes_the_output_early_sees_no_error(command):
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, stdout=theirs, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    os.close(theirs)
    assert done.returncode
    assert done.stderr == ""


@pytest.mark.process
@pytest.mark.parametrize("command", [["--help"], ["size", "--help"], ["size"]])
def test_output_on_a_full_disk_is_one_error(command):
    with open("/dev/full", "w") as output:
        done = subprocess.run(
            [sys.executable, "-m", "tfrec", *command],
            cwd=ROOT, stdout=output, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: The disk is full \(.*No space left on device\)\. .*\n", done.stderr
    )


@pytest.mark.process
@pytest.mark.parametrize("command", MISTAKES)
def test_an_error_message_says_what_was_expected(command):
    if "redis://" in command[-1]:
        pytest.importorskip("redis", reason=requirements.NO_REDIS)
    done = scripts_in_forks.run(*command)
    assert (done.returncode, done.stdout) == (1, "")
    assert MISTAKES[command] in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.process
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("(name,) = []", "not enough values to unpack (expected 1, got 0)\n  ({}, line 2; --debug"),
        ("raise SystemExit", "Your class ended the process with status 0; expected a result or"),
        ("raise SystemExit(3)", "Your class ended the process with status 3; expected a result or"),
    ],
)
def test_an_error_of_a_plugin_names_its_line(tmp_path, line, message):
    own = tmp_path / "own.py"
    own.write_text(f"def names():\n    {line}\n")
    (tmp_path / "job.py").write_text(
        "from serving.cli import command_line\nimport own\n\n\ndef main():\n    own.names()\n"
        "\n\ncommand_line.run(main)\n"
    )
    done = subprocess.run(
        [sys.executable, tmp_path / "job.py"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stderr.startswith("error: " + message.format(own))
    assert f"\n  ({own}, line 2" in done.stderr
    assert done.returncode == 1


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
def test_an_error_of_tensorflow_about_a_full_disk_says_so(tmp_path):
    # A limit on the size of files stands in for a full disk.
    (tmp_path / "job.py").write_text(
        "import resource\nimport tensorflow as tf\nfrom serving.cli import command_line\n\n\n"
        "def main():\n    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))\n"
        f"    tf.train.Checkpoint(a=tf.Variable([0.0] * 1_000)).write({str(tmp_path / 'a')!r})\n"
        "\n\ncommand_line.run(main)\n"
    )
    done = scripts_in_forks.run(tmp_path / "job.py")
    assert done.returncode == 1
    assert re.fullmatch(
        rf"error: The disk is full \({tmp_path}/a.*; File too large\)\. Free some space, and "
        r"run the same command again\.\n",
        done.stderr,
    )


def test_the_advice_on_a_read_only_disk_fits_commands_that_cannot_use_another_path():
    error = OSError(errno.EROFS, "Read-only file system", "bundle/.releases.lock")
    assert command_line._message_of(error) == (
        "bundle/.releases.lock: Read-only file system; make it writable, or use another path."
    )


def test_the_check_of_an_output_changes_no_file(script, tmp_path):
    command = script(entry.MODULES["tune_index"])
    kept = tmp_path / "kept.json"
    kept.write_text("{}")
    for path in (kept, tmp_path / "new" / "index.json"):
        command._check_output(path)
    assert kept.read_text() == "{}"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [kept]


@pytest.mark.process
def test_a_directory_of_another_account_is_named_with_its_owner(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o500)
    # Permissions do not restrict root.
    (tmp_path / "job.py").write_text(
        "import os\nfrom serving.cli import command_line\n\n\n"
        "def main():\n    if os.geteuid() == 0:\n        os.seteuid(65534)\n"
        f"    open({str(theirs / 'new')!r}, 'w')\n\n\ncommand_line.run(main)\n"
    )
    done = scripts_in_forks.run(tmp_path / "job.py")
    assert done.returncode == 1
    found = re.fullmatch(
        rf"error: {theirs}/new: Permission denied\. This command runs as the account \S+, and "
        r"(\S+) belongs to (\S+)\. Run it as an account that has access, or change the "
        r"permissions\.\n",
        done.stderr,
    )
    assert theirs.is_relative_to(found[1])
    assert pathlib.Path(found[1]).owner() == found[2]


@pytest.mark.process
@pytest.mark.parametrize("encoding", ["latin-1", "ascii:surrogateescape"])
def test_a_character_that_the_terminal_lacks_is_replaced(tmp_path, encoding):
    (tmp_path / "job.py").write_text(
        "from serving.cli import command_line\n\n\ndef main():\n    print('0.1 \u2013 0.2')\n"
        "\n\ncommand_line.run(main)\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, tmp_path / "job.py"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0.1 ? 0.2\n", "")


@pytest.fixture(scope="module")
def flags_alone():
    """Maps each command to its exits and outputs, and the slow packages that it imported."""
    done = subprocess.run(
        [sys.executable, "-c", FLAGS_ALONE], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return {name: rest for name, *rest in map(json.loads, done.stdout.splitlines())}


@pytest.mark.process
@pytest.mark.parametrize("name", entry.MODULES)
def test_help_has_an_example_and_flags_and_flag_errors_are_one_line(flags_alone, name):
    ended, slow = flags_alone[name]
    assert slow == []
    expected = "error: --debug: expected --debug or --nodebug, got 'maybe'."
    assert ended["--debug=maybe"] == [expected, ""]
    assert ended["--no_such_flag=1"] == ["error: Unknown flag --no_such_flag. See --help.", ""]
    status, shown = ended["--help"]
    assert status == 0
    assert f"    tfrec {name}" in shown
    assert "\nFlags:\n  --" in shown


@pytest.mark.process
def test_help_of_a_shared_flag_says_what_it_does_in_the_command(flags_alone):
    shown = {name: " ".join(ended["--help"][1].split()) for name, (ended, _) in flags_alone.items()}
    assert "--version: Release version; default: the stable release, or" in shown["serve"]
    assert "--version: Release version; required by promote and canary" in shown["release"]
    assert "default: the stable one and the canary" in shown["update_index"]
    assert "--filters: Filters for requests without any: " in shown["inference"]
    assert "--filters: Filters whose loss of value is measured: " in shown["evaluate"]
    # It follows the releases, and refuses the flag.
    assert "--version" not in shown["model_config"]


@pytest.mark.process
def test_only_the_rules_of_a_service_may_have_filters(flags_alone):
    for name in ("serve", "inference"):
        ended, _ = flags_alone[name]
        rules = " ".join(ended["--help"][1].split()).partition("--rules: ")[2].partition(" --")[0]
        assert '"exploration": {"share": 0.05}}.' in rules
        assert ('"filters" as in a request' in rules) == (name == "serve")


def test_a_message_that_begins_with_flags_has_their_dashes(script):
    script(entry.MODULES["publish"])
    for message, shown in (
        ("ad_tower: expected a SavedModel, got: a.", "--ad_tower: expected a SavedModel, got: a."),
        ("query_tower and ad_tower: got 2 sizes.", "--query_tower and --ad_tower: got 2 sizes."),
        ("price: expected numbers.", "price: expected numbers."),
        # A flag of absl.
        ("v: expected numbers.", "v: expected numbers."),
        ("--ranker: expected a directory.", "--ranker: expected a directory."),
        ("ranker", "ranker"),
    ):
        assert flag_messages.with_dashes(message) == shown


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


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("trian", "Unknown command 'trian'. Did you mean 'train'? See tfrec --help."),
        ("train-rankr", "Unknown command 'train-rankr'. Did you mean 'train_ranker'? See tfrec"),
        ("xyz", "Unknown command 'xyz'. See tfrec --help."),
        ("--workdir=x", "Expected a command before '--workdir=x'. See tfrec --help."),
    ],
)
def test_an_unknown_command_is_refused_with_a_suggestion(monkeypatch, argument, message):
    with pytest.raises(SystemExit, match=rf"^error: {re.escape(message)}"):
        tfrec_command(monkeypatch, argument)


@pytest.mark.process
def test_a_command_may_be_written_with_hyphens(flags_alone):
    done = subprocess.run(
        [sys.executable, "-m", "tfrec", "train-ranker", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert [done.returncode, done.stdout] == flags_alone["train_ranker"][0]["--help"]
    assert done.stderr == ""


def test_a_suggestion_ignores_case():
    assert terminal.suggestion_for("hnws", ("Flat", "HNSW")) == " Did you mean 'HNSW'?"
    assert terminal.suggestion_for("xyz", ("Flat", "HNSW")) == ""


def on_a_terminal(code):
    """Runs Python with standard error on a terminal; returns what is written there."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    plain = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    with children.started(
        [sys.executable, "-c", code],
        cwd=ROOT / "scripts",
        env={**plain, "PYTHONPATH": str(ROOT)},
        stderr=theirs,
        stdout=subprocess.DEVNULL,
    ):
        os.close(theirs)
        text = b""
        with contextlib.suppress(OSError):  # Raised by Linux once the other end is closed.
            while read := os.read(ours, 4096):
                text += read
    os.close(ours)
    return text.decode()


@pytest.mark.process
@pytest.mark.usefixtures("capsys")  # Standard error is not a terminal.
def test_errors_are_colored_only_on_terminals_and_without_no_color():
    code = (
        "import os, sys; from serving.cli import flag_messages\n"
        "try: flag_messages.fail('broken.')\n"
        "except SystemExit as error: print(error, file=sys.stderr)\n"
        "os.environ['NO_COLOR'] = '1'\n"
        "flag_messages.fail('broken.')"
    )
    assert on_a_terminal(code) == "\x1b[31merror:\x1b[0m broken.\r\nerror: broken.\r\n"
    with pytest.raises(SystemExit, match=r"^error: broken\.$"):
        flag_messages.fail("broken.")


@pytest.mark.process
def test_a_progress_bar_with_rate_and_time_left_is_shown_only_on_a_terminal():
    code = (
        "import tqdm.std; from tfrecords.terminal import progress\n"
        "now = 0.0\n"
        "tqdm.std.time = lambda: now\n"
        "for _ in progress.progress_steps(100, 25, 'embedding'): now += 2.5"
    )
    shown = on_a_terminal(code)
    assert re.search(r"embedding: .*\| 50\.0/100 \[00:05<00:05, 10\.0 .* rows/s\]", shown), shown
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_a_missing_extra_is_named_with_its_installation(script):
    command_line = script("serving.cli.command_line")
    missing = pytest.raises(SystemExit, match=r"needs no_such_package, .* -e '\.\[beam\]'$")
    with missing, command_line.require_extra("beam"):
        importlib.import_module("no_such_package")


def test_a_file_without_requests_is_not_published(script, tmp_path):
    (tmp_path / "none.jsonl").write_text("\n")
    publish = script(entry.MODULES["publish"])
    with pytest.raises(ValueError, match=r"^--requests: expected .* per line, .*none\.jsonl witho"):
        publish._read_requests(tmp_path / "none.jsonl")


def test_a_file_of_a_flag_may_be_a_pipe(script, tmp_path):
    command_line = script("serving.cli.command_line")
    reader, writer = os.pipe()
    os.write(writer, b"ad-5\n\nad-6\n")
    os.close(writer)
    assert command_line.read_lines(pathlib.Path(f"/dev/fd/{reader}")) == ["ad-5", "ad-6"]
    os.close(reader)
    with pytest.raises(FileNotFoundError, match="is a directory, not a file; check the path"):
        command_line.read_lines(tmp_path)


@pytest.mark.process
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_runs_with_closed_standard_streams(closed, tmp_path):
    output = tmp_path / "descriptors"
    code = (
        "from serving.cli import command_line; import os, sys\n"
        "with command_line.silent_if_output_is_closed():\n"
        f"    own = os.open({str(output)!r}, os.O_CREAT | os.O_WRONLY)\n"
        "    print('out', flush=True), print('err', file=sys.stderr, flush=True)\n"
        "    os.write(own, b'file' if own > 2 else b'standard stream')\n"
    )
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0
    assert output.read_text() == "file"


def test_an_interrupt_while_a_command_is_imported_is_one_line(monkeypatch):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(entry.importlib, "import_module", interrupted)
    with pytest.raises(SystemExit, match=r"^Interrupted\.$"):
        entry.run_command("train")
