"""The examples: their logs are generated, and converted by the commands of their README."""

import dataclasses
import importlib
import json
import shlex

import pytest
import scripts_in_forks
from absl import flags
from repository import EXAMPLES

from serving import export
from tfrec import ranking
from tfrecords import schema as schema_lib

pytestmark = pytest.mark.slow

NAMES = ("apps", "articles", "display_ads", "feeds", "jobs", "shop")
ROWS = 3_000


@pytest.fixture
def writing(monkeypatch):
    """The module that writes an example's log."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("writing")


def commands(name):
    """Returns the commands of an example's README as lists of words."""
    blocks = (EXAMPLES / name / "README.md").read_text().split("```\n")[1::2]
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith(".venv/bin/python ")]


def converted(name, script, writing, directory, rows=ROWS):
    """Converts a generated log with the flags of the README's training command."""
    files = writing.write(name, rows, directory / "log")
    script("serving.cli.offline.train")
    shared_flags = script("serving.cli.shared_flags")
    written = [word for word in commands(name)[1] if word.startswith("--")]
    here = [
        word.replace(f"workdir/examples/{name}", str(directory / "log"))
        for word in written
        if not word.startswith("--workdir")
    ]
    named = {word.split("=")[1] for word in here if word.partition("=")[0].endswith("_path")}
    assert {str(path) for path in files} < named
    flags.FLAGS(["train", *here])
    return shared_flags.converted_data_set(export.Pipeline(directory, progress=False))


@pytest.mark.parametrize("name", NAMES)
def test_an_example_converts_by_the_command_of_its_readme(name, script, writing, tmp_path):
    data_set = converted(name, script, writing, tmp_path)
    schema = schema_lib.load_schema(EXAMPLES / name / "schema.json")
    assert data_set.schema == schema
    source = data_set.description.source
    assert source.rejected == 0
    assert abs(source.lines - ROWS) < 0.1 * ROWS
    for split in ("train", "validation", "test"):
        clicks = data_set.label_sum(split, "click") / data_set.num_rows(split)
        assert 0.05 < clicks < 0.6, f"{split}: too few rows of one kind to learn from"
        for label in schema.labels:
            assert data_set.label_sum(split, label) > 0


@pytest.mark.parametrize("name", [name for name in NAMES if name != "apps"])
def test_the_rows_that_a_readme_shows_are_those_that_are_written(name, writing, tmp_path):
    shown = (EXAMPLES / name / "README.md").read_text().split("```\n")[1].splitlines()
    log = writing.write(name, 20_000, tmp_path)[0]
    with log.open(encoding="utf-8") as file:
        assert [next(file).rstrip("\n") for _ in shown] == shown


def test_the_same_flags_give_the_same_files(writing, tmp_path):
    first = [path.read_bytes() for path in writing.write("shop", 800, tmp_path / "a")]
    assert [path.read_bytes() for path in writing.write("shop", 800, tmp_path / "b")] == first
    other = writing.write("shop", 800, tmp_path / "c", seed=2)[0]
    assert other.read_bytes() != first[0]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--example=shops", "--example=shops"),
        ("--rows=3", "--rows=3"),
        ("--exampel=shop", "'exampel'"),
        ("shop", "Unexpected argument 'shop'"),
    ],
)
def test_a_wrong_flag_is_an_error_like_those_of_the_commands(argument, message):
    done = scripts_in_forks.run(EXAMPLES / "make_log.py", argument)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


@pytest.mark.trains
def test_a_ranker_learns_what_readers_like_from_a_log_of_clicks_alone(
    script, writing, tmp_path, ranker_config
):
    data_set = converted("articles", script, writing, tmp_path)
    assert data_set.label_count("train", "engagement") > 0
    config = dataclasses.replace(ranker_config, num_blocks=0, epochs=1)
    ranking.train_ranker(data_set, config, tmp_path / "ranker")
    notes = json.loads((tmp_path / "ranker" / "ranker.json").read_text())
    (epoch,) = notes["history"]
    # By chance it would be 0.5, with an error of 0.02 for 300 clicks among 1,500 rows.
    assert epoch["validation_click_auc"] > 0.6
