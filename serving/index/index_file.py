"""Reads a saved FAISS index, memory-mapped.

Mapped, so that opening takes no time, pages are read when a search first touches them and
processes share them: the vectors of Flat and HNSW, cells of vectors, and the vectors that a
refinement keeps. Read: centroids, links of a graph, and the cells of 4-bit codes, whose blocks
faiss aligns in memory of its own (0.1 GB at a million ads of 64 bytes).
"""

import os
from typing import Any

import faiss

# faiss's type stubs do not know its flags.
_faiss: Any = faiss


def read_index(path: str | os.PathLike[str]) -> Any:
    """Opens an index; the file must stay as it is while the index is in use.

    Raises:
        RuntimeError: The file cannot be read, or is none of faiss's.
    """
    return faiss.read_index(os.fspath(path), _faiss.IO_FLAG_MMAP_IFC)
