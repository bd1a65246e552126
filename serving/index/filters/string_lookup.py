"""Finds strings among many: the row of an ad id, the code of a value.

A dict of a million strings takes 150 MB and more; here it is 12 bytes a string beside the
Arrow array: sorted 64-bit hashes and the places they come from. A hit is compared with the
string itself, so equal hashes do no harm.

Shapes: V strings, M strings looked for.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa

# Strings that are Python objects at one time.
_CHUNK = 65_536


class StringLookup:
    """Places of distinct strings.

    Args:
        values: [V] distinct strings without null.
        hash_function: Gives the same 64-bit integer for the same string in this process.
    """

    def __init__(self, values: pa.Array, hash_function: Callable[[str], int] = hash) -> None:
        self._values = values
        self._hash = hash_function
        hashes = np.empty(len(values), np.int64)
        for first in range(0, len(values), _CHUNK):
            chunk = values.slice(first, _CHUNK)
            hashes[first : first + len(chunk)] = self._hashes(chunk.to_pylist(), len(chunk))
        order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[order]
        self._places = order.astype(np.int32)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def nbytes(self) -> int:
        """Memory beside the strings."""
        return self._sorted.nbytes + self._places.nbytes

    def find(self, strings: Sequence[str]) -> np.ndarray:
        """Returns the place [M] int64 of each string; -1 where it is not there."""
        found = np.full(len(strings), -1, np.int64)
        if not len(self) or not len(strings):
            return found
        wanted = np.array(strings, dtype=object)
        hashes = self._hashes(strings, len(strings))
        first = np.searchsorted(self._sorted, hashes, side="left")
        last = np.searchsorted(self._sorted, hashes, side="right")
        # Mostly one round; strings that share their hash with others take as many as these are.
        for step in range(int((last - first).max())):
            unsettled = np.flatnonzero((found < 0) & (first + step < last))
            places = self._places[first[unsettled] + step]
            stored = self._values.take(pa.array(places)).to_numpy(zero_copy_only=False)
            same = stored == wanted[unsettled]
            found[unsettled[same]] = places[same]
        return found

    def _hashes(self, strings: Iterable[str], count: int) -> np.ndarray:
        return np.fromiter(map(self._hash, strings), np.int64, count)
