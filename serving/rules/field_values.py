"""The values of one ad field among the candidates, as numbers.

Shapes: C candidates, V distinct values, P pairs of a candidate and a value that it has.
"""

import dataclasses
import functools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclasses.dataclass(frozen=True)
class FieldValues:
    """Which candidate has which value; a missing value is none.

    Attributes:
        num_items: C.
        num_values: V.
        items: [P] int64, rising.
        codes: [P] int64 in [0, V).
    """

    num_items: int
    num_values: int
    items: np.ndarray
    codes: np.ndarray

    @classmethod
    def of(cls, column: pa.Array) -> "FieldValues":
        """Numbers the values of a column [C] of strings, or of lists of strings."""
        num_items = len(column)
        items = None
        if pa.types.is_list(column.type):
            items = pc.list_parent_indices(column).to_numpy()
            column = column.flatten()
        encoded = column.dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy()
        present = np.flatnonzero(codes >= 0)
        items = present if items is None else items[present]
        return cls(num_items, len(encoded.dictionary), items, codes[present])

    @functools.cached_property
    def is_single(self) -> bool:
        """Whether no candidate has two values."""
        return not bool((self.items[1:] == self.items[:-1]).any())

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """Where the pairs of each candidate start, [C + 1]."""
        counts = np.bincount(self.items, minlength=self.num_items)
        return np.append(0, np.cumsum(counts))

    def values_of(self, item: int) -> set[int]:
        """Returns the codes of the values that a candidate has; its list may repeat one."""
        return set(self.codes[self.starts[item] : self.starts[item + 1]].tolist())

    def items_with(self, code: int) -> np.ndarray:
        """Returns the candidates that have a value."""
        return self.items[self.codes == code]
