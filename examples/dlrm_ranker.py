"""Your own ranker: DLRM, in place of the attention ranker.

    tfrec train --use_synthetic --ranker=dlrm_ranker:DLRM --workdir=workdir/dlrm

Run it in this folder, or with this folder in PYTHONPATH. Evaluation and export need no flag.

References:
    Naumov et al., Deep Learning Recommendation Model, 2019.
"""

from tfrec import layers, ranking  # First: it selects Keras 2.

import tensorflow as tf  # isort: skip


class DLRM(ranking.RankingModel):
    """Inner products of the fields of query and ad, and an MLP.

    Shapes: B requests, C candidates, Fq and Fa fields, E field embedding.
    """

    def __init__(self, fitted, config, heads):
        super().__init__(fitted, config, heads)
        schema, dim, l2 = fitted.schema, config.field_dim, config.embedding_l2
        self.query_embeddings = layers.FieldEmbeddings(fitted, schema.query_fields, dim, l2=l2)
        self.ad_embeddings = layers.FieldEmbeddings(fitted, schema.ad_fields, dim, l2=l2)
        self.top = tf.keras.Sequential(
            [
                tf.keras.layers.Dense(config.feed_forward_dim, activation="relu"),
                layers.Dropout(config.dropout),
                tf.keras.layers.Dense(config.model_dim, activation="relu"),
            ]
        )

    def call(self, inputs, training=False):
        query = self.query_embeddings(inputs["query"])  # [B, Fq, E]
        ads = self.ad_embeddings(inputs["ad"])  # [B, C, Fa, E]
        products = tf.einsum("bqe,bcae->bcqa", query, ads)
        flat_query = layers.flatten(query)[:, None] * tf.ones_like(ads[..., 0, :1])
        features = [flat_query, layers.flatten(ads), layers.flatten(products)]
        return self.head_logits(self.top(tf.concat(features, axis=-1), training=training))
