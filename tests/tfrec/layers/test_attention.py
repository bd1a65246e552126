"""The attention block against Keras's own attention, under a mask that is written out.

Shapes: B requests, C candidates, T query tokens, N = T + C rows, D model width.
"""

import numpy as np
import pytest
import tensorflow as tf

from tfrec import config, layers

B, C, T, D, HEADS = 3, 5, 4, 12, 3
SIZES = config.RankerConfig(model_dim=D, num_heads=HEADS, feed_forward_dim=10)
# Requests with every token, without the last two, and without one in the middle.
ABSENT = np.array([[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 0, 0]], bool)


@pytest.fixture
def rows():
    return np.random.default_rng(1).normal(size=(B, T + C, D)).astype(np.float32)


@pytest.fixture
def block():
    """A block every weight of which says something."""
    made = layers.IsolatedAttentionBlock(SIZES, T)
    made(tf.zeros([1, T + C, D]))
    rng = np.random.default_rng(2)
    for weight in made.trainable_variables:
        weight.assign_add(rng.normal(scale=0.5, size=weight.shape).astype(np.float32))
    return made


def allowed(absent):
    """Returns [B, N, N] bool, whether a row sees another: tokens that are there, and itself.

    A query token is one of the tokens already, and one that is absent is not seen by itself.
    """
    mask = np.zeros((B, T + C, T + C), bool)
    mask[:, :, :T] = ~absent[:, None]
    for candidate in range(T, T + C):
        mask[:, candidate, candidate] = True
    return mask


def in_keras(block, rows, mask):
    """Returns what Keras's layers make of rows [B, N, D] with the weights of a block."""

    def norm(own):
        layer = tf.keras.layers.LayerNormalization(epsilon=1e-6)
        layer.build([None, None, D])
        layer.set_weights([own.gamma, own.beta])
        return layer

    attention = tf.keras.layers.MultiHeadAttention(HEADS, D // HEADS)
    attention(rows, rows)
    kernels, biases = (
        np.split(weight.numpy(), 3, axis=-1)
        for weight in (block._query_key_value.kernel, block._query_key_value.bias)
    )
    projections = [
        weight
        for kernel, bias in zip(kernels, biases, strict=True)
        for weight in (kernel.reshape(D, HEADS, -1), bias.reshape(HEADS, -1))
    ]
    output = block._output.kernel.numpy().reshape(HEADS, -1, D)
    attention.set_weights([*projections, output, block._output.bias.numpy()])
    normed = norm(block._attention_norm)(rows)
    x = rows + attention(normed, normed, attention_mask=mask)
    hidden = tf.keras.activations.gelu(block._widen(norm(block._feed_forward_norm)(x)))
    return (x + block._narrow(hidden)).numpy()


@pytest.mark.parametrize("absent", [None, ABSENT], ids=["every token", "absent tokens"])
def test_it_is_keras_attention_to_the_query_tokens_and_to_oneself(block, rows, absent):
    mask = allowed(np.zeros_like(ABSENT) if absent is None else absent)
    found = block(tf.constant(rows), None if absent is None else tf.constant(absent))
    np.testing.assert_allclose(found, in_keras(block, rows, mask), rtol=1e-4, atol=1e-4)


def test_each_part_of_the_mask_matters(block, rows):
    """The comparison above would tell a mask that is off by one entry of any kind."""
    right = in_keras(block, rows, allowed(ABSENT))
    first = T  # the first candidate
    for row, column in [(first, first), (first, first + 1), (first, 0), (0, first), (0, 0)]:
        wrong = allowed(ABSENT)
        wrong[:, row, column] ^= True
        assert np.abs(in_keras(block, rows, wrong)[:, row] - right[:, row]).max() > 1e-2
    assert ABSENT[1, 3]
    wrong = allowed(ABSENT)
    wrong[1, first, 3] = True
    assert np.abs(in_keras(block, rows, wrong)[1, first] - right[1, first]).max() > 1e-2


def test_what_is_absent_and_other_candidates_change_no_candidate(block, rows):
    absent = tf.constant(ABSENT)
    found = block(tf.constant(rows), absent).numpy()
    others = rows.copy()
    others[:, :T][ABSENT] *= -3.0
    others[:, T + 1 :] += 5.0
    changed = block(tf.constant(others), absent).numpy()
    np.testing.assert_allclose(changed[:, T], found[:, T], atol=1e-5)
    there = ~ABSENT
    np.testing.assert_allclose(changed[:, :T][there], found[:, :T][there], atol=1e-5)
