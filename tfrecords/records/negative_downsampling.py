"""Leaves out a share of the unclicked rows of a window of records, before it is padded.

Shapes: R requests, L shown ads.
"""

from collections.abc import Mapping

import tensorflow as tf

from tfrecords.records import writer


def thin_unclicked(
    stored: Mapping[str, tf.Tensor], keep_rate: float, seed: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Keeps a share of the unclicked rows, and every row that is clicked or of unknown click.

    Args:
        stored: The features of a window, as `records.decode` gives them.
        keep_rate: Chance of an unclicked row to be kept.
        seed: [2] integers: the same rows are kept for the same window and seed.

    Returns:
        The features of the rows kept; a request of which no row is kept is left out.
    """
    clicks, lengths = stored["click"], stored["list_lengths"]
    drawn = tf.random.stateless_uniform(tf.shape(clicks), seed)
    kept = tf.logical_or(clicks != 0, drawn < keep_rate)
    request = tf.repeat(tf.range(tf.size(lengths)), lengths)
    left = tf.math.unsorted_segment_sum(tf.cast(kept, tf.int32), request, tf.size(lengths))
    rows = tf.reshape(tf.where(kept), [-1])
    requests = tf.reshape(tf.where(left > 0), [-1])
    thinned = {
        name: tf.gather(values, requests if writer.is_per_request(name) else rows)
        for name, values in stored.items()
    }
    return {**thinned, "list_lengths": tf.gather(left, requests)}
