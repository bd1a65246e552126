"""The task of retrieval: a softmax over all ads or over a sample of them.

For a click on y, with s the scores of ads over the temperature,

    loss = −s_y + log( exp s_y + Σ_j exp s_j ),      j over all ads but y

and a sample estimates the sum: each drawn ad counts exp(s_j) / (its expected number of draws). The
clicked ad is not sampled and takes no correction. `tfrs.tasks.Retrieval` subtracts log Q from every
column, which gives frequently clicked ads more than their share.

Shapes: B clicks, C columns (candidates, the first B of which are the clicked ads; or all ads),
D embedding.

References:
    Bengio and Senécal, Adaptive Importance Sampling to Accelerate Training of a Neural
    Probabilistic Language Model, 2008.
    Khrylchenko et al., Correcting the LogQ Correction, 2025.
"""

import tensorflow as tf
import tensorflow_recommenders as tfrs

# The logit of a column that is not a negative.
EXCLUDED = -1e9


class SampledSoftmax(tfrs.tasks.Retrieval):
    """A `tfrs.tasks.Retrieval` with an unbiased correction for sampled negatives.

    It is called like it. The loss is the mean over the queries, and its metrics are the only ones.

    Args:
        loss_metrics: Metrics that summarize the loss.
        temperature: Temperature of the softmax; a variable can change between epochs.
    """

    def __init__(
        self,
        loss_metrics: list[tf.keras.metrics.Metric] | None = None,
        temperature: float | tf.Variable | None = None,
    ) -> None:
        super().__init__(loss_metrics=loss_metrics, temperature=temperature)

    def call(
        self,
        query_embeddings: tf.Tensor,
        candidate_embeddings: tf.Tensor,
        sample_weight: tf.Tensor | None = None,
        candidate_sampling_probability: tf.Tensor | None = None,
        candidate_ids: tf.Tensor | None = None,
        compute_metrics: bool = True,
        compute_batch_metrics: bool = True,
        score_mask: tf.Tensor | None = None,
        own_columns: tf.Tensor | None = None,
        num_queries: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns the mean loss of the queries, and updates its metrics.

        Args:
            query_embeddings: [B, D].
            candidate_embeddings: [C, D]; the first B are the own candidates of the queries.
            sample_weight: [B] weights of the queries.
            candidate_sampling_probability: [C] probability that a draw of a negative is the
                candidate; there are C - 1 draws. None: the candidates are all there are.
            candidate_ids: [C]; candidates with the id of a query's own are not its negatives. None:
                all differ.
            compute_metrics: Without effect; the stock task has it.
            compute_batch_metrics: Without effect; the stock task has it.
            score_mask: [B, C] bool, false for candidates that are not negatives of a query.
            own_columns: [B] int32 the column of each query's own candidate; None: the first B.
            num_queries: Number of queries of the whole batch, if these are a share of it; the loss
                is then their part of the batch's mean. None: B.
        """
        scaled = query_embeddings
        if self._temperature is not None:
            scaled /= self._temperature
        logits = tf.matmul(scaled, candidate_embeddings, transpose_b=True)  # [B, C]
        columns = tf.range(tf.shape(logits)[0]) if own_columns is None else own_columns
        if candidate_ids is None:
            candidate_ids = tf.range(tf.shape(logits)[1])
        excluded = tf.gather(candidate_ids, columns)[:, None] == candidate_ids
        if score_mask is not None:
            excluded |= ~score_mask
        clicked = tf.gather(logits, columns, batch_dims=1)
        if candidate_sampling_probability is not None:
            num_draws = tf.cast(tf.shape(logits)[1] - 1, logits.dtype)
            logits -= tf.math.log(num_draws * candidate_sampling_probability)
        others = tf.reduce_logsumexp(tf.where(excluded, EXCLUDED, logits), axis=1)
        losses = tf.nn.softplus(others - clicked)
        if sample_weight is not None:
            losses *= sample_weight
        if num_queries is None:
            loss = tf.reduce_mean(losses)
            summarized = loss
        else:
            loss = tf.reduce_sum(losses) / tf.cast(num_queries, losses.dtype)
            # The metric is the mean over the replicas.
            summarized = loss * tf.distribute.get_strategy().num_replicas_in_sync
        for metric in self._loss_metrics:
            metric.update_state(summarized)
        return loss
