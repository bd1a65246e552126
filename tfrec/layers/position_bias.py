"""What a slot adds to the logits of the ad shown in it: known in training, left out at serving.

An ad in a good slot is clicked more, and the logging policy puts ads that it likes into good
slots. Learnt jointly with the ad's own logit, the slot's part is told apart from the ad's
wherever like ads were shown in several slots; what is served is the ad's own logit, that of
the first slot, so that no logged slot is repaid to the ad that had it.

Shapes: B requests, C candidates, P slots told apart, K biased logits.

References:
    Ling et al., Model Ensemble for Click Prediction in Bing Search Ads, 2017 (position as an
    input of training alone).
    Zhao et al., Recommending What Video to Watch Next, 2019 (a shallow additive tower).
"""

import tensorflow as tf

# The steps are learnt this much faster than the embedding tables, which have a row's whole
# history to find its place: what they lag behind goes to the ads, and the other way round.
SPEED = 3.0


class PositionBias(tf.keras.layers.Layer):
    """Learns an addition to each of some logits for each slot; the first slot's is 0.

    A slot's bias is the sum of steps from slot to slot, so that a slot that is seldom seen
    takes that of the slot before it.

    Args:
        num_positions: P; later slots count as the last.
        num_logits: K.

    Attributes:
        first: The log's number of the first slot, int32; to be assigned before training.
        steps: [P - 1, K] what a slot adds to that of the slot before it, over `SPEED`.
    """

    def __init__(self, num_positions: int, num_logits: int) -> None:
        super().__init__(name="position_bias")
        self._last = num_positions - 1
        self.first = self.add_weight("first", (), tf.int32, initializer="zeros", trainable=False)
        self.steps = self.add_weight("steps", (self._last, num_logits), initializer="zeros")

    @property
    def biases(self) -> tf.Tensor:
        """[P, K] the bias of each slot, from the first one."""
        return tf.pad(SPEED * tf.cumsum(self.steps), [[1, 0], [0, 0]])

    def call(self, position: tf.Tensor) -> tf.Tensor:
        """Returns the biases [B, C, K] of the logged slots [B, C] int32.

        A slot before the first one, such as a negative number for an unknown slot, has none.
        """
        return tf.gather(self.biases, tf.clip_by_value(position - self.first, 0, self._last))
