"""The conversion on a cluster, under Apache Beam (extra `beam`); the local run needs no Beam.

    log = beam.on_beam(source, directory, ["--runner=DirectRunner"])
    convert.convert(log, directory)

`convert.convert` runs as ever, on a log whose chunks have been converted by workers before
it reads the first: they leave their notes and files in the workspace, where the driver
finds them. The result is that of a local run byte for byte, and either resumes the other.

    driver     cut: where each chunk lies; a chunk of plain text is a range of its file, any
               other (gzip, Parquet, companion files) is copied into the workspace
    workers    parse │ split │ count │ fit │ pack │ write
    driver     checks, catalogue and `dataset.json`, by `convert.convert`

Split and fit are one element each and run on one worker, with the memory of a local run;
what they find goes to the others through the workspace. Between two stages all chunks meet.

What a cluster needs: the log and the output under the same paths on a file system that the
driver and all workers share (NFS, Filestore, a mounted bucket) and that renames atomically,
and this package with its dependencies on every worker (--sdk_container_image or
--setup_file). Tested with Beam's direct runner, with several workers in threads and in
processes of one machine; not tested on Dataflow, Flink or Spark, nor on a mounted bucket.
"""

import dataclasses
import functools
import json
import pathlib
import pickle
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam
from apache_beam.options import pipeline_options

from tfrecords import conversion, convert, files, formats
from tfrecords.splits import SplitOptions

_HEADER_BYTES = 1 << 20
_PROBE_BYTES = 1 << 12


@dataclasses.dataclass(frozen=True)
class BeamSource(convert.Source):
    """A log that workers convert; `on_beam` makes one.

    Attributes:
        directory: The conversion's output.
        max_rejected_fraction: With more rejected rows the workers stop after parsing.
        arguments: Beam's options, as on a command line.
    """

    directory: pathlib.Path = pathlib.Path()
    max_rejected_fraction: float = 0.01
    arguments: tuple[str, ...] = ()

    def open(self) -> formats.Log:
        """Opens the log."""
        return _BeamLog(super().open(), self)


def on_beam(
    source: convert.Source,
    directory: pathlib.Path,
    arguments: Sequence[str] = (),
    max_rejected_fraction: float = 0.01,
) -> convert.Source:
    """Returns a log that is converted by Beam's workers.

    Args:
        source: The log.
        directory: Output, the one that is given to `convert.convert`.
        arguments: Beam's options, as on a command line; none is the direct runner.
        max_rejected_fraction: As given to `convert.convert`.
    """
    return BeamSource(
        **vars(source),
        directory=directory,
        max_rejected_fraction=max_rejected_fraction,
        arguments=tuple(arguments),
    )


class _BeamLog:
    """A log whose chunks are handed out when they have been converted."""

    def __init__(self, opened: formats.Log, source: BeamSource) -> None:
        self.files = opened.files
        self._opened = opened
        self._source = source

    def chunks(self) -> Iterator[formats.Chunk]:
        """Runs the pipeline, then yields the chunks without their rows."""
        space = _reopen(self._source.directory)
        chunks = list(_cut(self._opened, space))
        if not chunks:
            return
        plain = {f.name: getattr(self._source, f.name) for f in dataclasses.fields(convert.Source)}
        job = _Job(
            convert.Source(**plain),
            self._source.directory,
            self._source.max_rejected_fraction,
            uuid.uuid4().hex,
        )
        try:
            _run(job, len(chunks), self._source.arguments)
        except (RuntimeError, OSError) as error:  # most runners wrap what a worker raised
            raise OSError(
                f"The Beam pipeline failed: {error}. Run the same command again when the cause is "
                "mended: it resumes."
            ) from error
        for index, chunk in enumerate(chunks):
            if space.note("parse", index) is None:
                raise FileNotFoundError(_not_shared(space.output))
            yield chunk

    def parse(self, chunk: formats.Chunk) -> formats.Parsed:
        """See `formats.Log`."""
        return self._opened.parse(chunk)

    def raw(self, chunk: formats.Chunk, lines: Sequence[int]) -> list[bytes]:
        """See `formats.Log`."""
        return self._opened.raw(chunk, lines)


