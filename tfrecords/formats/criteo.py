"""Reads the Criteo Display Advertising log.

Files (Kaggle 2014, and the 1 TB log) are tab-separated without a header, one impression per line:
the label (0 or 1), thirteen integers I1–I13, and twenty-six 32-bit hashes C1–C26 of eight hex
digits. Empty is missing; integers can be negative. Plain or gzip.

The columns are anonymous, so the sides are a convention: C7, C11, C13 and C17 are the ad side and
together its key, the others are the query side. A schema file overrides it. Rows of a file without
the label column, such as the test part of the Kaggle log, have no label. If a schema names other
columns (request, position, engagement, revenue, time, …), they are read from a companion file next
to each log file, `NAME.extra.tsv` for `NAME.tsv`: a header line, then one line for each line of
the log.

References:
    Criteo Labs, Display Advertising Challenge, 2014 (data set description).
"""

import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from tfrecords.formats import named, protocol
from tfrecords.formats.files import delimited, lines
from tfrecords.schema import Field, Schema

LABEL = "label"
NUMERIC_COLUMNS = tuple(f"I{i}" for i in range(1, 14))
CATEGORICAL_COLUMNS = tuple(f"C{i}" for i in range(1, 27))
COLUMNS = (LABEL, *NUMERIC_COLUMNS, *CATEGORICAL_COLUMNS)
AD_KEY = ("C7", "C11", "C13", "C17")
LABELED = f"{len(COLUMNS)} tab-separated columns (label, I1–I13, C1–C26) and no header"


def schema() -> Schema:
    """Returns the convention for the log without companions: clicks only, a row is a request."""
    fields = [Field(name, "numeric", "query") for name in NUMERIC_COLUMNS]
    for name in CATEGORICAL_COLUMNS:
        side = "ad" if name in AD_KEY else "query"
        fields.append(Field(name, "categorical", side))
    return Schema("criteo", tuple(fields), ad_key=AD_KEY, click=LABEL)


def check_schema(schema: Schema) -> None:
    """Checks that a schema fits the format.

    Raises:
        ValueError: A field is not a Criteo column or has the wrong kind.
    """
    for field in schema.logged_fields:
        if field.source not in COLUMNS[1:]:
            raise ValueError(
                f"Schema {schema.name!r}: the Criteo log has no column {field.source!r}; "
                "it has I1–I13 and C1–C26."
            )
        expected = "numeric" if field.source in NUMERIC_COLUMNS else "categorical"
        if field.kind != expected:
            raise ValueError(
                f"Schema {schema.name!r}: field {field.name!r} is {expected} in the Criteo "
                f"log, the schema says {field.kind}."
            )
    if schema.click != LABEL:
        raise ValueError(f"Schema {schema.name!r}: click must be {LABEL!r}, got {schema.click!r}.")


def fits(path: pathlib.Path) -> bool:
    """Returns whether the first line of a file is that of Criteo's log.

    Raises:
        FileNotFoundError, ValueError: As in `lines.open_text`.
    """
    return lines.RowReader(path).first_row().count(b"\t") + 1 in (len(COLUMNS), len(COLUMNS) - 1)


def open_log(
    files: protocol.Files, schema: Schema, rows_per_chunk: int = protocol.ROWS_PER_CHUNK
) -> protocol.Log:
    """Opens a log; columns that Criteo's log lacks are read from companions.

    Raises:
        FileNotFoundError: A companion does not exist.
        ValueError: The schema does not fit the log.
    """
    check_schema(schema)
    types = {
        name: delimited.NUMBERS if name in NUMERIC_COLUMNS else delimited.STRINGS
        for name in schema.columns
        if name in COLUMNS
    }
    layout = delimited.Layout(
        types,
        columns=_columns,
        optional=frozenset([LABEL]),
        expected=LABELED,
        check=_fault,
    )
    extra = [name for name in schema.columns if name not in COLUMNS]
    if not extra:
        return delimited.DelimitedLog(files, layout, None, rows_per_chunk)
    return _LogWithCompanions(files, layout, extra, rows_per_chunk)


