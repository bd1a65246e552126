"""The ranker's scores, computed in the order that is fastest for many candidates.

The head and the first layer read a weighted sum of products of query and ad fields, which is
linear in the ad's embeddings. For some tens of candidates or more it is less work to multiply the
query into the weights once per request than to compute the products of each candidate; for the
short lists of training it is more. Candidates are isolated, so they can be split into parts that
run on several cores.

Shapes: B requests, C candidates, Fq and Fa fields of the query and the ad side, Wq and Wa their
columns of ids, E field embedding, U sums, W hidden width, P comparisons.
"""

import itertools

import tensorflow as tf

from tfrec import layers, ranking
from tfrec.heads import HEADS


def score_candidates(
    model: ranking.RankingModel, query: tf.Tensor, ad: tf.Tensor, parts: int = 1
) -> layers.Logits:
    """Returns the model's `logits`, apart from rounding.

    Other rankers and subclasses compute theirs in `logits`: a subclass may have changed parts that
    are computed here in another order.

    Args:
        model: The ranker, built.
        query: [B, Wq] int32 encoded query fields.
        ad: [B, C, Wa] int32 encoded ad fields.
        parts: Number of parts of the candidates that can be scored in parallel.
    """
    if type(model) is not ranking.Ranker:
        return model.logits({"query": query, "ad": ad})
    side = model.encode_query(query)
    scored = [_score_part(model, side, part) for part in _split(ad, parts)]
    logits = {head: tf.concat([part[head] for part in scored], axis=1) for head in model.heads}
    logits = model.add_user_bias(model.add_amount_slopes(logits, ad), query, ad)
    return model.mix_rare_heads(logits, query, ad)


def _score_part(model: ranking.Ranker, side: ranking.QuerySide, ad: tf.Tensor) -> layers.Logits:
    """Returns the logits of the model's `call`."""
    flat = layers.flatten(model.ad_embeddings(ad))  # [B, C, Fa E]
    compared = model.comparisons(side.ids[:, None], ad)  # [B, C, P]
    num_products = model.pair_input.kernel.shape[0] - compared.shape[-1]
    product_kernel, compared_kernel = tf.split(model.pair_input.kernel, [num_products, -1])
    weights = folded_products(side.embeddings, product_kernel)
    hidden = tf.matmul(flat, weights + model.ad_input.kernel)  # [B, C, W]
    hidden += tf.matmul(compared, compared_kernel)
    inputs = model.encode_candidates(side, hidden)  # [B C, ...]
    # All heads are one product of matrices.
    heads = model.head_layers.values()
    kernel = tf.concat([layer.kernel for layer in heads], axis=1)
    bias = tf.concat([layer.bias for layer in heads], axis=0)
    input_kernel, product_kernel, compared_kernel = tf.split(
        kernel, [inputs.shape[-1], num_products, -1]
    )
    logits = tf.nn.bias_add(tf.matmul(inputs, input_kernel), bias)
    shape = [tf.shape(ad)[0], tf.shape(ad)[1], bias.shape[0]]
    logits = tf.reshape(logits, shape)
    logits += tf.matmul(flat, folded_products(side.embeddings, product_kernel))
    logits += tf.matmul(compared, compared_kernel)
    parts = tf.split(logits, [layer.units for layer in heads], axis=-1)
    return {
        head: part if HEADS[head].is_amount else tf.squeeze(part, axis=-1)
        for head, part in zip(model.heads, parts, strict=True)
    }


def folded_products(query_embeddings: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Folds the query into weights of products.

    Args:
        query_embeddings: [B, Fq, E] float32.
        kernel: [Fa Fq, U] float32 weights of `layers.pairwise_products`.

    Returns:
        [B, Fa E, U]: flat ad embeddings [C, Fa E] times this equal the products times the kernel.
    """
    num_query_fields, dim = query_embeddings.shape[1:]
    sums = kernel.shape[-1]
    num_ad_fields = kernel.shape[0] // num_query_fields
    by_query = tf.transpose(tf.reshape(kernel, [num_ad_fields, num_query_fields, sums]), [1, 0, 2])
    by_query = tf.reshape(by_query, [num_query_fields, num_ad_fields * sums])
    weights = tf.matmul(tf.linalg.matrix_transpose(query_embeddings), by_query)  # [B, E, Fa U]
    weights = tf.reshape(weights, [-1, dim, num_ad_fields, sums])
    return tf.reshape(tf.transpose(weights, [0, 2, 1, 3]), [-1, num_ad_fields * dim, sums])


def _split(ad: tf.Tensor, parts: int) -> list[tf.Tensor]:
    """Splits candidates [B, C, Wa] into parts as equal as possible; some are empty for small C."""
    num_ads = tf.shape(ad)[1]
    ends = [num_ads * part // parts for part in range(parts + 1)]
    return [ad[:, start:end] for start, end in itertools.pairwise(ends)]
