"""Conversion on a cluster, with Apache Beam (extra `beam`); local conversion does not need it.

    log = beam.on_beam(source, directory, ["--runner=DirectRunner"])
    convert.convert(log, directory)

`convert.convert` runs unchanged. The workers convert all chunks before it reads the first one, and
it finds their notes and files in the workspace. The result is byte for byte the same as from a
local conversion, and each of the two can resume the other.

    driver     cut: locates each chunk; a chunk of plain text is a range of its file, other chunks
               (gzip, Parquet) are copied to the workspace
    workers    parse │ split │ count │ fit │ pack │ write
    driver     checks, catalog and `dataset.json`, by `convert.convert`

Split and fit run on one worker each, with the memory of a local run, and share their results in
the workspace. A stage starts when the previous one is finished for all chunks. All shared files are
JSON, Arrow or NumPy arrays without pickled objects, so that reading them executes no code.

The driver and all workers must share a file system (NFS, Filestore, a mounted bucket) that renames
atomically, with the log and the output at the same paths. Every worker needs this package with its
dependencies (--sdk_container_image or --setup_file). This is tested on one machine: with Beam's
direct runner, with a Dask cluster, and with a pool of workers under the portable runner, whose
protocol Flink and Spark use. It is not tested on Flink, Spark or Dataflow, nor on a mounted bucket.
"""

import dataclasses
import functools
import importlib
import json
import pathlib
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam
import pyarrow as pa
from apache_beam.options import pipeline_options

from tfrecords import conversion, convert, formats, records, terminal
from tfrecords.splits import SplitOptions

_HEADER_BYTES = 1 << 20
_PROBE_BYTES = 1 << 12


@dataclasses.dataclass(frozen=True)
class _BeamSource(convert.Source):
    """The result of `on_beam`, whose arguments it has.

    Attributes:
        base: Current directory of the driver, to which relative paths refer.
        run: Identifies the pipeline.
    """

    directory: pathlib.Path = pathlib.Path()
    max_rejected_fraction: float = 0.01
    arguments: tuple[str, ...] = ()
    base: pathlib.Path = dataclasses.field(default_factory=pathlib.Path.cwd)
    run: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)

    def open(self) -> formats.Log:
        """Opens the log."""
        return _BeamLog(super().open(), self)

    def on_worker(self) -> convert.Source:
        """Returns the log with absolute paths, because a worker has another current directory."""
        files = self.files
        return convert.Source(
            tuple(self.base / path for path in files.log),
            self.schema,
            self.format,
            ads_path=files.ads and self.base / files.ads,
            users_path=files.users and self.base / files.users,
            validation_path=tuple(self.base / path for path in files.validation),
            test_path=tuple(self.base / path for path in files.test),
            rows_per_chunk=self.rows_per_chunk,
        )


def on_beam(
    source: convert.Source,
    directory: pathlib.Path,
    arguments: Sequence[str] = (),
    max_rejected_fraction: float = 0.01,
) -> convert.Source:
    """Returns a log that Beam's workers convert.

    Args:
        source: The log.
        directory: Output, the same as in `convert.convert`.
        arguments: Beam's command-line options; by default the direct runner is used.
        max_rejected_fraction: Maximum share of rejected rows, the same as in `convert.convert`.
    """
    return _BeamSource(
        **vars(source),
        directory=directory.absolute(),
        max_rejected_fraction=max_rejected_fraction,
        arguments=tuple(arguments),
    )


def check_options(arguments: Sequence[str], known_here: Iterable[str] = ()) -> None:
    """Checks that each argument is an option of Beam.

    Args:
        arguments: Options as --name=value.
        known_here: Names of other flags, which are suggested for a misspelled one.

    Raises:
        ValueError: An argument is not an option of Beam.
    """
    options = _with_dask(arguments)
    parser = pipeline_options._BeamArgumentParser(
        allow_abbrev=False, add_help=False, conflict_handler="resolve"
    )
    for group in pipeline_options.PipelineOptions.__subclasses__():
        group._add_argparse_args(parser)
    known, unknown = parser.parse_known_args(options)
    if unknown:
        name = unknown[0].removeprefix("--").partition("=")[0]
        hint = terminal.suggestion_for(name, known_here)
        raise ValueError(
            f"{unknown[0]!r} is not a flag of this command or of Beam.{hint} See --help."
        )
    try:
        apache_beam.runners.create_runner(known.runner)
    except (ValueError, ImportError) as error:
        raise ValueError(
            f"--runner is {known.runner!r}; expected one of Apache Beam, such as DirectRunner, "
            f"DaskRunner, PortableRunner, FlinkRunner or SparkRunner ({error})."
        ) from error