@dataclasses.dataclass(frozen=True)
class _Job:
    """What a worker is told.

    Attributes:
        source: The log.
        directory: The conversion's output.
        max_rejected_fraction: As `on_beam`.
        run: Another one for each pipeline.
    """

    source: convert.Source
    directory: pathlib.Path
    max_rejected_fraction: float
    run: str


def _run(job: _Job, num_chunks: int, arguments: Sequence[str]) -> None:
    """Runs the pipeline and waits for its end."""
    options = pipeline_options.PipelineOptions(list(arguments))
    with apache_beam.Pipeline(options=options) as pipeline:
        chunks = pipeline | "Cut" >> apache_beam.Create(range(num_chunks))
        for name, each, then in (
            ("Parse", _parse, _split),
            ("Count", _count, _fit),
            ("Pack", _pack, _all),
            ("Write", _write, None),
        ):
            done = (
                chunks
                | f"Spread {name}" >> apache_beam.Reshuffle()
                | name >> apache_beam.Map(each, job)
            )
            if then is not None:
                # One element that holds all notes: the next stage begins when all are there.
                notes = done | f"Gather {name}" >> apache_beam.combiners.ToList()
                chunks = notes | f"After {name}" >> apache_beam.FlatMap(then, job)


def _parse(index: int, job: _Job) -> tuple[int, dict[str, Any]]:
    work = _worker(job)

    def parse() -> dict[str, Any]:
        return work.stages.parse_chunk(index, _load_piece(work.space, index))

    return index, work.space.once("parse", index, parse)


def _split(notes: list[tuple[int, dict[str, Any]]], job: _Job) -> Iterable[int]:
    parsed = [note for _, note in sorted(notes, key=lambda numbered: numbered[0])]
    work = _worker(job)

    def split() -> conversion.SplitLog:
        convert.check_rejected(job.source, parsed, job.max_rejected_fraction)
        return work.stages.split(parsed)

    return range(len(parsed)) if work.share("split", split) else ()


def _count(index: int, job: _Job) -> int:
    work = _worker(job)
    work.space.once("count", index, lambda: work.stages.count_chunk(work.split, index))
    return index


def _fit(indices: list[int], job: _Job) -> Iterable[int]:
    if not indices:  # the log could not be split
        return ()
    work = _worker(job)
    more = formats.format_named(job.source.format).read_ads(job.source.files, job.source.schema)
    return indices if work.share("fit", lambda: work.stages.fit(work.split, more)) else ()


def _pack(index: int, job: _Job) -> int:
    work = _worker(job)
    work.space.once("pack", index, lambda: work.stages.pack_chunk(work.split, work.packer, index))
    return index


def _all(indices: list[int], job: _Job) -> Iterable[int]:
    return indices


def _write(index: int, job: _Job) -> None:
    work = _worker(job)
    work.space.once(
        "write",
        index,
        lambda: work.stages.write_chunk(work.split, work.packer, work.sampler, index),
    )


