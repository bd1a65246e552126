"""Every command in the documents and in the commands' docstrings has existing names and flags.

A command is a line of a code block, or of a docstring, that starts with `tfrec`, with an
interpreter and a script, or with `make`. Nothing is run.
"""

import ast
import collections
import itertools
import re
import shlex

import pytest
from absl import flags
from repository import ROOT

from serving import manifest
from serving.cli import entry
from serving.model_server import command as server_command
from tfrecords import reader

DOCUMENTS = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "examples").rglob("*.md"),
]
SOURCES = sorted(
    [
        *(ROOT / "scripts").glob("*.py"),
        *(ROOT / "serving" / "cli" / "offline").glob("*.py"),
        *(ROOT / "serving" / "cli" / "online").glob("*.py"),
    ]
)
# tfrec train …, .venv/bin/tfrec train …, .venv/bin/python -m tfrec train …
COMMAND = re.compile(r"^(?:\S*/)?(?:tfrec|python3? -m tfrec) ([a-z]\S*)(.*)$")
SCRIPT = re.compile(r"^(?:\S*python3? )?((?:scripts|examples)/\w+\.py)\b(.*)$")
# The command that passes unknown flags to Beam if it has a runner.
BEAM = "convert"


def blocks(document):
    """Returns the code blocks of a Markdown text: fenced, or indented by four."""
    text = document.read_text(encoding="utf-8")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [*fenced, *re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)]


def lines(text):
    """Returns the lines of a text, those that end with a backslash joined to the next."""
    return [line.strip() for line in re.sub(r"\\\n\s*", " ", text).splitlines()]


def words_of(text):
    """Returns the words of a command line, up to a comment, a redirection, a pipe or a `&`."""
    return shlex.split(re.split(r" #| > | \| | &", text)[0].replace("…", ""))


def documented(pattern):
    """Returns the command lines that a pattern finds, by its first group: (where, words)."""
    texts = [(path, block) for path in DOCUMENTS for block in blocks(path)]
    for path in SOURCES:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")), clean=False)
        texts.append((path, docstring or ""))
    found = collections.defaultdict(list)
    for path, text in texts:
        for line in lines(text):
            match = pattern.match(line)
            if match:
                found[match[1]].append((path.relative_to(ROOT), words_of(match[2])))
    return found


COMMANDS = documented(COMMAND)
SCRIPTS = documented(SCRIPT)


def test_each_command_is_shown_with_an_example():
    assert set(entry.MODULES) <= {name.replace("-", "_") for name in COMMANDS}


@pytest.mark.parametrize(
    "line",
    [
        "tfrec train --json",
        ".venv/bin/tfrec train --json",
        "python -m tfrec train --json",
        ".venv/bin/python -m tfrec train --json",
    ],
)
def test_a_command_is_found_however_it_is_called(line):
    assert COMMAND.match(line).groups() == ("train", " --json")


def defined_by(path):
    """Returns the names of the flags that a script defines, read from its source."""
    names = {"help", "debug"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            first = node.args[0] if node.args else None
            is_flag = node.func.attr.startswith("DEFINE_") or node.func.attr == "add_argument"
            if is_flag and isinstance(first, ast.Constant):
                names.add(str(first.value).removeprefix("--"))
    return names


def defined_by_command(name, script):
    """Returns the names of the flags of a command; `script` imports its module for one test."""
    module = script(entry.MODULES[name])
    return {flag.name for flag in flags.FLAGS.get_key_flags_for_module(module)} | {"help", "debug"}


def check(name, shown, known, takes_other_flags=False, takes_words=False):
    """Checks the lines that call a command or script: its flags exist, and there is no more."""
    for document, words in shown:
        named = [word[2:].partition("=")[0] for word in words if word.startswith("--")]
        unknown = [flag for flag in named if not {flag, flag.removeprefix("no")} & known]
        passed_on = takes_other_flags and "runner" in named
        assert passed_on or not unknown, f"{document}: {name} has no flag {unknown}"
        assert takes_words or len(named) == len(words), f"{document}: {name} takes flags: {words}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_help_shows_lines_as_they_are_typed(path):
    text = path.read_text(encoding="utf-8")
    written = text.split('"""', 2)[1]
    # Unless the string is raw, a backslash at the end of a line joins it to the next.
    assert ast.get_docstring(ast.parse(text), clean=False) == written


def test_the_flags_of_a_command_include_shared_flags(script):
    train = defined_by_command("train", script)
    # A flag of the command, of shared_flags, and of ConvertConfig.
    assert {"stage1_epochs", "data_path", "sampled_negatives"} <= train
    assert "patience" not in train


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_flags_of_documented_commands_exist(name, script):
    command = name.replace("-", "_")
    assert command in entry.MODULES, f"{name} is named in {COMMANDS[name]}"
    check(name, COMMANDS[name], defined_by_command(command, script), command == BEAM)


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_the_flags_of_documented_scripts_exist(name, script):
    path = ROOT / name
    assert path.is_file(), f"{name} is named in {SCRIPTS[name]}"
    if path.parent.name == "scripts" and path.stem in entry.MODULES:
        check(name, SCRIPTS[name], defined_by_command(path.stem, script), path.stem == BEAM)
    else:
        check(name, SCRIPTS[name], defined_by(path), takes_words=True)


def test_the_flags_of_documented_model_servers_exist():
    known = flags.FlagValues()
    server_command.define(known)
    texts = (block for path in DOCUMENTS for block in blocks(path))
    commands = [line for text in texts for line in lines(text) if "serving.model_server" in line]
    assert commands
    for command in commands:
        shown = re.findall(r"--(\w+)", command)
        assert not set(shown) - set(known), command


def test_make_has_the_targets_that_are_documented():
    known = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = itertools.chain.from_iterable(lines(b) for path in DOCUMENTS for b in blocks(path))
    named = {match[1] for line in shown if (match := re.match(r"(?:time )?make ([\w-]+)", line))}
    assert {"quickstart", "test"} <= named <= known


def test_links_and_files_that_documents_name_exist():
    paths = re.compile(r"`((?:docs|examples|serving|scripts|tfrec|tfrecords|tests)/[\w./-]+)`")
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (document.parent / target).exists(), f"{document}: {target}"
        for target in paths.findall(text):
            # tests/test_MODULE.py stands for many.
            if not re.search(r"NAME|NNNN|MODULE", target):
                assert (ROOT / target).exists(), f"{document}: {target}"


def test_the_project_summary_has_the_current_format_versions():
    summary = (ROOT / "docs" / "PROJECT_SUMMARY.md").read_text(encoding="utf-8")
    stated = re.findall(
        r"^\*\*(Data set|Manifest)\*\* .*format version (\d+)", summary, re.MULTILINE
    )
    current = {"Data set": reader.FORMAT_VERSION, "Manifest": manifest.FORMAT_VERSION}
    assert {name: int(version) for name, version in stated} == current
