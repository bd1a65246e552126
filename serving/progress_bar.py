"""A bar that follows what takes seconds: on standard error, where that is a terminal."""

from collections.abc import Collection, Iterable
from typing import TypeVar

import tqdm

Item = TypeVar("Item")


def over(items: Collection[Item], task: str, unit: str) -> Iterable[Item]:
    """Returns the items, with a bar that follows them.

    Args:
        items: To be gone through once.
        task: What is being done.
        unit: What is counted, in the plural.
    """
    return tqdm.tqdm(items, desc=task, unit=f" {unit}", disable=None, delay=2, leave=False)
