"""Maps strings to their positions in an Arrow array, such as ad ids to rows.

A dict of a million strings takes over 150 MB. This table of sorted 64-bit hashes and positions
takes 12 bytes per string in addition to the array. Hits are compared with the string itself, so
hash collisions are harmless.

Shapes: V strings, M strings to look up.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa

# Number of strings that are Python objects at the same time.
_CHUNK = 65_536


class StringLookup:
    """Looks up the positions of distinct strings.

    Args:
        values: [V] distinct strings without nulls.
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
        self._positions = order.astype(np.int32)

    def __len__(self) -> int:
        return len(self._values)

    def find(self, strings: Sequence[str]) -> np.ndarray:
        """Returns the position [M] int64 of each string; -1 for unknown strings."""
        found = np.full(len(strings), -1, np.int64)
        if not len(self) or not len(strings):
            return found
        string_array = np.array(strings, dtype=object)
        hashes = self._hashes(strings, len(strings))
        first = np.searchsorted(self._sorted, hashes, side="left")
        last = np.searchsorted(self._sorted, hashes, side="right")
        # One iteration, unless hashes collide.
        for step in range(int((last - first).max())):
            unsettled = np.flatnonzero((found < 0) & (first + step < last))
            positions = self._positions[first[unsettled] + step]
            stored = self._values.take(pa.array(positions)).to_numpy(zero_copy_only=False)
            is_match = stored == string_array[unsettled]
            found[unsettled[is_match]] = positions[is_match]
        return found

    def _hashes(self, strings: Iterable[str], count: int) -> np.ndarray:
        return np.fromiter(map(self._hash, strings), np.int64, count)
