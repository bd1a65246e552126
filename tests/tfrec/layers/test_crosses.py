"""Cross layers."""

import numpy as np
import tensorflow as tf

from tfrec.layers import crosses


def test_the_cross_layer_multiplies_by_the_input_and_adds_what_it_crosses():
    layer = crosses.CrossLayer()
    x0, x = tf.constant([[1.0, 2.0]]), tf.constant([[3.0, 5.0]])
    layer(x0, x)
    layer.set_weights([np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([0.0, 1.0])])
    # x W + b = (3 + 5, 5 + 1); times x0: (8, 12); plus x: (11, 17).
    np.testing.assert_allclose(layer(x0, x), [[11.0, 17.0]])
