"""A set of catalog rows as a bitmap, in the bit order of `faiss.IDSelectorBitmap`.

One bit per row is 125 kB for a million ads, and an intersection takes microseconds.

Shapes: N rows.
"""

import functools

import numpy as np

_ALL = np.uint64(2**64 - 1)


class RowSet:
    """An immutable subset of the rows 0..N-1.

    Attributes:
        num_rows: Number of rows N.
    """

    def __init__(self, words: np.ndarray, num_rows: int) -> None:
        self._words = words  # [⌈N / 64⌉] uint64, little-endian; the bits from N on are 0
        self.num_rows = num_rows

    @classmethod
    def full(cls, num_rows: int) -> "RowSet":
        """Returns the set of all rows."""
        words = np.full((num_rows + 63) // 64, _ALL)
        if num_rows % 64:
            words[-1] >>= np.uint64(64 - num_rows % 64)
        return cls(words, num_rows)

    @classmethod
    def from_rows(cls, rows: np.ndarray, num_rows: int) -> "RowSet":
        """Returns the set of the given rows, which may contain duplicates."""
        words = np.zeros((num_rows + 63) // 64, np.uint64)
        if len(rows) < 64:
            # For a few rows, setting single bits is faster than a mask of all rows.
            for row in rows.tolist():
                words[row >> 6] |= np.uint64(1 << (row & 63))
            return cls(words, num_rows)
        mask = np.zeros(num_rows, bool)
        mask[rows] = True
        return cls.from_mask(mask)

    @classmethod
    def from_mask(cls, mask: np.ndarray) -> "RowSet":
        """Returns the set of rows for which a mask [N] bool is true."""
        packed = np.packbits(mask, bitorder="little")
        words = np.zeros((len(mask) + 63) // 64, np.uint64)
        words.view(np.uint8)[: len(packed)] = packed
        return cls(words, len(mask))

    def __and__(self, other: "RowSet") -> "RowSet":
        return RowSet(self._words & other._words, self.num_rows)

    def __or__(self, other: "RowSet") -> "RowSet":
        return RowSet(self._words | other._words, self.num_rows)

    def __sub__(self, other: "RowSet") -> "RowSet":
        return RowSet(self._words & ~other._words, self.num_rows)

    @functools.cached_property
    def count(self) -> int:
        """Number of rows in the set."""
        return int(np.bitwise_count(self._words).sum())

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """The rows in ascending order, int64; computed once."""
        # Unpacks only nonzero words, because most are zero in typical sets.
        nonzero = np.flatnonzero(self._words)
        bits = np.unpackbits(self._words[nonzero].view(np.uint8), bitorder="little")
        word, bit = np.nonzero(bits.reshape(-1, 64))
        return nonzero[word] * 64 + bit

    @property
    def bitmap(self) -> np.ndarray:
        """[8 ⌈N / 64⌉] uint8: row i is bit i & 7 of byte i >> 3."""
        return self._words.view(np.uint8)

    @property
    def nbytes(self) -> int:
        """Size of the bitmap in bytes."""
        return self._words.nbytes

    def contains(self, rows: np.ndarray) -> np.ndarray:
        """Returns whether each of the given rows is in the set: bool, of the same shape."""
        return (self.bitmap[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1 == 1
