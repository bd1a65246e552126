"""Converts a log into a data set: encoder, ad catalogue and sharded TFRecords.

Two passes stream the log. The first fits the encoder on the training rows and collects
the ad catalogue; the second encodes and writes. A request never spans two splits, and
every line is either written or counted as rejected.

    DIRECTORY/dataset.json       written last: splits, shards, counts, fingerprint
    DIRECTORY/encoder/           the fitted schema
    DIRECTORY/catalogue/         ads.arrow and ad_features.npy
    DIRECTORY/train-00000.tfrecord …, validation-…, test-…
    DIRECTORY/rejected.tsv       line, reason and raw text of each rejected line
    DIRECTORY/sample_requests.json   raw query fields of held-out requests
"""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from tfrecords import catalogue as catalogue_lib
from tfrecords import encoding, fitting, reader, records, splitting, writer
from tfrecords import schema as schema_lib
from tfrecords.formats import criteo, lines

SPLITS = splitting.SPLITS
FORMATS: dict[str, Callable[..., Iterator[lines.Block]]] = {"criteo": criteo.read}
# A handful of bad lines in a small file is no sign of a wrong file.
TOLERATED_REJECTS = 10
NUM_SAMPLE_REQUESTS = 256


@dataclasses.dataclass(frozen=True)
class Source:
    """A log and how it is read.

    Attributes:
        path: The log file.
        schema: What its columns are.
        format: One of `FORMATS`.
        ads_path: A tab-separated table with header of ads to add to the catalogue, shown
            or not; None: the catalogue holds the ads of the log.
    """

    path: pathlib.Path
    schema: schema_lib.Schema
    format: str = "criteo"
    ads_path: pathlib.Path | None = None

    def blocks(self) -> Iterator[lines.Block]:
        return FORMATS[self.format](self.path, self.schema)


def convert(
    source: Source,
    directory: str | os.PathLike[str],
    *,
    validation_fraction: float,
    test_fraction: float,
    max_rejected_fraction: float,
    progress: bool = False,
) -> None:
    """Converts a log; the directory appears when all is written.

    Args:
        source: The log.
        directory: Output; replaced if it exists.
        validation_fraction: Share of the log, before the test part, held out for validation.
        test_fraction: Share at the end of the log held out for testing.
        max_rejected_fraction: The largest share of rejected lines that is accepted.
        progress: Whether to show progress bars.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: Too many lines are rejected, nothing is left, or the fractions are wrong.
    """
    if not (
        validation_fraction > 0 and test_fraction > 0 and validation_fraction + test_fraction < 1
    ):
        raise ValueError(
            "validation_fraction and test_fraction must be positive and sum to less than 1, got "
            f"{validation_fraction} and {test_fraction}."
        )
    directory = pathlib.Path(directory)
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        splitter = splitting.Splitter(
            source.blocks,
            source.schema.request_key,
            lines.count_file_lines(source.path),
            validation_fraction,
            test_fraction,
            progress,
        )
        _convert(source, splitter, partial, max_rejected_fraction)
        if directory.exists():
            shutil.rmtree(directory)
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _convert(
    source: Source,
    splitter: splitting.Splitter,
    directory: pathlib.Path,
    max_rejected_fraction: float,
) -> None:
    fitted, catalogue, num_rejected = _fit(source, splitter, directory, max_rejected_fraction)
    splits = _write(source, splitter, fitted, catalogue, directory)
    num_lines = splitter.num_lines
    if not splits["train"]["rows"]:
        raise ValueError(
            f"{source.path}: no training rows are left of {num_lines} lines; use a larger log."
        )
    written = sum(split["rows"] for split in splits.values())
    if written + num_rejected != num_lines:
        raise ValueError(
            f"{source.path}: {num_lines} lines were read but {written} written and "
            f"{num_rejected} rejected; did the file change meanwhile? Convert again."
        )
    description = {
        "format_version": reader.FORMAT_VERSION,
        "fingerprint": fitted.fingerprint(),
        "schema": source.schema.to_json(),
        "source": {"path": str(source.path), "lines": num_lines, "rejected": num_rejected},
        "spec": _spec(fitted).to_json(),
        "num_ads": len(catalogue),
        "splits": splits,
    }
    (directory / "dataset.json").write_text(json.dumps(description, indent=1) + "\n")


