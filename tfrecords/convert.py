"""Converts a log to a data set: encoder, ad catalog and sharded TFRecords.

The log is read once and cut into chunks. The stages work on chunks in threads, and their results
do not depend on the number and the order of threads:

    parse    text to validated rows, strings as codes of their chunk's values
    split    rows to requests, and requests to splits
    count    values, numbers and ads of the training rows; then encoder and catalog are fitted
    pack     rows to ids
    write    a shard of each split from the requests that begin in a chunk

    DIRECTORY/dataset.json       written last: splits, shards, counts, fingerprint
    DIRECTORY/encoder/           the fitted schema
    DIRECTORY/catalog/           ads.arrow and ad_features.npy
    DIRECTORY/train-00000.tfrecord …, validation-…, test-…
    DIRECTORY/rejected.tsv       file, line, reason and raw text of each rejected row
    DIRECTORY/sample_requests.json   raw query fields of held-out requests
    DIRECTORY/profile.json       numbers of distinct values, rows and labels over time

A killed conversion resumes: see `conversion.Workspace`.
"""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from tfrecords import conversion, files, formats, reader, records, schema, terminal, texts
from tfrecords.splits import SplitOptions

# A few bad rows in a small file do not mean that the file is wrong.
TOLERATED_REJECTS = 10
# Incremented whenever the notes or files of a stage change, so that a conversion that was killed
# under an earlier version starts over instead of reading an unknown format.
_NOTES_VERSION = 4


