"""Integer codes for the values of one ad field among the candidates.

Shapes: C candidates, V distinct values, P pairs of a candidate and one of its values.
"""

import dataclasses
import functools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclasses.dataclass(frozen=True)
class FieldValues:
    """The values of each candidate; missing values are left out.

    Attributes:
        num_items: C.
        values: [V] distinct values.
        items: [P] int64 indices of candidates, ascending.
        codes: [P] int64 codes of values, in [0, V).
    """

    num_items: int
    values: list[str]
    items: np.ndarray
    codes: np.ndarray

    @classmethod
    def of(cls, column: pa.Array) -> "FieldValues":
        """Encodes the values of a column [C] of strings, or of lists of strings."""
        num_items = len(column)
        items = None
        if pa.types.is_list(column.type):
            items = pc.list_parent_indices(column).to_numpy()
            column = column.flatten()
        encoded = column.dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy()
        present = np.flatnonzero(codes >= 0)
        items = present if items is None else items[present]
        return cls(num_items, encoded.dictionary.to_pylist(), items, codes[present])

    @functools.cached_property
    def is_single(self) -> bool:
        """Whether every candidate has at most one value."""
        return not bool((self.items[1:] == self.items[:-1]).any())

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """[C + 1] offsets of the pairs of each candidate."""
        counts = np.bincount(self.items, minlength=self.num_items)
        return np.append(0, np.cumsum(counts))

    def values_of(self, item: int) -> set[int]:
        """Returns the distinct codes of the values of a candidate."""
        return set(self.codes[self.starts[item] : self.starts[item + 1]].tolist())

    def items_with(self, code: int) -> np.ndarray:
        """Returns the candidates with a value."""
        return self.items[self.codes == code]
