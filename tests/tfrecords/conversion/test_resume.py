"""A conversion that is killed at any moment resumes, and writes the bytes of an unbroken one."""

import dataclasses
import importlib
import pathlib
import re
import signal
import sys

import logs
import pytest
import scripts_in_forks
import tensorflow as tf

from tfrecords import conversion, convert, reader, synthetic, vectors
from tfrecords import schema as schema_lib
from tfrecords.conversion import splitting, workspace

pytestmark = pytest.mark.slow

CONVERT = """
import pathlib, sys
from tfrecords import convert, schema
log, named, ads, out = map(pathlib.Path, sys.argv[1:5])
source = convert.Source(log, schema.load_schema(named), "tabular", ads_path=ads, rows_per_chunk=100)
convert.convert(source, out, workers=2)
"""
# Kills itself when a stage has finished two of its chunks and begins another.
KILLED = f"""
import os, signal, sys
from tfrecords.conversion import workspace
once = workspace.Workspace.once
def killed(space, stage, index, work):
    if stage == sys.argv[5] and len(list(space.path(stage, 0).parent.glob("*.json"))) >= 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return once(space, stage, index, work)
workspace.Workspace.once = killed
{CONVERT}
"""


def finished(directory):
    """Maps the notes of the chunks that are finished in a workspace to when they were written."""
    notes = (directory.with_name(f".{directory.name}.partial") / "work").rglob("*.json")
    return {path.relative_to(directory.parent): path.stat().st_mtime_ns for path in notes}


def run(factory, program, *arguments):
    """Runs a program in a process of its own, a fork of one that has imported TensorFlow."""
    path = factory.mktemp("program") / "program.py"
    path.write_text(program)
    return scripts_in_forks.run(path, *arguments)


