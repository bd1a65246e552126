"""Tables in Arrow IPC files, which are memory-mapped."""

import pathlib

import pyarrow as pa


def write_arrow(table: pa.Table, path: pathlib.Path) -> None:
    """Writes a table without compression, so that it can be memory-mapped."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def read_arrow(path: pathlib.Path) -> pa.Table:
    """Reads a table without copying it.

    Raises:
        FileNotFoundError: The file does not exist.
    """
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()
