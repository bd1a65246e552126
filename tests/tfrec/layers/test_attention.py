"""Attention of candidates to the tokens of their request.

Shapes: B requests, C candidates, T tokens, E width of a token, D model width, K width of a
head.
"""

import numpy as np
import pytest
import tensorflow as tf

from tfrec import config, layers

B, C, E, D = 3, 5, 6, 12
HEADS, K = 3, 2
SIZES = config.RankerConfig(model_dim=D, num_heads=HEADS, head_dim=K, dropout=0.0)


def normal(*shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def candidates():
    return normal(B, C, D, seed=1)


@pytest.fixture(params=[4, 20], ids=["few tokens", "many tokens"])
def tokens(request):
    return normal(B, request.param, E, seed=2)


@pytest.fixture
def absent(tokens):
    """Requests with all tokens, without the last two, and without one in the middle."""
    result = np.zeros(tokens.shape[:2], bool)
    result[1, -2:] = result[2, 1] = True
    return result


@pytest.fixture
def block(candidates, tokens):
    """A block in which every weight matters."""
    made = layers.TargetAttention(SIZES)
    made(candidates, tokens)
    for seed, weight in enumerate(made.trainable_variables):
        weight.assign_add(normal(*weight.shape, seed=seed) * 0.5)
    return made


@pytest.fixture
def keras_layer(block, candidates, tokens):
    """Keras's layer with the weights of the block, and the biases that the block lacks."""
    ours = block.attention
    key_bias, value_bias = normal(HEADS, K, seed=30), normal(HEADS, K, seed=31)
    # The weights of the tokens sum to one: a bias of values is added to what is attended to.
    bias = ours.output_bias - tf.einsum("hk,hkd->d", value_bias, ours.output_kernel)
    layer = tf.keras.layers.MultiHeadAttention(HEADS, K)
    layer(candidates, tokens)
    layer.set_weights(
        [
            *(ours.query_kernel, ours.query_bias, ours.key_kernel, key_bias),
            *(ours.value_kernel, value_bias, ours.output_kernel, bias),
        ]
    )
    return layer


@pytest.fixture(params=[False, True], ids=["serving", "training"])
def training(request):
    return request.param


@pytest.mark.parametrize("is_masked", [False, True], ids=["all tokens", "absent tokens"])
def test_a_block_is_pre_norm_multi_head_attention_of_keras(
    block, keras_layer, candidates, tokens, absent, is_masked, training
):
    centered = candidates - candidates.mean(-1, keepdims=True)
    x = centered / np.sqrt(centered.var(-1, keepdims=True) + 1e-6)
    x = x * block.norm.gamma + block.norm.beta
    mask = ~absent[:, None] if is_masked else None
    expected = candidates + block.scale * keras_layer(x, tokens, attention_mask=mask)
    absent = tf.constant(absent) if is_masked else None
    found = block(candidates, tokens, absent, training=training)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_absent_tokens_and_other_candidates_change_no_candidate(
    block, candidates, tokens, absent, training
):
    found = block(candidates, tokens, tf.constant(absent), training=training).numpy()
    others, other_tokens = candidates.copy(), tokens.copy()
    others[:, 1:] += 5.0
    other_tokens[absent] *= -3.0
    changed = block(others, other_tokens, tf.constant(absent), training=training).numpy()
    np.testing.assert_allclose(changed[:, 0], found[:, 0], atol=1e-5)
    assert np.abs(changed[:, 1] - found[:, 1]).max() > 1.0


def test_a_new_block_is_the_identity(candidates, tokens):
    found = layers.TargetAttention(SIZES)(candidates, tokens)
    np.testing.assert_array_equal(found, candidates)
