"""Puts the inputs of several requests into one batch and takes its outputs apart again.

References: TensorFlow Serving, `batching/batching_session.cc` and `batching/batching_util.cc`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from serving import saved_model

Arrays = saved_model.Arrays
_MAX_PADDED_RANK = 6


def num_rows(feeds: Mapping[str, np.ndarray]) -> int:
    """Returns the 0th dimension that all inputs of a request share.

    Raises:
        StatusError: INVALID_ARGUMENT if they do not share one.
    """
    if not feeds:
        raise saved_model.invalid_argument("Batching Run() must have at least one input tensor")
    rows = -1
    for array in feeds.values():
        if not array.ndim:
            raise saved_model.invalid_argument(
                "Batching Run() input tensors must have at least one dimension"
            )
        if rows not in (-1, len(array)):
            raise saved_model.invalid_argument(
                "Batching Run() input tensors must have equal 0th-dimension size"
            )
        rows = len(array)
    return rows


def padded_size(rows: int, allowed: Sequence[int]) -> int:
    """Returns the smallest allowed size that holds the rows; the rows themselves if none does."""
    return next((size for size in allowed if size >= rows), rows) if rows else 0


def merge(tasks: Sequence[Mapping[str, np.ndarray]], padding: int, pad_shapes: bool) -> Arrays:
    """Returns the inputs of all requests, one below the other.

    Args:
        tasks: the inputs of each request by name, at least one request.
        padding: rows to add at the end; they repeat a row of the last request.
        pad_shapes: whether inputs of different shapes are padded to one, each with its own first
            element. Else they are refused.

    Raises:
        StatusError: FAILED_PRECONDITION if shapes differ beyond the 0th dimension and may not be
            padded, INVALID_ARGUMENT if they cannot be.
    """
    merged = {}
    for name in tasks[0]:
        arrays = [task[name] for task in tasks]
        shapes = {array.shape[1:] for array in arrays}
        if len(shapes) > 1:
            if not pad_shapes or len({len(shape) for shape in shapes}) > 1:
                raise saved_model.failed_precondition(
                    f"Tensors with name '{name}' from different tasks have different shapes and "
                    "padding is turned off. Set pad_variable_length_inputs to true, or ensure "
                    "that all tensors with the same name have equal dimensions starting with the "
                    "first dim."
                )
            shape = [max(sizes) for sizes in zip(*shapes, strict=True)]
            arrays = [_padded(array, shape) for array in arrays]
        if padding:
            row = next(array for array in reversed(arrays) if len(array))[:1]
            arrays.append(np.repeat(row, padding, axis=0))
        merged[name] = np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
    return merged


def split(outputs: Mapping[str, np.ndarray], rows: Sequence[int], padding: int) -> list[Arrays]:
    """Returns each request's share of a batch's outputs.

    Args:
        outputs: the outputs of the batch by name.
        rows: the rows of each request, in order.
        padding: the rows at the end that belong to none.

    Raises:
        StatusError: FAILED_PRECONDITION if an output does not have a row for each of the inputs'.
    """
    for array in outputs.values():
        if not array.ndim:
            raise saved_model.failed_precondition("Batched output tensor has 0 dimensions")
        if len(array) != sum(rows) + padding:
            raise saved_model.failed_precondition(
                "Batched output tensor's 0th dimension does not equal the sum of the 0th "
                "dimension sizes of the input tensors"
            )
    parts, start = [], 0
    for size in rows:
        parts.append({name: array[start : start + size] for name, array in outputs.items()})
        start += size
    return parts


def _padded(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    if list(array.shape[1:]) == list(shape):
        return array
    if array.ndim > _MAX_PADDED_RANK:
        raise saved_model.invalid_argument("Only tensors with rank from 1 to 6 can be padded.")
    if not len(array):
        return np.zeros((0, *shape), array.dtype)
    if not array.size:
        raise saved_model.invalid_argument("Got empty tensor in batch of non-empty tensors.")
    padded = np.full((len(array), *shape), array.flat[0], array.dtype)
    padded[tuple(slice(size) for size in array.shape)] = array
    return padded
