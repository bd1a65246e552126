"""A per-user bias (random intercept) added to the logits, for logs that name users.

Some users click more than others, on any ad. Without the bias, fields that nearly identify users
(age, place, browser) absorb this, and it is wrong for the next user of that age. With it, what is
left for the fields is what users who share a value have in common. Id dropout, which hides user
ids from the other layers, does not hide the bias.

Biases are relative to their mean over the rows, which is the bias of out-of-vocabulary users; the
order of ads does not depend on them. They start at zero and move slowly: users with few rows stay
near the mean.

Shapes: B requests, C candidates, W columns of ids, V ids of the user, K logits.

References:
    Gelman and Hill, Data Analysis Using Regression and Multilevel/Hierarchical Models, 2006,
    chapter 12 (varying intercepts).
    Koren, Bell and Volinsky, Matrix Factorization Techniques for Recommender Systems, 2009
    (biases of users).
"""

import tensorflow as tf

from tfrec.layers import replicas, user_ids

# A row moves its user's bias by about this share of its residual, whatever the batch size (times
# 1.26, Adagrad's factor for gradients far below its initial accumulator).
STEP_PER_ROW = 0.05
_MOMENTUM = 0.95  # of the mean bias, per step


class UserBias(tf.keras.layers.Layer):
    """Learns an addition to each of some logits for each user.

    Args:
        users: Column and vocabulary of the user ids.
        num_logits: Number K of biased logits.

    Attributes:
        table: [V, K] the biases.
        mean: [K] their running mean over the rows of users in the vocabulary.
    """

    def __init__(self, users: user_ids.UserIds, num_logits: int) -> None:
        super().__init__(name="user_bias")
        self._users = users
        self.table = self.add_weight("table", (users.cardinality, num_logits), initializer="zeros")
        self.mean = self.add_weight(
            "mean",
            (num_logits,),
            initializer="zeros",
            trainable=False,
            aggregation=tf.VariableAggregation.MEAN,
        )

    def call(self, query: tf.Tensor, shown: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the biases [B, K] of the users of queries.

        Args:
            query: [B, W] int32, with user ids that are not hidden.
            shown: [B, C] bool, false for padding.
            training: Whether the mean is that of the batch and updates the running mean.
        """
        biases = tf.gather(self.table, self._users.of(query))
        known = tf.cast(self._users.is_known(query), biases.dtype)[:, None]
        mean = self.mean
        if training:
            rows = tf.reduce_sum(tf.cast(shown, biases.dtype), axis=1, keepdims=True)
            weights = rows * known
            num_rows, weight = replicas.total_of_replicas(
                [tf.reduce_sum(rows), tf.reduce_sum(weights)]
            )
            factor = STEP_PER_ROW * num_rows
            # Multiplies the gradient by the factor; the value stays the same.
            biases += (factor - 1.0) * (biases - tf.stop_gradient(biases))
            (total,) = replicas.total_of_replicas([tf.reduce_sum(weights * biases, axis=0)])
            mean = tf.math.divide_no_nan(total, weight)
            self.mean.assign(_MOMENTUM * self.mean + (1.0 - _MOMENTUM) * mean)
        return known * (biases - mean)