class _BeamLog:
    """A log that yields its chunks after workers have converted them."""

    def __init__(self, opened: formats.Log, source: _BeamSource) -> None:
        self.files = opened.files
        self.users_table = getattr(opened, "users_table", None)
        self.parse, self.raw = opened.parse, opened.raw
        self._opened = opened
        self._source = source

    def chunks(self) -> Iterator[formats.Chunk]:
        """Runs the pipeline, then yields the chunks without their rows."""
        space = _reopen(self._source.directory)
        chunks = list(_cut(self._opened, space))
        if not chunks:
            return
        try:
            _run(self._source, len(chunks))
        except (RuntimeError, OSError) as error:  # Most runners wrap the error of a worker.
            raise OSError(
                f"The Beam pipeline failed: {str(error).rstrip('.')}. Remove the cause and run the "
                "same command again: it resumes."
            ) from error
        for index, chunk in enumerate(chunks):
            if space.note("parse", index) is None:
                raise FileNotFoundError(_not_shared(space.output))
            yield chunk


class _WorkerLog:
    """A log on a worker: its chunks keep the paths that they have on the driver."""

    def __init__(self, source: _BeamSource) -> None:
        self._opened = source.on_worker().open()
        self._base = source.base
        self.files, self.chunks = self._opened.files, self._opened.chunks

    def parse(self, chunk: formats.Chunk) -> formats.Parsed:
        """See `formats.Log`."""
        return self._opened.parse(self._absolute(chunk))

    def raw(self, chunk: formats.Chunk, lines: Sequence[int]) -> list[bytes]:
        """See `formats.Log`."""
        return self._opened.raw(self._absolute(chunk), lines)

    def _absolute(self, chunk: formats.Chunk) -> formats.Chunk:
        return dataclasses.replace(chunk, path=self._base / chunk.path)


def _run(job: _BeamSource, num_chunks: int) -> None:
    """Runs the pipeline to its end."""
    options = pipeline_options.PipelineOptions(_with_dask(job.arguments))
    with apache_beam.Pipeline(options=options) as pipeline:
        chunks = pipeline | "Cut" >> apache_beam.Create(range(num_chunks))
        for name, stage, then in (
            ("Parse", _parse, _split),
            ("Count", _count, _fit),
            ("Pack", _pack, lambda indices, _: indices),
            ("Write", _write, None),
        ):
            done = (
                chunks
                | f"Spread {name}" >> apache_beam.Reshuffle()
                | name >> apache_beam.Map(stage, job)
            )
            if then is not None:
                # One element with all notes: the next stage starts when all are finished.
                notes = done | f"Gather {name}" >> apache_beam.combiners.ToList()
                chunks = notes | f"After {name}" >> apache_beam.FlatMap(then, job)


def _with_dask(arguments: Sequence[str]) -> list[str]:
    """Returns Beam's options; Beam accepts Dask's runner only by its full name."""
    short = "--runner=DaskRunner"
    if short not in arguments:
        return list(arguments)
    module = "apache_beam.runners.dask.dask_runner"
    importlib.import_module(module)  # Its options are known once it is imported.
    full = f"--runner={module}.DaskRunner"
    # By default Dask puts few chunks into one partition, which one worker then converts.
    return ["--dask_partition_size=1", *(full if a == short else a for a in arguments)]


def _parse(index: int, job: _BeamSource) -> tuple[int, dict[str, Any]]:
    work = _worker(job)

    def parse() -> dict[str, Any]:
        chunk = _load_chunk(work.space.path("cut", index, ".arrow"), job.base)
        return work.stages.parse_chunk(index, chunk)

    return index, work.space.once("parse", index, parse)


def _split(notes: list[tuple[int, dict[str, Any]]], job: _BeamSource) -> Iterable[int]:
    parsed = [note for _, note in sorted(notes, key=lambda numbered: numbered[0])]
    work = _worker(job)
    try:
        convert.check_rejected(job, parsed, job.max_rejected_fraction)
        split = work.stages.split(parsed)
    except ValueError:  # The driver runs into the same error, and reports it better.
        return ()
    conversion.save_split(split, work.split_path)
    return range(len(parsed))


def _count(index: int, job: _BeamSource) -> int:
    work = _worker(job)
    work.space.once("count", index, lambda: work.stages.count_chunk(work.split, index))
    return index


def _fit(indices: list[int], job: _BeamSource) -> Iterable[int]:
    if not indices:  # The log could not be split.
        return ()
    work = _worker(job)
    try:
        more = formats.FORMATS.get(job.format).read_ads(job.on_worker().files, job.schema)
        work.stages.fit(work.split, more)
    except ValueError:  # As in `_split`.
        return ()
    return indices


def _pack(index: int, job: _BeamSource) -> int:
    work = _worker(job)
    work.space.once("pack", index, lambda: work.stages.pack_chunk(work.split, work.packer, index))
    return index