class _Worker:
    """The stages as a worker runs them: a chunk at a time, on what other workers found.

    Attributes:
        space: The workspace, which all workers see.
        stages: The stages of the conversion.
    """

    def __init__(self, job: _Job) -> None:
        self.space = _reopen(job.directory)
        options = json.loads((self.space.output / "identity.json").read_text())["options"]
        split = SplitOptions(**options.pop("split"))
        self.stages = conversion.Stages(
            job.source.open(),
            job.source.schema,
            self.space,
            conversion.StageOptions(split, **options),
            workers=1,
            progress=False,
        )

    def share(self, step: str, work: Callable[[], Any]) -> bool:
        """Runs a step and keeps what it found for all workers; returns whether it could be."""
        try:
            found = work()
        except ValueError:
            # The driver meets the same error in its own process, and names it better.
            return False
        content = pickle.dumps(found, pickle.HIGHEST_PROTOCOL)
        files.write(self.space.path(step, 0, ".found"), content)
        return True

    @functools.cached_property
    def split(self) -> conversion.SplitLog:
        """What the split found."""
        return pickle.loads(self.space.path("split", 0, ".found").read_bytes())

    @functools.cached_property
    def packer(self) -> conversion.Packer:
        """What encodes rows, with what was fitted."""
        fitted = pickle.loads(self.space.path("fit", 0, ".found").read_bytes())
        return self.stages.packer(fitted)

    @functools.cached_property
    def sampler(self) -> conversion.NegativeSampler | None:
        """What samples negatives; it reads all packed chunks, so it serves every chunk here."""
        return self.stages.sampler(self.split, self.packer)


_lock = threading.Lock()
_workers: dict[str, _Worker] = {}


def _worker(job: _Job) -> _Worker:
    """Returns the worker of a pipeline, kept while this process works on its chunks."""
    with _lock:
        if job.run not in _workers:
            _workers.clear()
            _workers[job.run] = _Worker(job)
        return _workers[job.run]


def _reopen(directory: pathlib.Path) -> conversion.Workspace:
    """Opens the workspace of a conversion that has begun."""
    output = directory.with_name(f".{directory.name}.partial")
    identity = output / "identity.json"
    if not identity.is_file():
        raise FileNotFoundError(_not_shared(output))
    return conversion.Workspace(directory, json.loads(identity.read_text(encoding="utf-8")))


def _not_shared(output: pathlib.Path) -> str:
    return (
        f"The driver and the workers do not see the same {output}: give a --workdir on a file "
        "system that all of them mount under the same path."
    )


@dataclasses.dataclass(frozen=True)
class _Piece:
    """Where the rows of a chunk lie.

    Attributes:
        chunk: The chunk; its payload is None where it is read from its file.
        offset: Where the payload begins in the file, or None.
        size: Bytes of the payload there.
    """

    chunk: formats.Chunk
    offset: int | None
    size: int = 0

    def read(self) -> formats.Chunk:
        """Returns the chunk with its payload."""
        if self.offset is None:
            return self.chunk
        with self.chunk.path.open("rb") as file:
            file.seek(self.offset)
            return dataclasses.replace(self.chunk, payload=file.read(self.size))


def _cut(opened: formats.Log, space: conversion.Workspace) -> Iterator[formats.Chunk]:
    """Writes the piece of every chunk, and yields the chunks without their rows."""
    ends: dict[pathlib.Path, int] = {}
    for index, chunk in enumerate(opened.chunks()):
        empty = dataclasses.replace(chunk, payload=None, companion=None)
        offset = _offset(chunk, ends)
        if offset is None:
            piece = _Piece(chunk, None)
        else:
            piece = _Piece(empty, offset, len(chunk.payload))
            ends[chunk.path] = offset + len(chunk.payload)
        if space.note("parse", index) is None:
            space.path("cut", index, ".piece").write_bytes(pickle.dumps(piece))
        yield empty


def _load_piece(space: conversion.Workspace, index: int) -> formats.Chunk:
    """Returns a chunk with its rows."""
    piece: _Piece = pickle.loads(space.path("cut", index, ".piece").read_bytes())
    return piece.read()


def _offset(chunk: formats.Chunk, ends: Mapping[pathlib.Path, int]) -> int | None:
    """Returns where a chunk's text begins in its file, or None where it is not there as it is."""
    text = chunk.payload
    if not isinstance(text, bytes) or chunk.companion is not None:
        return None
    with chunk.path.open("rb") as file:
        offset = ends.get(chunk.path)
        if offset is None:  # the first chunk, behind a header or a byte order mark
            offset = file.read(_HEADER_BYTES).find(text[:_PROBE_BYTES])
        file.seek(max(offset, 0))
        return offset if file.read(len(text)) == text and offset >= 0 else None
