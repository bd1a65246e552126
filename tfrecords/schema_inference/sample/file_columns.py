"""Finds the columns of the files of a table, and says which of them are not read."""

import pathlib
from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa

from tfrecords import formats, terminal
from tfrecords.schema_inference import known_names
from tfrecords.schema_inference.sample import writing

HEADED_ROWS = 1_000
# Number of files of a log whose columns are compared.
MAX_HEADERS = 50


def header(path: pathlib.Path) -> tuple[tuple[str, ...], list[str]]:
    """Returns names for the columns if the first line of a text is a row, and a note."""
    if formats.is_parquet(path) or formats.is_json(path):
        return (), []
    names = formats.column_names(path, ())
    numbered = tuple(f"column_{number}" for number in range(1, len(names) + 1))
    types = dict.fromkeys(numbered, formats.STRINGS)
    opened = formats.open_table(path, types, (), (), HEADED_ROWS, numbered)
    rows = opened.parse(next(iter(opened.chunks()))).table.slice(1)
    found = writing.header(names, [writing.texts_of(rows[name]) for name in numbered])
    if not found:
        return (), []
    note = (
        f"The first line of {path} is a row, not a header, so the columns are named by their "
        f"content: {', '.join(found)}. Correct the names in header, and everywhere below."
    )
    return found, [note]


def readable(path: pathlib.Path) -> tuple[list[str], list[str]]:
    """Returns the names of the columns that can be read, and notes on the others."""
    names, notes = [], []
    found = formats.column_names(path, ())
    within = formats.lists_of_objects(path)
    main = _main_list(found, within)
    if unread_lists := sorted(set(within.values()) - {main}):
        row = "each line" if main is None else f"each object of {main!r}"
        notes.append(f"Left out: the lists of objects {unread_lists} of {path}; {row} is a row.")
    for name in dict.fromkeys(found):
        if within.get(name, main) != main or name in unread_lists:
            continue
        if not name:
            notes.append(f"Left out: a column of {path} without a name, such as a row number.")
        elif found.count(name) > 1:
            notes.append(f"Left out: several columns of {path} are named {name!r}. Rename them.")
        elif formats.is_parquet(path) and (fault := _fault(path, name)):
            notes.append(f"Left out: {fault}")
        else:
            names.append(name)
    nested = _nested(path, names) if formats.is_json(path) else []
    notes += [
        f"Left out: {path}: the values of {name!r} are lists of lists or deeply nested objects. "
        "Write them as strings or numbers, or as lists of these."
        for name in nested
    ]
    return [name for name in names if name not in nested], notes


def only_later(paths: Sequence[pathlib.Path]) -> list[str]:
    """Returns a note on the columns that later files have and the first one lacks, if any."""
    first = formats.column_names(paths[0], ())
    step = -(-len(paths) // MAX_HEADERS)
    found: dict[str, str] = {}
    for path in dict.fromkeys((*paths[1::step], paths[-1])):
        new = [name for name in formats.column_names(path, first) if name and name not in first]
        found |= {name: f"{name!r} (in {path})" for name in new if name not in found}
    if not found:
        return []
    listed = terminal.format_list(list(found.values()), 12)
    return [
        f"Left out: columns that are not in {paths[0]}: {listed}. "
        "To use them, add them to all files, with empty values if unknown."
    ]


def in_folders(path: pathlib.Path, names: Collection[str]) -> list[str]:
    """Returns notes on the columns that only the names of folders have, such as `dt=2024-05-01`."""
    return [
        f"Left out: the column {name!r} of the folder {name}={value}, which has one value in each "
        f"file. Name {name!r} in the schema to read it, for example as the time."
        for name, value in formats.values_of_folders(path).items()
        if name not in names
    ]


def _main_list(names: Collection[str], within: Mapping[str, str]) -> str | None:
    """Returns the list of objects that are ads, if any: None if each line is of one ad."""
    for key in (known_names.KEY, ""):
        for name in (*within, *(name for name in names if name not in within)):
            last = known_names.plain_words(name.rpartition(".")[2])
            if known_names.ad_rank(last, key) is not None:
                return within.get(name)
    return next(iter(within.values()), None)


def _nested(path: pathlib.Path, names: Sequence[str]) -> list[str]:
    """Returns the columns of JSON lines that hold lists of lists or objects, or deep objects."""
    types = dict.fromkeys(names, formats.ANY)
    opened = formats.open_table(path, types, (), names, HEADED_ROWS)
    rows = opened.parse(next(iter(opened.chunks()))).table
    kinds = {name: rows[name].type for name in names}
    return [
        name
        for name, kind in kinds.items()
        if pa.types.is_nested(kind.value_type if pa.types.is_list(kind) else kind)
    ]


def _fault(path: pathlib.Path, name: str) -> str | None:
    try:
        formats.open_table(path, {name: formats.STRINGS}, [name])
    except ValueError as error:
        return str(error)
    return None
