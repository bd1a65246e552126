"""Biases added to the logits: of logged positions, and of users.

Ads in good positions are clicked more, and the logging policy puts ads that it prefers there.
Learned jointly with the ad's own logit, the effect of the position is separated from the ad's if
similar ads were shown in several positions. It is left out at serving: the served logit is the ad's
own, in the first position, so that no ad is credited for its logged positions.

Some users click more than others, on any ad. Without a bias, fields that nearly identify users
(age, place, browser) absorb this, and it is wrong for the next user of that age. With it (a random
intercept), the fields absorb less. Id dropout, which hides user ids from the other layers, does not
hide the bias. Biases of users are relative to their mean over the rows, which is the bias of
out-of-vocabulary users; the order of ads does not depend on them. They start at zero and move
slowly: users with few rows stay near the mean.

Shapes: B requests, C candidates, P positions, W columns of ids, V ids of the user, K biased logits.

References:
    Ling et al., Model Ensemble for Click Prediction in Bing Search Ads, 2017 (position as an
    input in training only).
    Zhao et al., Recommending What Video to Watch Next, 2019 (a shallow additive tower).
    Gelman and Hill, Data Analysis Using Regression and Multilevel/Hierarchical Models, 2006,
    chapter 12 (varying intercepts).
    Koren, Bell and Volinsky, Matrix Factorization Techniques for Recommender Systems, 2009
    (biases of users).
"""

import tensorflow as tf

from tfrec.layers import key_ids, replicas

# Multiplies the learning rate of the position steps. The embedding tables learn faster, and absorb
# effects that the biases learn too late.
POSITION_SPEED = 3.0
# A row moves its user's bias by about this share of its residual, regardless of batch size (times
# 1.26, Adagrad's factor for gradients far below its initial accumulator).
STEP_PER_ROW = 0.05
_MEAN_MOMENTUM = 0.95  # of the users' mean bias, per step


class PositionBias(tf.keras.layers.Layer):
    """Learns a bias per position for each of K logits; 0 for the first position.

    The bias of a position is the sum of the steps up to it, so a rare position takes the bias of
    the position before it.

    Args:
        num_positions: Number P of positions; later ones count as the last.
        num_logits: Number K of biased logits.

    Attributes:
        first: Number of the first position in the log, [] int32; assign it before training.
        steps: [P - 1, K] difference to the bias of the previous position, divided by
            `POSITION_SPEED`.
    """

    def __init__(self, num_positions: int, num_logits: int) -> None:
        super().__init__(name="position_bias")
        self._last = num_positions - 1
        self.first = self.add_weight("first", (), tf.int32, initializer="zeros", trainable=False)
        self.steps = self.add_weight("steps", (self._last, num_logits), initializer="zeros")

    @property
    def biases(self) -> tf.Tensor:
        """[P, K] the bias of each position."""
        return tf.pad(POSITION_SPEED * tf.cumsum(self.steps), [[1, 0], [0, 0]])

    def call(self, position: tf.Tensor) -> tf.Tensor:
        """Returns the biases [B, C, K] of the logged positions [B, C] int32.

        Positions before the first, such as a negative number for an unknown one, have bias 0.
        """
        return tf.gather(self.biases, tf.clip_by_value(position - self.first, 0, self._last))


class UserBias(tf.keras.layers.Layer):
    """Learns a bias per user for each of K logits.

    Args:
        users: Column and vocabulary of the user ids.
        num_logits: Number K of biased logits.

    Attributes:
        table: [V, K] biases of the users.
        mean: [K] running mean of the biases over the rows of users in the vocabulary.
    """

    def __init__(self, users: key_ids.KeyIds, num_logits: int) -> None:
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
            training: Whether to use the mean of the batch, and update the running mean with it.
        """
        biases = tf.gather(self.table, self._users.ids_in(query))
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
            momentum = tf.where(weight > 0, _MEAN_MOMENTUM, 1.0)
            self.mean.assign(momentum * self.mean + (1.0 - momentum) * mean)
        return known * (biases - mean)
