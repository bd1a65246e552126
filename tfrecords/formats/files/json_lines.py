"""Reads JSON lines as a log: each line is an object. The names of nested values are dotted, such as
`device.os`.

If a column is inside a list of objects, such as `items.item_id`, each object of the list is a row,
and `items#` is its index. A line with an empty list has no rows; a line without the list is one row
that lacks these columns.

Shapes: B rows of a chunk.
"""

import abc
import ast
import contextlib
import json
import pathlib
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from tfrecords.columns import read_number
from tfrecords.formats import protocol
from tfrecords.formats.files import delimited, lines

INDEX = "#"
_MAX_DEPTH = 8


class ObjectLog(abc.ABC):
    """A log of text files, plain or gzip, whose lines are parsed in Python.

    Args:
        files: The files.
        types: Columns to read and their types: `delimited.STRINGS`, `delimited.NUMBERS`,
            `delimited.VECTORS`, or `delimited.ANY` for values of any type.
        lists: Columns that may hold lists.
        rows_per_chunk: Approximate number of lines of a chunk.
        decimal: Decimal sign of numbers in texts; None: plain numbers.
    """

    def __init__(
        self,
        files: protocol.Files,
        types: Mapping[str, pa.DataType],
        lists: Collection[str],
        rows_per_chunk: int,
        decimal: str | None = None,
    ) -> None:
        self.files: Sequence[pathlib.Path] = tuple(files)
        self._parts = tuple(files.parts())
        self._types, self._lists = types, lists
        self._rows_per_chunk, self._decimal = rows_per_chunk, decimal

    @abc.abstractmethod
    def rows_of(self, line: bytes) -> Iterable[Mapping[str, Any]]:
        """Returns the rows of a line: values by column; None is missing.

        Raises:
            ValueError: The line is bad.
        """

    def chunks(self) -> Iterator[protocol.Chunk]:
        """See `protocol.Log`."""
        for path, part in self._parts:
            for first, text, count in lines.RowReader(path).chunks(self._rows_per_chunk):
                yield protocol.Chunk(path, part, first, count, tuple(self._types), text)

    def parse(self, chunk: protocol.Chunk) -> protocol.Parsed:
        """See `protocol.Log`; the rows of a line have numbers by `protocol.numbered`."""
        values: dict[str, list[Any]] = {name: [] for name in self._types}
        numbers: list[int] = []
        faults: dict[int, str] = {}
        for line, raw in enumerate(lines.split_rows(chunk.payload), chunk.first_line):
            try:
                rows = self.rows_of(raw)
            except (ValueError, RecursionError) as error:
                faults[line] = str(error) or type(error).__name__
                continue
            for index, row in enumerate(rows):
                number = protocol.numbered(line, index)
                try:
                    row_values = [self._value(name, row.get(name)) for name in self._types]
                except (ValueError, OverflowError, RecursionError) as error:
                    faults[number] = str(error)
                    continue
                numbers.append(number)
                for column, value in zip(values.values(), row_values, strict=True):
                    column.append(value)
        table = {name: self._column(name, column_values) for name, column_values in values.items()}
        table[protocol.LINE_NUMBER] = pa.array(numbers, pa.int64())
        return protocol.Parsed(pa.table(table), faults, len(numbers) + len(faults))

    def _value(self, name: str, value: Any) -> Any:
        """Converts a value to the form that `_column` expects.

        Raises:
            ValueError: It is not of the column's type.
            RecursionError: It is nested too deeply.
        """
        kind = self._types[name]
        if value is None:
            return None
        if kind == delimited.ANY:
            return _encodable(name, value)
        if isinstance(value, list) and name in self._lists:
            return _vector(name, value) if kind == delimited.VECTORS else _texts(name, value)
        if kind != delimited.NUMBERS:
            return _text(name, value)
        if isinstance(value, int | float):
            return float(value)
        return read_number(name, _text(name, value), self._decimal)

    def _column(self, name: str, values: list[Any]) -> pa.Array:
        kind = self._types[name]
        if kind == delimited.NUMBERS:
            return pa.array(values, pa.float64(), from_pandas=True)
        if kind == delimited.ANY:
            try:
                return pa.array(values)
            except (pa.ArrowException, OverflowError):  # Values of several types.
                texts = [
                    v if v is None or isinstance(v, str) else json.dumps(v, default=str)
                    for v in values
                ]
                return pa.array(texts, pa.string())
        if not any(isinstance(value, list) for value in values):
            return pa.array(values, pa.string()).dictionary_encode()
        if not any(isinstance(value, str) for value in values):
            of = pa.float64() if kind == delimited.VECTORS else pa.string()
            return pa.array(values, pa.list_(of))
        # A field splits texts by its separator, and also reads lists written as JSON.
        texts = [
            json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
            for value in values
        ]
        return pa.array(texts, pa.string()).dictionary_encode()

    def raw(self, chunk: protocol.Chunk, lines_wanted: Sequence[int]) -> list[bytes]:
        """See `protocol.Log`."""
        rows = lines.split_rows(chunk.payload)
        return [rows[protocol.line_of(n) - chunk.first_line].rstrip(b"\r\n") for n in lines_wanted]


