"""Every command that the documents and the scripts' own texts show names what exists.

A command is a line of a code block, or of a script's docstring, that starts with an
interpreter and a script, or with `make`. Nothing is run.
"""

import ast
import collections
import dataclasses
import itertools
import re
import shlex

import pytest
from absl import flags as flags_lib
from repository import ROOT

from serving.model_server.command import command_flags
from tfrec import config

DOCUMENTS = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "examples").rglob("*.md"),
]
SCRIPT = re.compile(r"^(?:\S*python3? )?((?:scripts|examples)/\w+\.py)\b(.*)$")


def blocks(document):
    """Returns the code blocks of a Markdown text: fenced, or indented by four."""
    text = document.read_text(encoding="utf-8")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [*fenced, *re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)]


def lines(text):
    """Returns the lines of a text, those that end with a backslash joined to the next."""
    return [line.strip() for line in re.sub(r"\\\n\s*", " ", text).splitlines()]


def documented():
    """Returns for each script the commands that run it: (where, words)."""
    texts = [(path, block) for path in DOCUMENTS for block in blocks(path)]
    for path in sorted((ROOT / "scripts").glob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")), clean=False)
        texts.append((path, docstring or ""))
    found = collections.defaultdict(list)
    for path, text in texts:
        for line in lines(text):
            match = SCRIPT.match(line)
            if match:
                words = shlex.split(match[2].split(" #")[0].split(" > ")[0].replace("…", ""))
                found[match[1]].append((path.relative_to(ROOT), words))
    return found


COMMANDS = documented()


def test_the_documents_show_commands_of_the_scripts_that_a_user_meets():
    for name in ("train", "inference", "serve", "convert", "evaluate", "export", "release"):
        assert COMMANDS[f"scripts/{name}.py"], name


def flags_of(path):
    """Returns the names of the flags that a script and what it imports beside it define.

    They are read from the source: some scripts define flags when they run, and two scripts'
    flags cannot be defined in one process.
    """
    names = {"help", "helpfull", "flagfile"}
    waiting, seen = [path], set()
    while waiting:
        source = waiting.pop()
        if source in seen or not source.is_file():
            continue
        seen.add(source)
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                waiting += [source.parent / f"{alias.name}.py" for alias in node.names]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                first = node.args[0] if node.args else None
                is_flag = node.func.attr.startswith("DEFINE_") or node.func.attr == "add_argument"
                if is_flag and isinstance(first, ast.Constant):
                    names.add(str(first.value).removeprefix("--"))
                elif node.func.attr == "define_flags":
                    options = getattr(config, node.args[0].attr)
                    names |= {field.name for field in dataclasses.fields(options)}
    return names


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.py")), ids=lambda p: p.name)
def test_help_shows_lines_as_they_are_typed(path):
    text = path.read_text(encoding="utf-8")
    written = text.split('"""', 2)[1]
    # Unless the string is raw, a backslash at the end of a line joins it to the next.
    assert ast.get_docstring(ast.parse(text), clean=False) == written


def test_flags_are_read_from_the_source():
    train = flags_of(ROOT / "scripts" / "train.py")
    # Of the script, of log_flags, of ConvertConfig, and of command_line.
    assert {"stage1_epochs", "data_path", "sampled_negatives", "debug"} <= train
    assert "patience" not in train
    assert "patience" in flags_of(ROOT / "scripts" / "train_ranker.py")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_flags_of_documented_commands_exist(name):
    path = ROOT / name
    assert path.is_file(), f"{name} is named in {COMMANDS[name]}"
    known = flags_of(path)
    takes_words = "command_line.run(" not in path.read_text(encoding="utf-8")
    for document, words in COMMANDS[name]:
        shown = [word[2:].partition("=")[0] for word in words if word.startswith("--")]
        unknown = [flag for flag in shown if not {flag, flag.removeprefix("no")} & known]
        if name != "scripts/convert_beam.py":  # what it does not know is Beam's
            assert not unknown, f"{document}: {name} has no flag {unknown}"
        assert takes_words or len(shown) == len(words), f"{document}: {name} takes flags: {words}"


def test_the_flags_of_documented_model_servers_exist():
    known = flags_lib.FlagValues()
    command_flags.define(known)
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
