"""Down-samples the unclicked rows of a window of records before it is padded.

Shapes: R requests, L shown ads.
"""

from collections.abc import Mapping

import tensorflow as tf

from tfrecords.records import writer


def thin_unclicked(
    stored: Mapping[str, tf.Tensor], keep_rate: float, seed: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Keeps a share of the unclicked rows, and all rows whose click is 1 or unknown.

    Args:
        stored: Features of a window, the result of `records.decode`.
        keep_rate: Probability of keeping an unclicked row.
        seed: [2] integers that determine the choice.

    Returns:
        The features of the kept rows, without requests of which no row is kept.
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
