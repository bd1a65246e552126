"""Training one batch on several replicas (`tf.distribute`), each with a share of its rows.

The losses of the shares add up to the loss of the batch, and so do their gradients, which the
optimizers sum. Every replica has the data of other rows that its losses depend on: `whole_batch`
has the labels, ads and requests of the whole batch, and embeddings are gathered.

Shapes: B rows of a batch, C columns, U uniform negatives.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

# Key of the whole batch's data in a share of it.
WHOLE = "whole"
# Encoded rows, by far the largest part of a batch. No loss needs the rows of other shares.
_IDS = ("query", "ad")


def several_replicas() -> bool:
    """Returns whether the caller is one of several replicas in a step."""
    context = tf.distribute.get_replica_context()
    return context is not None and context.num_replicas_in_sync > 1


def share_of(batch: Mapping[str, tf.Tensor], replica: tf.Tensor, num_replicas: int) -> dict:
    """Returns a replica's rows of a batch, and `WHOLE`, the whole batch without the ids.

    Shares are runs of rows, in the order of the replicas. They differ by at most one row, and some
    are empty if there are more replicas than rows.

    Args:
        batch: Name -> [B, ...].
        replica: Number of the replica, from 0.
        num_replicas: Number of replicas.
    """
    rows = {name: _run_of(values, replica, num_replicas) for name, values in batch.items()}
    return {**rows, WHOLE: {n: values for n, values in batch.items() if n not in _IDS}}


def _run_of(values: tf.Tensor, replica: tf.Tensor, num_replicas: int) -> tf.Tensor:
    size, replica = tf.shape(values)[0], tf.cast(replica, tf.int32)
    return values[size * replica // num_replicas : size * (replica + 1) // num_replicas]


def own_rows(values: tf.Tensor) -> tf.Tensor:
    """Returns this replica's share of values [B, ...] of the whole batch."""
    context = tf.distribute.get_replica_context()
    return _run_of(values, context.replica_id_in_sync_group, context.num_replicas_in_sync)


def whole_batch(batch: Mapping[str, Any]) -> Mapping[str, tf.Tensor]:
    """Returns the stored data of the whole batch of a share; without shares, the batch itself."""
    return batch.get(WHOLE, batch)


def total_of_replicas(values: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
    """Returns the sums of tensors of the same shape over all replicas, with their gradient."""
    if not several_replicas():
        return values
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, list(values))


def part_of_whole(value: tf.Tensor, batch: Mapping[str, Any]) -> tf.Tensor:
    """Returns a share's contribution to the mean of its whole batch, by numbers of rows.

    Args:
        value: Mean over the rows of a batch.
        batch: The batch, a share or not.
    """
    if WHOLE not in batch:
        return value
    share_size, whole_size = (
        tf.cast(tf.shape(rows["ad_row"])[0], value.dtype) for rows in (batch, batch[WHOLE])
    )
    return value * share_size / whole_size


def weighted_mean(values: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Returns the mean of values, 0 without weights.

    On several replicas, the mean of their results is the mean over the rows of all replicas.
    """
    weight = tf.reduce_sum(weights)
    if several_replicas():
        weight = total_of_replicas([weight])[0] / tf.distribute.get_strategy().num_replicas_in_sync
    return tf.math.divide_no_nan(tf.reduce_sum(values * weights), weight)


def mean_of_rows(values: tf.Tensor) -> tf.Tensor:
    """Returns the mean of a replica's values; 0 for an empty share."""
    if not several_replicas():
        return tf.reduce_mean(values)
    return tf.math.divide_no_nan(tf.reduce_sum(values), tf.cast(tf.size(values), values.dtype))


class Columns(NamedTuple):
    """The candidates of a batch, first those that this replica embeds.

    Attributes:
        rows: [C] int32 catalog rows.
        num_own: [] int32 number of candidates that this replica embeds.
        num_before: [] int32 number of candidates that the replicas before it embed.
    """

    rows: tf.Tensor
    num_own: tf.Tensor
    num_before: tf.Tensor


def order_columns(clicked: tf.Tensor, uniform: tf.Tensor) -> Columns:
    """Orders candidates by replica, starting with this one: its clicks, then its uniform ads.

    Args:
        clicked: [B] the clicked ads of the whole batch.
        uniform: [U] ads, the same on all replicas.
    """
    context = tf.distribute.get_replica_context()
    number, replica = context.num_replicas_in_sync, context.replica_id_in_sync_group
    owner = tf.concat([_owners(tf.size(part), number) for part in (clicked, uniform)], axis=0)
    turn = (owner - replica) % number
    rows = tf.gather(tf.concat([clicked, uniform], axis=0), tf.argsort(turn, stable=True))
    num_own, num_before = (
        tf.math.count_nonzero(mask, dtype=tf.int32) for mask in (turn == 0, owner < replica)
    )
    return Columns(rows, num_own, num_before)


def _owners(size: tf.Tensor, num_replicas: int) -> tf.Tensor:
    """Returns [size] int32: the replica that has each row, as `share_of` cuts them."""
    ends = size * tf.range(num_replicas + 1) // num_replicas
    return tf.repeat(tf.range(num_replicas), ends[1:] - ends[:-1])


def gather_columns(own: tf.Tensor, columns: Columns) -> tf.Tensor:
    """Returns the embeddings [C, D] of all columns, with their gradient, from the replica's own."""
    # The gradient of a gather needs a tensor that the step computes.
    gathered = tf.distribute.get_replica_context().all_gather(tf.identity(own), axis=0)
    return tf.roll(gathered, -columns.num_before, axis=0)