@dataclasses.dataclass(frozen=True)
class Source:
    """A log and its format.

    Attributes:
        path: The log file, or several, in order.
        schema: The schema of the log.
        format: A name of `formats.FORMATS`, or MODULE:CLASS.
        ads_path: Table of ads, which are added to the catalog even if they were never shown;
            `tabular` and custom line formats also read ad fields from it that the log lacks. None:
            no such table.
        users_path: Table of users' fields for these formats, or None.
        validation_path: Files of the validation split, or none.
        test_path: Files of the test split, or none.
        rows_per_chunk: Approximate number of rows of a chunk; the order of training requests
            depends on it.
    """

    path: pathlib.Path | tuple[pathlib.Path, ...]
    schema: schema.Schema
    format: str = "criteo_kaggle"
    ads_path: pathlib.Path | None = None
    users_path: pathlib.Path | None = None
    validation_path: tuple[pathlib.Path, ...] = ()
    test_path: tuple[pathlib.Path, ...] = ()
    rows_per_chunk: int = formats.ROWS_PER_CHUNK

    def __str__(self) -> str:
        paths = self.files.log
        return str(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")

    @property
    def files(self) -> formats.Files:
        """Files of the log."""
        paths = self.path if isinstance(self.path, tuple) else (self.path,)
        return formats.Files(
            paths, self.validation_path, self.test_path, self.users_path, self.ads_path
        )

    def open(self) -> formats.Log:
        """Opens the log, which may lack columns to show that the table of ads has."""
        elsewhere = formats.shown_names(self.ads_path, self.schema)
        show = tuple(name for name in self.schema.show if name not in elsewhere)
        schema = dataclasses.replace(self.schema, show=show)
        return formats.open_log(self.format, self.files, schema, self.rows_per_chunk)


def convert(
    source: Source,
    directory: str | os.PathLike[str],
    *,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    max_rejected_fraction: float = 0.01,
    split: str = "auto",
    seed: int = 1,
    sampled_negatives: int = 0,
    engagement_window_seconds: float = 0.0,
    workers: int | None = None,
    progress: bool = False,
) -> None:
    """Converts a log; the directory appears when everything is written.

    Args:
        source: The log.
        directory: Output; a data set that exists is replaced.
        validation_fraction: Share of the validation split, before the test split.
        test_fraction: Share of the test split, at the end of the log.
        max_rejected_fraction: Maximum share of rejected rows.
        split: One of `splits.SPLIT_KINDS`.
        seed: Seed of random splits, sampled negatives, and the order of training requests.
        sampled_negatives: Number of sampled negatives per click.
        engagement_window_seconds: Maximum delay of engagement and revenue: in rows younger than
            this at the end of the log, these labels are missing. 0: all labels are known.
        workers: Number of threads; None: the number of cores.
        progress: Whether to show progress bars.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: Too many rows are rejected, no training rows are left, or an option is not
            allowed.
        FileExistsError: The directory contains files other than those of a data set.
        OSError: Another conversion writes to the directory, a file cannot be read, or the disk is
            full. Another run resumes.
    """
    directory = pathlib.Path(directory)
    if not 0 <= max_rejected_fraction <= 1:
        raise ValueError(
            f"max_rejected_fraction must be between 0 and 1, got {max_rejected_fraction}."
        )
    _check_distinct(source)
    options = conversion.StageOptions(
        SplitOptions(split, validation_fraction, test_fraction, seed),
        sampled_negatives,
        engagement_window_seconds,
    )
    opened = source.open()
    identity = {
        "format_version": reader.FORMAT_VERSION,
        "notes_version": _NOTES_VERSION,
        **inputs_of(source, opened),
        "options": dataclasses.asdict(options),
    }
    try:
        with conversion.lock_directory(directory):
            space = conversion.Workspace(directory, identity)
            if not space.is_complete:
                work = conversion.Stages(
                    opened, source.schema, space, options, workers or os.cpu_count() or 1, progress
                )
                try:
                    _run(work, source, max_rejected_fraction)
                except ValueError:  # The log or an option is at fault: there is nothing to resume.
                    space.discard()
                    raise
            space.publish()
    except Exception as error:
        if not files.is_disk_full(error):
            raise
        raise OSError(
            f"The disk of {directory} is full ({error}). Free some space, about the size of the "
            "uncompressed log, and run the same command again: it resumes."
        ) from error


def _run(work: conversion.Stages, source: Source, max_rejected_fraction: float) -> None:
    # First, so that its errors name this table, not the rows of the log that it is joined to.
    more_ads = formats.FORMATS.get(source.format).read_ads(source.files, source.schema)
    parsed = work.parse(
        lambda so_far: check_rejected(source, so_far, max_rejected_fraction, final=False)
    )
    check_rejected(source, parsed, max_rejected_fraction)
    split = work.split(parsed)
    work.count(split)
    fitted = work.fit(split, more_ads)
    packer = work.packer()
    work.pack(split, packer)
    splits = work.write(split, packer)
    num_rows = sum(chunk["lines"] for chunk in parsed)
    num_rejected = sum(chunk["rejected"] for chunk in parsed)
    if not splits["train"].rows:
        lines = terminal.format_count(num_rows, "line leaves", "lines leave")
        raise ValueError(f"{source}: {lines} no training rows. Use a larger log.")
    if not splits["train"].label_counts.get("click"):
        raise ValueError(
            f"{source}: no training row has a click label. Use a file without labels only as the "
            "test split (--test_path)."
        )
    written = sum(counted.rows - counted.sampled for counted in splits.values())
    events = work.event_counts(parsed)
    left_out = events.num_rows if events else 0
    if written + num_rejected + left_out != num_rows:
        raise ValueError(
            f"{source}: {num_rows} rows were read, but {written} written, {num_rejected} rejected "
            f"and {left_out} joined or left out. The file may have changed during the conversion; "
            "convert it again."
        )
    paths = [str(path) for path in source.files]
    described = records.SourceDescription(
        path=paths[0],
        paths=paths,
        format=source.format,
        lines=num_rows,
        rejected=num_rejected,
        events=events,
        ads_table=fitted.ads.table_keys,
        users_table=work.users_table(parsed),
        **sources_of_encoders(source.schema),
    )
    work.finish(split, fitted, packer, described, splits)


def check_rejected(
    source: Source,
    parsed: Sequence[dict[str, Any]],
    max_fraction: float,
    final: bool = True,
) -> None:
    """Refuses a log with too many rejected rows.

    Args:
        source: The log.
        parsed: Notes of the parsed chunks.
        max_fraction: Maximum share of rejected rows.
        final: Whether these are all chunks; otherwise the log is refused only if all rows of a
            whole chunk are rejected.

    Raises:
        ValueError: Too many rows are rejected; the message has the first ones. Or there are none.
    """
    num_rows = sum(chunk["lines"] for chunk in parsed)
    num_rejected = sum(chunk["rejected"] for chunk in parsed)
    if not num_rows:  # A line of a custom format may have no rows.
        if final:
            raise ValueError(f"{source}: no line has rows; expected at least one row.")
        return
    nothing_left = num_rejected == num_rows and (final or num_rows >= source.rows_per_chunk)
    too_many = num_rejected > max_fraction * num_rows and (
        num_rejected > TOLERATED_REJECTS or 2 * num_rejected >= num_rows
    )
    if nothing_left or (final and too_many):
        examples = [example for chunk in parsed for example in chunk["examples"]][:3]
        shown = "\n  ".join(examples)
        limit = f"a share of at most {max_fraction:g} (--max_rejected_fraction)"
        raise ValueError(
            f"{source}: {num_rejected} of {num_rows} lines are rejected; expected "
            f"{'valid lines' if nothing_left else limit}. The first ones:\n  {shown}"
        )


def _check_distinct(source: Source) -> None:
    paths = [path.resolve() for path, _ in source.files.parts()]
    twice = sorted(str(path) for path, count in collections.Counter(paths).items() if count > 1)
    if twice:
        raise ValueError(
            f"{twice[0]} is given twice. Name it once: its rows would be written twice, possibly "
            "in two splits."
        )


def inputs_of(source: Source, opened: formats.Log) -> dict[str, Any]:
    """Returns JSON values that identify a log and how it is read.

    Args:
        source: The log.
        opened: Result of `source.open()`.

    Raises:
        FileNotFoundError, ValueError: See `formats.open_text`.
    """
    return {
        "files": [_identity_of(path) for path in opened.files],
        # The same files may be given for other splits or tables.
        "roles": source.files.to_json(),
        "format": source.format,
        "format_source": formats.FORMATS.digest(source.format),
        "rows_per_chunk": source.rows_per_chunk,
        "schema": source.schema.to_json(),
        **sources_of_encoders(source.schema),
    }


def sources_of_encoders(log_schema: schema.Schema) -> dict[str, Any]:
    """Returns the digests of the text encoders' sources; empty if all encoders are built in."""
    names = {field.encoder for field in log_schema.fields if field.kind == "text"}
    digests = {name: texts.TEXT_ENCODERS.digest(name) for name in names}
    return {"encoder_sources": digests} if any(digests.values()) else {}


def _identity_of(path: pathlib.Path) -> dict[str, Any]:
    """Returns values that identify the content of a file.

    Raises:
        FileNotFoundError, ValueError: See `formats.open_text`.
    """
    formats.open_text(path).close()
    stat = path.stat()
    return {"path": str(path.resolve()), "bytes": stat.st_size, "modified": stat.st_mtime_ns}