def source_of(log, **changes):
    schema = schema_lib.load_schema(log.schema)
    return dataclasses.replace(
        convert.Source(log.log, schema, log.format, ads_path=log.ads, rows_per_chunk=100), **changes
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A log of four chunks."""
    world = synthetic.WorldConfig(
        seed=5,
        num_users=100,
        num_ads=200,
        num_campaigns=40,
        num_advertisers=20,
        num_categories=10,
        num_publishers=40,
        num_cities=40,
    )
    directory = tmp_path_factory.mktemp("log")
    synthetic.write_log(directory, 350, world)
    written = synthetic.SyntheticLog(directory)
    plain = schema_lib.load_schema(written.schema)
    listed = (
        schema_lib.Field(f"last_{kind}", "history", "query", of="ad", event=kind)
        for kind in ("impression", "click", "engagement")
    )
    user = next(f.source for f in plain.query_fields if f.kind == "categorical")
    # The time of a conversion grows with its fields.
    few = (*plain.query_fields[::4], *plain.ad_fields[::4])
    schema = dataclasses.replace(plain, fields=(*few, *listed), user_key=user, time="request_id")
    schema_lib.save_schema(schema, written.schema)
    return written


@pytest.fixture(scope="module")
def unbroken(log, tmp_path_factory):
    directory = tmp_path_factory.mktemp("unbroken") / "data"
    convert.convert(source_of(log), directory, workers=1)
    return directory


def test_the_number_of_workers_changes_no_byte(log, unbroken, tmp_path):
    convert.convert(source_of(log), tmp_path / "data", workers=5)
    assert logs.files(tmp_path / "data") == logs.files(unbroken)


@pytest.mark.process
def test_killed_in_every_stage_it_resumes_to_the_same_bytes(
    log, unbroken, tmp_path, tmp_path_factory
):
    out = tmp_path / "data"
    arguments = list(map(str, (log.log, log.schema, log.ads, out)))
    kept = {}
    for stage in ("parse", "count", "histories", "pack", "write"):
        killed = run(tmp_path_factory, KILLED, *arguments, stage)
        assert killed.returncode == -signal.SIGKILL
        done = finished(out)
        assert len(done) >= len(kept) + 2
        assert kept.items() <= done.items()
        assert not out.exists()
        kept = done
    done = run(tmp_path_factory, CONVERT, *arguments)
    assert done.returncode == 0, done.stderr
    assert logs.files(out) == logs.files(unbroken)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_finished_work_is_not_repeated(log, unbroken, tmp_path, monkeypatch):
    made = []
    breaks = [(stage, 3) for stage in ("parse", "count", "pack", "write")]
    once = workspace.Workspace.once

    def breaking_once(self, stage, index, make):
        def make_or_break():
            if (stage, index) in breaks:
                breaks.remove((stage, index))
                _fail()
            made.append((stage, index))
            return make()

        return once(self, stage, index, make_or_break)

    monkeypatch.setattr(workspace.Workspace, "once", breaking_once)
    for _ in range(len(breaks)):
        with pytest.raises(RuntimeError, match="the power went"):
            convert.convert(source_of(log), tmp_path / "data", workers=1)
    convert.convert(source_of(log), tmp_path / "data", workers=1)
    assert len(made) == len(set(made))
    assert logs.files(tmp_path / "data") == logs.files(unbroken)


def _fail(*_):
    raise RuntimeError("the power went")


def test_another_log_or_option_starts_over(log, unbroken, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(splitting, "assign", _fail)
        with pytest.raises(RuntimeError):
            convert.convert(source_of(log), tmp_path / "data", test_fraction=0.3)
    convert.convert(source_of(log), tmp_path / "data")
    assert logs.files(tmp_path / "data") == logs.files(unbroken)


def test_a_corrected_custom_format_reads_the_log_again(log, tmp_path, monkeypatch):
    module = tmp_path / "resumed_format.py"
    module.write_text("from tfrecords.formats.tabular import open_log, read_ads, schema\n")
    (tmp_path / "own.py").write_text(
        "import resumed_format\nfrom tfrecords import formats\n\n"
        "class Own(formats.LogFormat):\n"
        "    open_log = staticmethod(resumed_format.open_log)\n"
        "    read_ads = staticmethod(resumed_format.read_ads)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    source = source_of(log, format="own:Own")
    with monkeypatch.context() as patch:
        patch.setattr(splitting, "assign", _fail)
        with pytest.raises(RuntimeError):
            convert.convert(source, tmp_path / "data")
    begun = tmp_path / ".data.partial" / "work" / "parse"
    assert len(list(begun.glob("*.json"))) == 4
    module.write_text(f"{module.read_text()}# Corrected.\n")
    importlib.reload(sys.modules["resumed_format"])
    with monkeypatch.context() as patch:
        patch.setattr(conversion.Stages, "parse_chunk", _fail)
        with pytest.raises(RuntimeError):
            convert.convert(source, tmp_path / "data")
    assert not list(begun.glob("*.json"))


def test_a_corrected_text_encoder_encodes_all_texts_again(tmp_path, monkeypatch):
    (tmp_path / "log.csv").write_text("q,title,click\n" + "a,b,1\na,c,0\n" * 20)
    module = tmp_path / "resumed_encoder.py"
    encoder = (
        "import tensorflow as tf\nfrom tfrecords import texts\n\n"
        "class Own(texts.TextEncoder):\n"
        "    def encode(self, texts):\n"
        "        return tf.tile([[1.0, 0.0]], [tf.size(texts), 1])\n"
    )
    module.write_text(encoder)
    # Python takes cached bytecode for a source of the same size, edited in the same second.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)
    query = schema_lib.Field("q", "categorical", "query")
    title = schema_lib.Field("title", "text", "ad", length=2, encoder="resumed_encoder:Own")
    schema = schema_lib.Schema("log", (query, title), ("title",), click="click")
    source = convert.Source(tmp_path / "log.csv", schema, "tabular")
    with monkeypatch.context() as patch:
        patch.setattr(conversion.Stages, "write", _fail)  # The texts are encoded.
        with pytest.raises(RuntimeError):
            convert.convert(source, tmp_path / "data")
    module.write_text(encoder.replace("[[1.0, 0.0]]", "[[0.0, 1.0]]"))
    importlib.reload(sys.modules["resumed_encoder"])
    convert.convert(source, tmp_path / "data")
    stored = reader.DataSet(tmp_path / "data").catalog().features
    assert vectors.decode(tf.constant(stored), 2).numpy().tolist() == [[0.0, 1.0]] * 2


def test_a_conversion_begun_by_an_earlier_version_starts_over(log, unbroken, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(convert, "_NOTES_VERSION", convert._NOTES_VERSION - 1)
        patch.setattr(conversion.Stages, "split", _fail)
        with pytest.raises(RuntimeError):
            convert.convert(source_of(log), tmp_path / "data")
    # Its notes of parsed chunks have other entries.
    for path in (tmp_path / ".data.partial" / "work" / "parse").glob("*.json"):
        path.write_text("{}")
    convert.convert(source_of(log), tmp_path / "data")
    assert logs.files(tmp_path / "data") == logs.files(unbroken)


@pytest.mark.process
@pytest.mark.parametrize("limit", [4_000, 20_000])
def test_a_full_disk_is_named_and_what_is_done_is_kept(
    log, unbroken, tmp_path, tmp_path_factory, monkeypatch, limit
):
    out = tmp_path / "data"
    arguments = list(map(str, (log.log, log.schema, log.ads, out)))
    # A limit on the size of a file stands in for a disk that is full.
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n{CONVERT}"
    )
    done = run(tmp_path_factory, limited, *arguments)
    assert re.search(r"OSError: The disk of .* is full .* it resumes", done.stderr)
    assert not out.exists()
    kept, done = finished(out), {}
    publish = workspace.Workspace.publish
    monkeypatch.setattr(
        workspace.Workspace, "publish", lambda space: done.update(finished(out)) or publish(space)
    )
    convert.convert(source_of(log), out)
    assert kept.items() < done.items()
    assert logs.files(out) == logs.files(unbroken)


@pytest.mark.parametrize("step", ["rmtree", "rename"])
def test_a_publication_that_is_cut_short_is_finished(log, unbroken, tmp_path, monkeypatch, step):
    (tmp_path / "data").mkdir()  # an older data set, which is replaced
    with monkeypatch.context() as patch:
        if step == "rmtree":
            patch.setattr(workspace.shutil, "rmtree", _fail_if_there(workspace.shutil.rmtree))
        else:
            patch.setattr(workspace.Workspace, "publish", _fail)
        with pytest.raises(RuntimeError):
            convert.convert(source_of(log), tmp_path / "data")
    with monkeypatch.context() as patch:
        patch.setattr(conversion.Stages, "parse", _fail)  # nothing is done again
        convert.convert(source_of(log), tmp_path / "data")
    assert logs.files(tmp_path / "data") == logs.files(unbroken)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def _fail_if_there(remove):
    def rmtree(path, **options):
        if pathlib.Path(path).exists():
            _fail()
        remove(path, **options)

    return rmtree


def test_a_second_conversion_into_one_directory_is_refused(log, tmp_path):
    with (
        workspace.lock_directory(tmp_path / "data"),
        pytest.raises(OSError, match=r"Another conversion is writing .*data. Wait"),
    ):
        convert.convert(source_of(log), tmp_path / "data")


def test_a_foreign_identity_in_the_workspace_is_replaced(tmp_path):
    first = workspace.Workspace(tmp_path / "data", {"a": 1})
    first.once("parse", 0, lambda: {"rows": 1})
    assert workspace.Workspace(tmp_path / "data", {"a": 1}).note("parse") == {"rows": 1}
    assert workspace.Workspace(tmp_path / "data", {"a": 2}).note("parse") is None


def test_two_conversions_of_the_same_log_give_the_same_bytes(tmp_path):
    path = logs.write(tmp_path / "log.tsv", logs.rows(300))
    first = logs.files(logs.converted(path, tmp_path / "data", rows_per_chunk=100).directory)
    assert (
        logs.files(logs.converted(path, tmp_path / "data", rows_per_chunk=100).directory) == first
    )
