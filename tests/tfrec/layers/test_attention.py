"""Attention of candidates to the tokens of their request.

Shapes: B requests, C candidates, T tokens, E width of a token, D model width, K width of a
head.
"""

import numpy as np
import pytest
import tensorflow as tf

from tfrec import config, layers

B, C, T, E, D = 3, 5, 4, 6, 12
HEADS, K = 3, 2
SIZES = config.RankerConfig(model_dim=D, num_heads=HEADS, head_dim=K, dropout=0.0)
# Requests with all tokens, without the last two, and without one in the middle.
ABSENT = np.array([[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 0, 0]], bool)


def normal(*shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def candidates():
    return normal(B, C, D, seed=1)


@pytest.fixture
def tokens():
    return normal(B, T, E, seed=2)


@pytest.fixture
def block(candidates, tokens):
    """A block in which every weight matters."""
    made = layers.TargetAttention(SIZES)
    made(candidates, tokens)
    for seed, weight in enumerate(made.trainable_variables):
        weight.assign_add(normal(*weight.shape, seed=seed) * 0.5)
    return made


def in_numpy(block, candidates, tokens, absent):
    """Pre-norm multi-head attention of one request: [C, D] and [T, E] to [C, D]."""
    centered = candidates - candidates.mean(-1, keepdims=True)
    x = centered / np.sqrt(centered.var(-1, keepdims=True) + 1e-6)
    x = x * block.norm.gamma.numpy() + block.norm.beta.numpy()
    query, query_bias, key, key_bias, value, value_bias, output, output_bias = (
        block.attention.get_weights()
    )
    attended = np.zeros_like(candidates)
    for head in range(HEADS):
        queries = x @ query[:, head] + query_bias[head]
        keys = tokens[~absent] @ key[:, head] + key_bias[head]
        weights = np.exp(queries @ keys.T / np.sqrt(K))
        weights /= weights.sum(-1, keepdims=True)
        values = tokens[~absent] @ value[:, head] + value_bias[head]
        attended += weights @ values @ output[head]
    return candidates + block.scale.numpy() * (attended + output_bias)


@pytest.mark.parametrize("absent", [None, ABSENT], ids=["all tokens", "absent tokens"])
def test_it_is_multi_head_attention_to_the_present_tokens(block, candidates, tokens, absent):
    found = block(candidates, tokens, None if absent is None else tf.constant(absent))
    for row, left_out in enumerate(np.zeros_like(ABSENT) if absent is None else absent):
        expected = in_numpy(block, candidates[row], tokens[row], left_out)
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-4)


def test_absent_tokens_and_other_candidates_change_no_candidate(block, candidates, tokens):
    found = block(candidates, tokens, tf.constant(ABSENT)).numpy()
    others, other_tokens = candidates.copy(), tokens.copy()
    others[:, 1:] += 5.0
    other_tokens[ABSENT] *= -3.0
    changed = block(others, other_tokens, tf.constant(ABSENT)).numpy()
    np.testing.assert_allclose(changed[:, 0], found[:, 0], atol=1e-5)
    assert np.abs(changed[:, 1] - found[:, 1]).max() > 1.0


def test_a_new_block_is_the_identity(candidates, tokens):
    found = layers.TargetAttention(SIZES)(candidates, tokens)
    np.testing.assert_array_equal(found, candidates)