class JsonLinesLog(ObjectLog):
    """A log of one file of JSON lines.

    Args:
        path: The file.
        types, lists, rows_per_chunk, decimal: See `ObjectLog`.
        optional: Columns that the file may lack.

    Raises:
        ValueError: A column is in none of the first lines, or columns are read from two lists.
    """

    def __init__(
        self,
        path: pathlib.Path,
        types: Mapping[str, pa.DataType],
        lists: Collection[str] = (),
        optional: Collection[str] = (),
        rows_per_chunk: int = protocol.ROWS_PER_CHUNK,
        decimal: str | None = None,
    ) -> None:
        super().__init__(protocol.Files((path,)), types, lists, rows_per_chunk, decimal)
        names, within = names_of(path)
        lacking = [name for name in types if name not in names and name not in optional]
        if lacking:
            raise ValueError(f"{path}: the first lines lack {lacking}; they have {list(names)}.")
        found = {list_name for name in types if (list_name := within.get(name)) is not None}
        if len(found) > 1:
            raise ValueError(
                f"{path}: columns are read from the lists {sorted(found)}; expected one list, "
                "whose objects are rows. Leave the columns of the others out of the schema."
            )
        self._list = next(iter(found), None)

    def rows_of(self, line: bytes) -> Iterable[Mapping[str, Any]]:
        """See `ObjectLog`."""
        return _rows(_object(line), self._list)


def names_of(path: pathlib.Path) -> tuple[dict[str, None], dict[str, str]]:
    """Returns the dotted names of the values in the first lines, about 1 MiB.

    Also returns the list of objects of each name that is inside one.

    Raises:
        ValueError: No line is an object.
    """
    names: dict[str, None] = {}
    within: dict[str, str] = {}
    fault = "the file has no lines"
    for raw in lines.split_rows(lines.RowReader(path).sample()):
        try:
            value = _object(raw)
        except ValueError as error:
            fault = str(error)
            continue
        for name, item in _flat(value):
            if _is_list_of_objects(item):
                inside = [f"{name}.{n}" for row in item for n, _ in _flat(row)]
                inside.append(name + INDEX)
                within |= dict.fromkeys(inside, name)
                names |= dict.fromkeys(inside)
            elif not isinstance(item, list) or item or name not in within.values():
                names[name] = None
    if not names:
        raise ValueError(
            f"{path}: expected a JSON object on each line, but none of the first lines is one: "
            f"{fault}.{_from_python(path, raw)}"
        )
    return names, within


def _from_python(path: pathlib.Path, raw: bytes) -> str:
    """Returns how to convert a file whose lines are Python dictionaries, or ""."""
    try:
        is_python = isinstance(ast.literal_eval(raw.decode()), dict)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        is_python = False
    if not is_python:
        return ""
    program = "import ast, json, sys; [print(json.dumps(ast.literal_eval(v))) for v in sys.stdin]"
    source, target = shlex.quote(str(path)), shlex.quote(f"{path.name.split('.')[0]}.jsonl")
    return (
        " The lines are Python dictionaries. Write them as JSON, for example with: "
        f"zcat -f {source} | python3 -c '{program}' > {target}"
    )


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw, parse_constant=lambda _: None)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} is not UTF-8; {lines.TO_UTF8}") from None
    except ValueError as error:
        raise ValueError(f"it is not valid JSON ({error})") from None
    except RecursionError:
        raise ValueError("its lists or objects are nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {json.dumps(value)[:40]!r}")
    return value


def _flat(value: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yields the dotted names and values of an object; lists are values, `{}` has none."""
    for key, item in value.items():
        if isinstance(item, dict) and (depth < _MAX_DEPTH or not item):
            yield from _flat(item, f"{prefix}{key}.", depth + 1)
        else:
            yield f"{prefix}{key}", item


def _rows(value: Mapping[str, Any], list_name: str | None) -> list[dict[str, Any]]:
    """Returns the rows of a line: one, or one for each object of a list.

    Raises:
        ValueError: The value at the list's name is not a list of objects.
    """
    flat = dict(_flat(value))
    objects = None if list_name is None else flat.pop(list_name, None)
    if objects is None:
        return [flat]
    if objects != [] and not _is_list_of_objects(objects):
        shown = json.dumps(objects, ensure_ascii=False)[:40]
        shown = shown.encode("utf-8", "backslashreplace").decode()
        raise ValueError(f"{list_name}: expected a list of objects, got {shown}")
    return [
        {
            **flat,
            **{f"{list_name}.{name}": item for name, item in _flat(row)},
            f"{list_name}{INDEX}": index,
        }
        for index, row in enumerate(objects)
    ]


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _texts(name: str, values: Sequence[Any]) -> list[str]:
    """Returns the values of a list as texts; None is left out."""
    return [_text(name, item) for item in values if item is not None]


def _vector(name: str, values: Sequence[Any]) -> list[float]:
    """Returns the numbers of a vector; other values become NaN, which rejects the row later."""
    numbers = [float("nan")] * len(values)
    for index, item in enumerate(values):
        text = "" if item is None else _text(name, item)
        with contextlib.suppress(ValueError):
            numbers[index] = float(text)
    return numbers


def _text(name: str, value: Any) -> str:
    """Returns a value as text; whole numbers are digits, and booleans `true` and `false`.

    Raises:
        ValueError: It is a list or an object, or another Python object from a custom format, or
            it cannot be written as UTF-8.
    """
    if isinstance(value, str):
        return value if value.isascii() else str(_encodable(name, value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    if not isinstance(value, list | dict):
        raise ValueError(f"{name}: expected a string, a number or None, got {value!r:.60}")
    raise ValueError(f"{name}: expected one value, got {json.dumps(value, default=str)[:40]}")


def _encodable(name: str, value: Any) -> Any:
    """Returns a value whose texts can be written as UTF-8.

    Raises:
        ValueError: A text has half of a surrogate pair, such as `\\ud83d` without `\\ude00`.
        RecursionError: The value is nested too deeply.
    """
    is_nested = isinstance(value, list | dict)
    text = json.dumps(value, ensure_ascii=False, default=str) if is_nested else value
    try:
        if isinstance(text, str):
            text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise ValueError(
            f"{name}: expected Unicode text, got {text[:40]!r} with {half!r}, half of a pair"
        ) from None
    return value