# Reads ads to add to those of the log, from a tab-separated file with a header.
read_ads = functools.partial(named.read_ads, delimiter="\t")


def companion_path(path: pathlib.Path) -> pathlib.Path:
    """Returns the path of a log's companion: `log.tsv` → `log.extra.tsv`."""
    name = path.name.removesuffix(".gz")
    stem = pathlib.PurePath(name).stem
    return path.with_name(f"{stem}.extra.tsv")


def _columns(num_values: Sequence[int]) -> tuple[str, ...]:
    labeled = sum(count == len(COLUMNS) for count in num_values)
    unlabeled = sum(count == len(COLUMNS) - 1 for count in num_values)
    return COLUMNS[1:] if unlabeled > labeled else COLUMNS


def _fault(values: Mapping[str, str]) -> str | None:
    label = values.get(LABEL, "0")
    if label and not any(character.isdigit() for character in label):
        return f"looks like a header line (its label is {label[:40]!r}); remove it"
    return None


class _LogWithCompanions(delimited.DelimitedLog):
    """A log with a companion file for each of its files, read in parallel."""

    def __init__(
        self,
        files: protocol.Files,
        layout: delimited.Layout,
        extra: Sequence[str],
        rows_per_chunk: int,
    ) -> None:
        super().__init__(files, layout, None, rows_per_chunk)
        self._extra = delimited.Layout({name: delimited.STRINGS for name in extra})
        self._companions = {path: companion_path(path) for path, _ in files.parts()}
        for path, companion in self._companions.items():
            if not companion.is_file():
                raise FileNotFoundError(
                    f"The schema names the columns {list(extra)}, which {path} lacks; expected "
                    f"them in {companion}, which does not exist."
                )
        self.files = (*self.files, *self._companions.values())
        self._headers: dict[pathlib.Path, tuple[str, ...]] = {}
        for companion in self._companions.values():
            _, self._headers[companion] = delimited.open_rows(companion, self._extra)

    def chunks(self) -> Iterator[protocol.Chunk]:
        """See `protocol.Log`.

        Raises:
            ValueError: A companion and its log have different numbers of lines.
        """
        reader: lines.RowReader | None = None
        last: pathlib.Path | None = None
        for chunk in super().chunks():
            if chunk.path != last:
                _check_ended(reader)
                last = chunk.path
                reader, _ = delimited.open_rows(self._companions[chunk.path], self._extra)
            assert reader is not None
            companion = reader.take(chunk.num_rows)
            if companion.count(b"\n") != chunk.num_rows:
                raise ValueError(
                    f"{reader.path} has fewer lines than its log; write one for each line of it."
                )
            yield protocol.Chunk(**{**vars(chunk), "companion": companion})
        _check_ended(reader)

    def parse(self, chunk: protocol.Chunk) -> protocol.Parsed:
        """See `protocol.Log`."""
        parsed = super().parse(chunk)
        path = self._companions[chunk.path]
        assert chunk.companion is not None
        # Lines of the companion have the numbers of the log's lines, by which they are joined.
        extra = delimited.parse(
            self._extra, self._headers[path], chunk.companion, chunk.first_line, chunk.num_rows
        )
        numbers = parsed.table[protocol.LINE_NUMBER].to_numpy()
        bad = np.isin(numbers, list(extra.faults))
        parsed = parsed.without(
            bad, [f"its line in {path}: {extra.faults[line]}" for line in numbers[bad].tolist()]
        )
        places = np.searchsorted(
            extra.table[protocol.LINE_NUMBER].to_numpy(),
            parsed.table[protocol.LINE_NUMBER].to_numpy(),
        )
        table = parsed.table
        for name in self._extra.types:
            table = table.append_column(name, extra.table[name].take(pa.array(places)))
        return protocol.Parsed(table, parsed.faults)


def _check_ended(reader: lines.RowReader | None) -> None:
    if reader is not None and reader.take(1):
        raise ValueError(f"{reader.path} has more lines than its log; write one for each line.")