def _write(index: int, job: _BeamSource) -> None:
    work = _worker(job)
    work.space.once(
        "write",
        index,
        lambda: work.stages.write_chunk(work.split, work.packer, work.sampler, index),
    )


class _Worker:
    """Runs the stages for single chunks, in the workspace and with the results of all workers."""

    def __init__(self, job: _BeamSource) -> None:
        self.space = _reopen(job.directory)
        options = json.loads((self.space.output / "identity.json").read_text())["options"]
        split = SplitOptions(**options.pop("split"))
        self.stages = conversion.Stages(
            _WorkerLog(job),
            job.schema,
            self.space,
            conversion.StageOptions(split, **options),
            workers=1,
            progress=False,
        )

    @property
    def split_path(self) -> pathlib.Path:
        """Path of the split that the workers share."""
        return self.space.path("split", 0, ".npz")

    @functools.cached_property
    def split(self) -> conversion.SplitLog:
        """Result of the split."""
        return conversion.load_split(self.split_path)

    @functools.cached_property
    def packer(self) -> conversion.Packer:
        """Encoder of rows, with the encoder and the catalog that `_fit` wrote."""
        return self.stages.packer()

    @functools.cached_property
    def sampler(self) -> conversion.NegativeSampler | None:
        """Sampler of negatives; it reads all packed chunks, so it is built once per worker."""
        return self.stages.sampler(self.split, self.packer)


_lock = threading.Lock()
_workers: dict[str, _Worker] = {}


def _worker(job: _BeamSource) -> _Worker:
    """Returns this process's worker for a pipeline."""
    with _lock:
        if job.run not in _workers:
            _workers.clear()
            _workers[job.run] = _Worker(job)
        return _workers[job.run]


def _reopen(directory: pathlib.Path) -> conversion.Workspace:
    """Opens the workspace of a running conversion."""
    output = directory.with_name(f".{directory.name}.partial")
    identity = output / "identity.json"
    if not identity.is_file():
        raise FileNotFoundError(_not_shared(output))
    return conversion.Workspace(directory, json.loads(identity.read_text(encoding="utf-8")))


def _not_shared(output: pathlib.Path) -> str:
    return (
        f"The driver and the workers do not share {output}. Set --workdir to a directory that all "
        "of them mount under the same path."
    )


def _cut(opened: formats.Log, space: conversion.Workspace) -> Iterator[formats.Chunk]:
    """Writes the location or the rows of each chunk, and yields the chunks without their rows."""
    ends: dict[pathlib.Path, int] = {}
    for index, chunk in enumerate(opened.chunks()):
        offset = _offset(chunk, ends)
        if offset is not None:
            ends[chunk.path] = offset + len(chunk.payload)
        if space.note("parse", index) is None:
            _save_chunk(space.path("cut", index, ".arrow"), chunk, offset)
        yield dataclasses.replace(chunk, payload=None)


def _save_chunk(path: pathlib.Path, chunk: formats.Chunk, offset: int | None) -> None:
    """Writes a chunk that `_load_chunk` reads back: its rows, and its other attributes as metadata.

    Text at an offset of its file is not copied.
    """
    rows, size = chunk.payload, None
    if isinstance(rows, bytes):
        size = len(rows)
        text = b"" if offset is not None else rows
        rows = pa.table({"text": pa.array([text], pa.large_binary())})
    plain = {**vars(chunk), "path": str(chunk.path), "offset": offset, "size": size}
    del plain["payload"]
    records.write_arrow(rows.replace_schema_metadata({"chunk": json.dumps(plain)}), path)


def _load_chunk(path: pathlib.Path, base: pathlib.Path) -> formats.Chunk:
    """Returns a chunk with its rows; relative paths of logs refer to `base`."""
    rows = records.read_arrow(path)
    plain = json.loads(rows.schema.metadata[b"chunk"])
    offset, size = plain.pop("offset"), plain.pop("size")
    plain.update(path=pathlib.Path(plain["path"]), columns=tuple(plain["columns"]))
    if size is None:
        return formats.Chunk(**plain, payload=rows.replace_schema_metadata(None))
    (text,) = rows["text"].to_pylist()
    if offset is not None:
        with (base / plain["path"]).open("rb") as file:
            file.seek(offset)
            text = file.read(size)
    return formats.Chunk(**plain, payload=text)


def _offset(chunk: formats.Chunk, ends: Mapping[pathlib.Path, int]) -> int | None:
    """Returns the offset of a chunk's text in its file, or None if the file does not hold it."""
    text = chunk.payload
    if not isinstance(text, bytes):
        return None
    with chunk.path.open("rb") as file:
        offset = ends.get(chunk.path)
        if offset is None:  # The first chunk, after a header or a byte order mark.
            offset = file.read(_HEADER_BYTES).find(text[:_PROBE_BYTES])
        file.seek(max(offset, 0))
        return offset if file.read(len(text)) == text and offset >= 0 else None
