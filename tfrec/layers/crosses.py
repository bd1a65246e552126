"""Crosses of the query and the ad side: products of embeddings and cross layers.

Products of embeddings are learned for each pair of a query value and an ad value.

Shapes: B requests, C candidates, Fq and Fa embeddings of fields of the query and the ad side,
E embedding, D width.

References:
    Naumov et al., Deep Learning Recommendation Model, 2019 (products of embeddings).
    Wang et al., DCN V2: Improved Deep & Cross Network, 2021 (cross layers).
"""

import tensorflow as tf


def pairwise_products(query_embeddings: tf.Tensor, ad_embeddings: tf.Tensor) -> tf.Tensor:
    """Returns the inner products [B C, Fa Fq] of each ad-side with each query-side field.

    Args:
        query_embeddings: [B, Fq, E].
        ad_embeddings: [B, C, Fa, E].
    """
    num_requests, num_ads, num_ad_fields, dim = tf.unstack(tf.shape(ad_embeddings))
    fields = tf.reshape(ad_embeddings, [num_requests, num_ads * num_ad_fields, dim])
    pairs = tf.matmul(fields, query_embeddings, transpose_b=True)  # [B, C Fa, Fq]
    return tf.reshape(pairs, [-1, ad_embeddings.shape[2] * query_embeddings.shape[1]])


class CrossLayer(tf.keras.layers.Layer):
    """A cross layer: x_{l+1} = x_0 * (W x_l + b) + x_l (DCN V2, eq. 1)."""

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the projection."""
        self._project = tf.keras.layers.Dense(input_shape[-1])
        super().build(input_shape)

    def call(self, x0: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Returns the crossed input [B, D].

        Args:
            x0: [B, D] the input of the first cross layer.
            x: [B, D] the output of the previous one.
        """
        return x0 * self._project(x) + x
