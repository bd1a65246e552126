"""Tells whether a column has one value for each ad, or for each request.

Shapes: B rows of the sample, K distinct values of a key.
"""

import numpy as np

from tfrecords.inference.log_sample import Column

# Of requests with several rows; fewer are slips, such as an hour that ends within one.
_MOST_SLIPS = 0.01


def is_constant_per_ad(column: Column, ad: Column) -> bool:
    """Returns whether ads shown more than once, in most of the rows, have one value each."""
    repeated = ad.counts > 1
    if repeated[ad.codes].mean() < 0.5 or len(ad.known) < 2:
        return False
    return not _differs(column, ad)[repeated].any()


def varies_within(column: Column, key: Column) -> bool:
    """Returns whether rows of one key often have different values."""
    repeated = key.counts > 1
    return bool(repeated.any() and _differs(column, key)[repeated].mean() > _MOST_SLIPS)


def _differs(column: Column, key: Column) -> np.ndarray:
    """Returns for which values of the key [K] the column has more than one."""
    first = np.zeros(len(key.values), np.int64)
    # Of values assigned to one place the last stays: reversed, the first.
    first[key.codes[::-1]] = column.codes[::-1]
    differs = np.zeros(len(key.values), bool)
    differs[key.codes[column.codes != first[key.codes]]] = True
    return differs
