"""A conversion with Beam writes the same bytes as a local one."""

import collections
import contextlib
import dataclasses
import json
import pathlib
import pickle

import history_logs
import logs
import pytest
import requirements
import scripts_in_forks

pytest.importorskip("apache_beam", reason=requirements.NO_BEAM)

from beam_logs import SHOP, converted_both_ways, plain_log, shop, zipped_log

from tfrecords import beam, conversion, convert, formats, reader
from tfrecords.splits import SPLITS

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return plain_log(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def local_files(source, tmp_path_factory):
    directory = tmp_path_factory.mktemp("local") / "data"
    convert.convert(source, directory)
    return logs.files(directory)


def test_each_chunk_is_converted_once_by_the_pipeline_and_to_the_same_bytes(
    source, local_files, tmp_path, monkeypatch
):
    done = collections.Counter()
    once = conversion.Workspace.once

    def counted(space, stage, index, work):
        def counting():
            done[stage, index, running[-1]] += 1
            return work()

        return once(space, stage, index, counting)

    directory, running = tmp_path / "beam", ["driver"]
    run = beam._run

    def run_marked(*args):
        running.append("pipeline")
        run(*args)
        running.append("driver")

    monkeypatch.setattr(conversion.Workspace, "once", counted)
    monkeypatch.setattr(beam, "_run", run_marked)
    convert.convert(beam.on_beam(source, directory), directory)
    assert logs.files(directory) == local_files
    chunks = range(len(list(source.open().chunks())))
    by_pipeline = {
        (stage, index, "pipeline"): 1
        for stage in ("parse", "count", "pack", "write")
        for index in chunks
    }
    assert done == {**by_pipeline, ("parsed", 0, "driver"): 1}
    description = reader.DataSet(directory).description
    assert description.source.rejected == 2
    assert sum(len(description.splits[s].shards) for s in SPLITS) > 7


def test_a_zipped_log_is_converted_to_the_same_bytes_without_shared_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(beam, "_worker", beam._Worker)  # a new one for each chunk and stage
    local, on_beam = converted_both_ways(zipped_log(tmp_path), tmp_path)
    assert local == on_beam


def test_rates_are_the_same(tmp_path):
    history_logs.log().to_csv(tmp_path / "log.csv", index=False)
    schema = history_logs.schema_with_rates()
    source = convert.Source(tmp_path / "log.csv", schema, "tabular", rows_per_chunk=300)
    local, on_beam = converted_both_ways(source, tmp_path)
    assert local == on_beam


def test_relative_paths_refer_to_the_driver_with_several_threads(tmp_path, monkeypatch):
    """The workers have another current directory, in which another log has the same name."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "log.tsv").write_text("another log\n")

    def run_elsewhere(*args):
        with contextlib.chdir(elsewhere):
            run(*args)

    run = beam._run
    monkeypatch.setattr(beam, "_run", run_elsewhere)
    monkeypatch.chdir(tmp_path)
    source = dataclasses.replace(plain_log(tmp_path), path=pathlib.Path("log.tsv"))
    arguments = "--direct_running_mode=multi_threading", "--direct_num_workers=3"
    local, on_beam = converted_both_ways(source, pathlib.Path(), arguments)
    assert local == on_beam


def test_scattered_requests_and_sampled_negatives_are_the_same(tmp_path):
    local, on_beam = converted_both_ways(
        shop(tmp_path, "parquet"), tmp_path, split="leave_last_out", sampled_negatives=2, seed=5
    )
    assert local == on_beam
    description = json.loads((tmp_path / "beam" / "dataset.json").read_text())
    assert description["splits"]["train"]["sampled"] > 0


def test_another_process_gives_the_same_bytes(source, local_files, tmp_path):
    arguments = "--direct_running_mode=multi_processing", "--direct_num_workers=1"
    directory = tmp_path / "beam"
    convert.convert(beam.on_beam(source, directory, arguments), directory)
    assert logs.files(directory) == local_files


def test_a_failed_pipeline_is_named_and_resumed(source, local_files, tmp_path, monkeypatch):
    directory = tmp_path / "beam"

    def failing(index, job):
        if index == 3:
            raise OSError("the worker lost its disk")
        return pack(index, job)

    pack = beam._pack
    with monkeypatch.context() as patch:
        patch.setattr(beam, "_pack", failing)
        with pytest.raises(OSError, match=r"pipeline failed: .*lost its disk.*it resumes"):
            convert.convert(beam.on_beam(source, directory), directory)
    kept = (tmp_path / ".beam.partial" / "work" / "count" / "00003.json").stat().st_mtime_ns

    def check_kept(*args):
        run(*args)
        path = tmp_path / ".beam.partial" / "work" / "count" / "00003.json"
        assert path.stat().st_mtime_ns == kept

    run = beam._run
    monkeypatch.setattr(beam, "_run", check_kept)
    convert.convert(beam.on_beam(source, directory), directory)
    assert logs.files(directory) == local_files


@pytest.mark.parametrize(
    ("made", "copied"),
    [(plain_log, False), (zipped_log, True), (lambda path: shop(path, "parquet"), True)],
    ids=["plain", "gzip", "parquet"],
)
def test_plain_text_is_read_by_the_workers_and_other_logs_are_copied(made, copied, tmp_path):
    source = made(tmp_path)
    space = conversion.Workspace(tmp_path / "data", {})
    chunks = list(beam._cut(source.open(), space))
    for index, (empty, chunk) in enumerate(zip(chunks, source.open().chunks(), strict=True)):
        path = space.path("cut", index, ".arrow")
        assert beam._load_chunk(path, tmp_path) == chunk
        assert empty.payload is None
    # The first of several chunks has a seventh of the log's bytes.
    assert (space.path("cut", 0, ".arrow").stat().st_size > 2_000) == copied


class Payload:
    """Code that runs when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_no_file_of_the_shared_workspace_can_execute_code(source, tmp_path, monkeypatch):
    """An attacker who can write to the workspace replaces every file by a pickle."""
    directory = tmp_path / "beam"

    def attacked(notes, job):
        reached = split(notes, job)
        space = beam._reopen(directory)
        for path in space.path("split", 0).parent.iterdir():
            path.write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
        return reached

    split = beam._split
    monkeypatch.setattr(beam, "_split", attacked)
    with pytest.raises(ValueError, match="pickled"):
        convert.convert(beam.on_beam(source, directory), directory)
    assert not (tmp_path / "executed").exists()


def test_a_log_of_bad_rows_gives_the_local_error(tmp_path):
    rows = logs.rows(300)
    path = logs.write(tmp_path / "log.tsv", [*rows, *[["bad"]] * 300])
    source = convert.Source(path, logs.FEW_FIELDS, rows_per_chunk=100)
    with pytest.raises(ValueError, match=r"300 of 600 lines are rejected") as local:
        convert.convert(source, tmp_path / "local")
    directory = tmp_path / "beam"
    with pytest.raises(ValueError, match=r"300 of 600 lines are rejected") as on_beam:
        convert.convert(beam.on_beam(source, directory), directory)
    assert str(on_beam.value) == str(local.value)
    assert not directory.exists()
    assert not (tmp_path / ".beam.partial").exists()


def test_a_log_without_rows_gives_the_local_error(tmp_path):
    (tmp_path / "log.csv").write_text(",".join(SHOP.columns) + "\n")
    source = convert.Source(tmp_path / "log.csv", SHOP, "tabular")
    with pytest.raises(ValueError, match=r"log\.csv has no rows; expected at least one"):
        convert.convert(beam.on_beam(source, tmp_path / "beam"), tmp_path / "beam")


def test_a_worker_without_the_shared_directory_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"do not share .* all of them mount"):
        beam._reopen(tmp_path / "elsewhere")


def test_the_script_refuses_an_unknown_flag(tmp_path):
    done = run_script(
        "convert.py", "--use_synthetic", "--runner=DirectRunner", "--spilt=time", status=1
    )
    assert (
        "'--spilt=time' is not a flag of this command or of Beam. Did you mean 'split'?"
        in done.stderr
    )


def test_an_unknown_runner_is_refused_before_anything_is_written(tmp_path):
    done = run_script(
        "convert.py", "--use_synthetic", "--runner=Dask", f"--workdir={tmp_path / 'none'}", status=1
    )
    assert "--runner is 'Dask'; expected one of Apache Beam, such as" in done.stderr
    assert not (tmp_path / "none").exists()


def test_the_script_writes_what_convert_writes(source, tmp_path):
    path = f"--data_path={source.path}"
    run_script("convert.py", path, f"--workdir={tmp_path / 'beam'}", "--runner=DirectRunner")
    convert.convert(convert.Source(source.path, formats.criteo.schema()), tmp_path / "local")
    assert logs.files(tmp_path / "beam" / "data") == logs.files(tmp_path / "local")


def run_script(name, *flags, status=0):
    done = scripts_in_forks.run(name, *flags)
    assert done.returncode == status, done.stdout + done.stderr
    return done
