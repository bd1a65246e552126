"""A per-position bias added to the logits in training and left out at serving.

Ads in good positions are clicked more, and the logging policy puts ads that it prefers there.
Learned jointly with the ad's own logit, the effect of the position is separated from that of the
ad wherever similar ads were shown in several positions. The served logit is the ad's own, in the
first position, so that no ad is credited for its logged positions.

Shapes: B requests, C candidates, P positions, K biased logits.

References:
    Ling et al., Model Ensemble for Click Prediction in Bing Search Ads, 2017 (position as an
    input in training only).
    Zhao et al., Recommending What Video to Watch Next, 2019 (a shallow additive tower).
"""

import tensorflow as tf

# Multiplies the learning rate of the steps. The embedding tables learn faster; what the biases do
# not explain in time goes to the ads.
SPEED = 3.0


class PositionBias(tf.keras.layers.Layer):
    """Learns an addition to each of some logits for each position; 0 for the first.

    The bias of a position is the sum of the steps up to it, so a rare position takes the bias of
    the position before it.

    Args:
        num_positions: Number P of positions; later ones count as the last.
        num_logits: Number K of biased logits.

    Attributes:
        first: The log's number of the first position, int32; to be assigned before training.
        steps: [P - 1, K] difference to the bias of the previous position, divided by `SPEED`.
    """

    def __init__(self, num_positions: int, num_logits: int) -> None:
        super().__init__(name="position_bias")
        self._last = num_positions - 1
        self.first = self.add_weight("first", (), tf.int32, initializer="zeros", trainable=False)
        self.steps = self.add_weight("steps", (self._last, num_logits), initializer="zeros")

    @property
    def biases(self) -> tf.Tensor:
        """[P, K] the bias of each position."""
        return tf.pad(SPEED * tf.cumsum(self.steps), [[1, 0], [0, 0]])

    def call(self, position: tf.Tensor) -> tf.Tensor:
        """Returns the biases [B, C, K] of the logged positions [B, C] int32.

        Positions before the first, such as a negative number for an unknown one, have bias 0.
        """
        return tf.gather(self.biases, tf.clip_by_value(position - self.first, 0, self._last))