def _fit(
    source: Source,
    splitter: splitting.Splitter,
    directory: pathlib.Path,
    max_rejected_fraction: float,
) -> tuple[encoding.FittedSchema, catalogue_lib.Ads, int]:
    schema = source.schema
    fitter = fitting.Fitter(schema, splitter.num_train_lines)
    ads = catalogue_lib.AdCollector(schema)
    examples: list[lines.Rejected] = []
    num_rejected = 0
    with (directory / "rejected.tsv").open("wb") as quarantine:
        for block, lengths, splits in splitter.read("reading the log"):
            is_train = np.repeat(splits == 0, lengths)
            ads.update(block.table, is_train)
            # Only training rows may shape what the models see.
            fitter.update(block.table.filter(pa.array(is_train)))
            for rejected in block.rejected:
                quarantine.write(
                    f"{rejected.line}\t{rejected.reason}\t".encode() + rejected.raw + b"\n"
                )
            num_rejected += len(block.rejected)
            examples = (examples + list(block.rejected))[:3]
    _check_rejected(source.path, num_rejected, splitter.num_lines, examples, max_rejected_fraction)
    if source.ads_path is not None:
        ads.add_table(source.ads_path)
    fitted = fitter.finish()
    fitted.save(directory / "encoder")
    catalogue = ads.finish()
    catalogue.save(directory / "catalogue", fitted)
    return fitted, catalogue, num_rejected


def _check_rejected(
    path: pathlib.Path,
    num_rejected: int,
    num_lines: int,
    examples: list[lines.Rejected],
    max_fraction: float,
) -> None:
    too_many = num_rejected > max_fraction * num_lines and (
        num_rejected > TOLERATED_REJECTS or 2 * num_rejected >= num_lines
    )
    if too_many or num_rejected == num_lines:
        shown = "\n  ".join(str(example) for example in examples)
        raise ValueError(
            f"{path}: {num_rejected} of {num_lines} lines cannot be used, more than the "
            f"accepted share of {max_fraction:g} (--max_rejected_fraction). The first:\n  {shown}"
        )


def _spec(fitted: encoding.FittedSchema) -> records.Spec:
    schema = fitted.schema
    query, ad = (
        tuple(records.narrowest(fitted.cardinality(field)) for field in schema.side(side))
        for side in schema_lib.SIDES
    )
    return records.Spec(query, ad, tuple(schema.labels), schema.position is not None)


def _write(
    source: Source,
    splitter: splitting.Splitter,
    fitted: encoding.FittedSchema,
    catalogue: catalogue_lib.Ads,
    directory: pathlib.Path,
) -> dict[str, dict[str, Any]]:
    schema = source.schema
    query_encoder = encoding.Encoder(fitted, schema.query_fields)
    ad_encoder = encoding.Encoder(fitted, schema.ad_fields)
    spec = _spec(fitted)
    writers = [writer.SplitWriter(directory, split, spec) for split in SPLITS]
    samples: list[dict[str, Any]] = []
    for block, lengths, splits in splitter.read("writing records"):
        if not block.table.num_rows:
            continue
        starts = np.cumsum(lengths) - lengths
        requests_table = block.table.take(starts)
        samples += _samples(schema, requests_table, splits, NUM_SAMPLE_REQUESTS - len(samples))
        query = query_encoder.encode_table(requests_table)
        ad = ad_encoder.encode_table(block.table)
        per_ad = {"ad_row": catalogue.rows(block.table), **_labels(source, block.table)}
        split_of_row = np.repeat(splits, lengths)
        for index, split_writer in enumerate(writers):
            requests, rows = splits == index, split_of_row == index
            split_writer.write(
                records.Requests(
                    lengths[requests], query[requests], ad[rows],
                    {name: values[rows] for name, values in per_ad.items()},
                )
            )  # fmt: skip
    (directory / "sample_requests.json").write_text(json.dumps(samples))
    return {name: w.close() for name, w in zip(SPLITS, writers, strict=True)}


def _samples(
    schema: schema_lib.Schema, requests: pa.Table, splits: np.ndarray, count: int
) -> list[dict[str, Any]]:
    rows = np.flatnonzero(splits == SPLITS.index("test"))[:count]
    names = [field.name for field in schema.query_fields]
    return [
        {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in request.items()
        }
        for request in requests.select(names).take(rows).to_pylist()
    ]


def _labels(source: Source, table: pa.Table) -> dict[str, np.ndarray]:
    schema, labels = source.schema, {}
    for label, column in schema.labels.items():
        values = table[column].cast(pa.float64()).to_numpy()
        good = (values >= 0) if label == "revenue" else (values == 0) | (values == 1)
        allowed = "a finite number of at least 0" if label == "revenue" else "0 or 1"
        _check_values(source, table, column, good & np.isfinite(values), allowed)
        labels[label] = values
    if schema.position is not None:
        present = table[schema.position].is_valid().to_numpy()
        _check_values(source, table, schema.position, present, "a whole number")
        labels["position"] = table[schema.position].cast(pa.int32()).to_numpy()
    return labels


def _check_values(
    source: Source, table: pa.Table, column: str, good: np.ndarray, allowed: str
) -> None:
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        line, value = table[lines.LINE_NUMBER][row].as_py(), table[column][row].as_py()
        raise ValueError(
            f"{source.path}, line {line}: its {column} must be {allowed}, got {value}; correct or "
            "remove the line, in the companion file too if there is one."
        )
