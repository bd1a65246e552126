"""Inner products of each query field's embedding with each ad field's, and their weighted sums.

A weighted sum of a request's products is linear in the ad's embeddings: the query's can be
multiplied into the weights once a request (`folded_products`), and the products of its candidates
are never made. That is less work from some tens of candidates on, so serving does it and training
on short lists does not.

Shapes: B requests, C candidates, Fq and Fa fields of the query and the ad side, E embedding,
U sums.

References:
    Naumov et al., Deep Learning Recommendation Model, 2019 (the products).
"""

import tensorflow as tf


def pairwise_products(query_embeddings: tf.Tensor, ad_embeddings: tf.Tensor) -> tf.Tensor:
    """Multiplies each field of [B, Fq, E] with each of [B, C, Fa, E] to [B C, Fa Fq]."""
    num_requests, num_ads, num_ad_fields, dim = tf.unstack(tf.shape(ad_embeddings))
    fields = tf.reshape(ad_embeddings, [num_requests, num_ads * num_ad_fields, dim])
    pairs = tf.matmul(fields, query_embeddings, transpose_b=True)  # [B, C Fa, Fq]
    return tf.reshape(pairs, [-1, ad_embeddings.shape[2] * query_embeddings.shape[1]])


def folded_products(query_embeddings: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Multiplies the query into weights of products.

    Args:
        query_embeddings: [B, Fq, E] float32.
        kernel: [Fa Fq, U] float32 weights of `pairwise_products`.

    Returns:
        [B, Fa E, U]: flat ad embeddings [C, Fa E] times this are the products times the kernel.
    """
    num_query_fields, dim = query_embeddings.shape[1:]
    sums = kernel.shape[-1]
    num_ad_fields = kernel.shape[0] // num_query_fields
    by_query = tf.transpose(tf.reshape(kernel, [num_ad_fields, num_query_fields, sums]), [1, 0, 2])
    by_query = tf.reshape(by_query, [num_query_fields, num_ad_fields * sums])
    weights = tf.matmul(tf.linalg.matrix_transpose(query_embeddings), by_query)  # [B, E, Fa U]
    weights = tf.reshape(weights, [-1, dim, num_ad_fields, sums])
    return tf.reshape(tf.transpose(weights, [0, 2, 1, 3]), [-1, num_ad_fields * dim, sums])
