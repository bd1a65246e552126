"""Thins and orders windows of stored requests and cuts them into batches, inside `tf.data`.

A window holds consecutive requests: `list_lengths` [R], features of requests [R] and features of
shown ads [L].

Shapes: R requests, L shown ads, B requests of a batch, C its longest list.
"""

from collections.abc import Mapping

import tensorflow as tf

from tfrecords.records import spec, writer

Batch = dict[str, tf.Tensor]


def permute(requests: Batch, seed: tf.Tensor) -> Batch:
    """Shuffles the requests of a stored window; `seed` [2] determines the order."""
    return _reorder(requests, _permutation(tf.shape(requests["list_lengths"])[0], seed))


def _permutation(count: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns range(count) in an order that depends on nothing but the seed [2]."""
    return tf.random.experimental.stateless_shuffle(tf.range(count), seed)


def _reorder(requests: Batch, order: tf.Tensor) -> Batch:
    """Returns the requests [R] of a stored window in an order [R]."""
    lengths = requests["list_lengths"]
    ends = tf.cumsum(lengths)
    rows = tf.ragged.range(tf.gather(ends - lengths, order), tf.gather(ends, order))
    return _gathered(requests, order, rows.flat_values)


def _gathered(stored: Mapping[str, tf.Tensor], requests: tf.Tensor, rows: tf.Tensor) -> Batch:
    """Returns features of some requests [B] and of some shown ads [n]."""
    return {
        name: tf.gather(values, requests if writer.is_per_request(name) else rows)
        for name, values in stored.items()
    }


def pad_lists(requests: Batch) -> Batch:
    """Pads flat per-ad features to [B, C]; `mask` is true at shown ads."""
    mask = tf.sequence_mask(requests["list_lengths"])
    shape, shown = tf.shape(mask, tf.int64), tf.where(mask)
    padded = {
        name: tf.scatter_nd(shown, values, tf.concat([shape, values.shape[1:]], axis=0))
        for name, values in requests.items()
        if name not in ("list_lengths", "query")
    }
    return {"query": requests["query"], "mask": mask, **padded}


def clicked_pairs(stored: Batch) -> Batch:
    """Returns the stored ids of the clicked rows of a window and of their requests.

    `request` is the number of each row's request in the window.
    """
    lengths = stored["list_lengths"]
    rows = tf.reshape(tf.where(stored["click"] == 1), [-1])
    row_requests = tf.repeat(tf.range(tf.shape(lengths)[0]), lengths)
    requests = tf.gather(row_requests, rows)
    ids = {
        name: values
        for name, values in stored.items()
        if name in (spec.USER, spec.ORDER) or name.startswith(("query_", "ad_"))
    }
    return {**_gathered(ids, requests, rows), "request": requests}


def cut_batches(window: Batch, size: int) -> tf.data.Dataset:
    """Cuts a stored window into even batches of about `size`."""
    lengths = window.get("list_lengths")
    total = tf.shape(window["ad_row"] if lengths is None else lengths, out_type=tf.int64)[0]
    count = tf.cast(tf.math.ceil(total / size), tf.int64)
    # A pair is a request with one row.
    row_ends = tf.range(total + 1) if lengths is None else _row_ends(lengths)

    def batch(index: tf.Tensor) -> Batch:
        first, last = index * total // count, (index + 1) * total // count
        return _requests(window, row_ends, first, last)

    return tf.data.Dataset.range(count).map(batch)


def cut_by_length(window: Batch, rows_per_batch: int, seed: tf.Tensor) -> tf.data.Dataset:
    """Cuts a stored window into batches of lists of similar length, in random order.

    Args:
        window: A stored window.
        rows_per_batch: Approximate number of rows in a batch.
        seed: [2] integers that determine the order of the batches.
    """
    window = _reorder(window, tf.argsort(window["list_lengths"], stable=True))
    row_ends = _row_ends(window["list_lengths"])
    rows = tf.cast(row_ends[-1], tf.float32)
    count = tf.cast(tf.math.ceil(rows / rows_per_batch), tf.int32)
    # The first request of each batch, so that each request is in exactly one.
    even = tf.cast(tf.raw_ops.LinSpace(start=0.0, stop=rows, num=count + 1), tf.int32)
    cuts = tf.searchsorted(row_ends, even)

    def batch(index: tf.Tensor) -> Batch:
        return _requests(window, row_ends, cuts[index], cuts[index + 1])

    dataset = tf.data.Dataset.from_tensor_slices(_permutation(count, seed))
    # A list longer than a batch leaves the next one empty.
    return dataset.filter(lambda index: cuts[index] < cuts[index + 1]).map(batch)


def _row_ends(lengths: tf.Tensor) -> tf.Tensor:
    """Returns the first row of each list and the end of the last one [R + 1]."""
    return tf.concat([[0], tf.cumsum(lengths)], axis=0)


def _requests(window: Batch, row_ends: tf.Tensor, first: tf.Tensor, last: tf.Tensor) -> Batch:
    """Returns the requests first..last - 1 of a window."""
    # `values[first:last]` would add six operations to the graph for each feature.
    requests = tf.stack([first]), tf.stack([last])
    rows = tuple(tf.gather(row_ends, request) for request in requests)
    return {
        name: tf.strided_slice(values, *(requests if writer.is_per_request(name) else rows), [1])
        for name, values in window.items()
    }


def thin_unclicked(
    stored: Mapping[str, tf.Tensor], keep_rate: float, seed: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Keeps a share of the unclicked rows, and all rows whose click is 1 or unknown.

    Args:
        stored: Features of a window, the result of `records.decode`.
        keep_rate: Probability of keeping an unclicked row.
        seed: [2] integers that determine the choice.

    Returns:
        The features of the kept rows; requests without a kept row are dropped.
    """
    clicks, lengths = stored["click"], stored["list_lengths"]
    drawn = tf.random.stateless_uniform(tf.shape(clicks), seed)
    kept = tf.logical_or(clicks != 0, drawn < keep_rate)
    request = tf.repeat(tf.range(tf.size(lengths)), lengths)
    left = tf.math.unsorted_segment_sum(tf.cast(kept, tf.int32), request, tf.size(lengths))
    rows = tf.reshape(tf.where(kept), [-1])
    requests = tf.reshape(tf.where(left > 0), [-1])
    return {**_gathered(stored, requests, rows), "list_lengths": tf.gather(left, requests)}
