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

import copy
import dataclasses
import json
import pathlib
import pickle
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam
from apache_beam.options import pipeline_options

from tfrecords import conversion, convert, formats

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
        """See `log.Log`."""
        return self._opened.parse(chunk)

    def raw(self, chunk: formats.Chunk, lines: Sequence[int]) -> list[bytes]:
        """See `log.Log`."""
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
    return index, _stages(job, None).parse_piece(index)


def _split(notes: list[tuple[int, dict[str, Any]]], job: _Job) -> Iterable[int]:
    parsed = [note for _, note in sorted(notes, key=lambda numbered: numbered[0])]
    work = _stages(job, None)

    def split() -> None:
        convert.check_rejected(job.source, parsed, job.max_rejected_fraction)
        work.split(parsed)

    return range(len(parsed)) if work.found("split", split) else ()


def _count(index: int, job: _Job) -> int:
    _stages(job, "split").only(index).count()
    return index


def _fit(indices: list[int], job: _Job) -> Iterable[int]:
    if not indices:  # the log could not be split
        return ()
    work = _stages(job, "split")
    more = formats.format_named(job.source.format).read_ads(job.source.files, job.source.schema)
    return indices if work.found("fit", lambda: work.fit(more)) else ()


def _pack(index: int, job: _Job) -> int:
    _stages(job, "fit").only(index).pack()
    return index


def _all(indices: list[int], job: _Job) -> Iterable[int]:
    return indices


def _write(index: int, job: _Job) -> None:
    _stages(job, "pack").only(index).write()


class _Stages(conversion.Stages):
    """The stages as a worker runs them: a chunk at a time, on what other workers found."""

    def __init__(self, job: _Job) -> None:
        space = _reopen(job.directory)
        options = json.loads((space.output / "identity.json").read_text())["options"]
        split = conversion.SplitOptions(**options.pop("split"))
        opened, schema = job.source.open(), job.source.schema
        super().__init__(opened, schema, space, conversion.StageOptions(split, **options), 1, False)
        self._only: int | None = None
        self._kept_sampler: conversion.NegativeSampler | None = None
        self._own = {*vars(self), "_own"}

    def only(self, index: int) -> "_Stages":
        """Returns the stages of one chunk alone."""
        one = copy.copy(self)
        one._only = index
        return one

    def parse_piece(self, index: int) -> dict[str, Any]:
        """Parses a chunk and returns its note."""

        def parse() -> dict[str, Any]:
            return self._parse_chunk(index, _load_piece(self._space, index))

        return self._space.once("parse", index, parse)

    def found(self, step: str, work: Callable[[], None]) -> bool:
        """Runs a step and keeps what it found for other workers; returns whether it could be."""
        try:
            work()
        except ValueError:
            # The driver meets the same error in its own process, and names it better.
            return False
        state = {name: value for name, value in vars(self).items() if name not in self._own}
        path = self._space.path(step, 0, ".state")
        partial = path.with_suffix(".partial")
        partial.write_bytes(pickle.dumps(state, pickle.HIGHEST_PROTOCOL))
        partial.rename(path)
        return True

    def restore(self, step: str) -> None:
        """Takes over what others found up to the end of a step."""
        kept = "fit" if step == "pack" else step
        vars(self).update(pickle.loads(self._space.path(kept, 0, ".state").read_bytes()))
        if step == "pack":  # it reads all packed chunks, so it serves every chunk written here
            self._kept_sampler = super()._sampler()

    def _sampler(self) -> conversion.NegativeSampler | None:
        return self._kept_sampler

    def _each(
        self, stage: str, work: Callable[[int], dict[str, Any]], task: str
    ) -> list[dict[str, Any]]:
        if self._only is None:
            return super()._each(stage, work, task)
        index = self._only
        return [self._space.once(stage, index, lambda: work(index))]


_lock = threading.Lock()
_restored: dict[tuple[str, str | None], _Stages] = {}


def _stages(job: _Job, step: str | None) -> _Stages:
    """Returns the stages after a step, kept while this process works on the step's chunks."""
    with _lock:
        key = (job.run, step)
        if key not in _restored:
            work = _Stages(job)
            if step is not None:
                work.restore(step)
            _restored.clear()
            _restored[key] = work
        return _restored[key]


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
