"""What a user adds to the logits of whatever ad: a level of their own, where the log names users.

Some users click more than others, on anything. All rows of a user share that, and fields that
tell users nearly apart (age, place, browser) would take it for their own effect, which the next
user of that age does not have. A level for each user takes it first (a random intercept): what is
left for the fields is what users who share a value have in common. Id dropout, which makes users
strangers to the layers, does not hide the level: else it would go to these fields all the more.

The levels are counted from their mean over the rows, which is the level of users out of vocabulary;
no order of ads depends on them. They begin at zero and move slowly: users of few rows stay near the
mean.

Shapes: B requests, C candidates, W columns of ids, V ids of the user, K logits.

References:
    Gelman and Hill, Data Analysis Using Regression and Multilevel/Hierarchical Models, 2006,
    chapter 12 (varying intercepts).
    Koren, Bell and Volinsky, Matrix Factorization Techniques for Recommender Systems, 2009
    (biases of users).
"""

import tensorflow as tf

from tfrec.layers import user_ids

# A row moves its user's level by about this share of its residual, whatever the batch's size (times
# the 1.26 that Adagrad makes of gradients far below what its accumulators begin with).
GAIN_A_ROW = 0.05
_MOMENTUM = 0.95  # of the mean level, a step


class UserBias(tf.keras.layers.Layer):
    """Learns an addition to each of some logits for each user.

    Args:
        users: Where queries carry the user's id.
        num_logits: K.

    Attributes:
        table: [V, K] the levels.
        centre: [K] their running mean over the rows of users in the vocabulary.
    """

    def __init__(self, users: user_ids.UserIds, num_logits: int) -> None:
        super().__init__(name="user_levels")
        self._users = users
        self.table = self.add_weight("table", (users.cardinality, num_logits), initializer="zeros")
        self.centre = self.add_weight("centre", (num_logits,), initializer="zeros", trainable=False)

    def call(self, query: tf.Tensor, shown: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the levels [B, K] of the users of queries.

        Args:
            query: [B, W] int32, whose users' ids are not hidden.
            shown: [B, C] bool, the candidates that do not only fill lists up.
            training: Whether the mean is that of the batch, and is learnt.
        """
        levels = tf.gather(self.table, self._users.of(query))
        known = tf.cast(self._users.is_known(query), levels.dtype)[:, None]
        centre = self.centre
        if training:
            rows = tf.reduce_sum(tf.cast(shown, levels.dtype), axis=1, keepdims=True)
            faster = GAIN_A_ROW * tf.reduce_sum(rows)
            # The value stays as it is, its gradient is so much larger.
            levels += (faster - 1.0) * (levels - tf.stop_gradient(levels))
            weights = rows * known
            total = tf.reduce_sum(weights * levels, axis=0)
            centre = tf.math.divide_no_nan(total, tf.reduce_sum(weights))
            self.centre.assign(_MOMENTUM * self.centre + (1.0 - _MOMENTUM) * centre)
        return known * (levels - centre)
