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

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_recommenders as tfrs

# The logit of a column that is not a negative.
EXCLUDED = -1e9


class SampledSoftmax(tfrs.tasks.Retrieval):
    """A `tfrs.tasks.Retrieval` with an unbiased correction for sampled negatives.

    It has the same call signature. The loss is the mean over the queries.

    Args:
        metrics: `tfrs.metrics.FactorizedTopK`, one or several.
        batch_metrics: Metrics of the logits of a batch.
        loss_metrics: Metrics that summarize the loss.
        temperature: Temperature of the softmax; a variable can change between epochs.
        remove_accidental_hits: Whether candidates with the id of a query's own candidate are not
            its negatives.
        name: Name of the task.
    """

    def __init__(
        self,
        metrics: Sequence[tfrs.metrics.Factorized] | tfrs.metrics.Factorized | None = None,
        batch_metrics: list[tf.keras.metrics.Metric] | None = None,
        loss_metrics: list[tf.keras.metrics.Metric] | None = None,
        temperature: float | tf.Variable | None = None,
        remove_accidental_hits: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(
            metrics=metrics,
            batch_metrics=batch_metrics,
            loss_metrics=loss_metrics,
            temperature=temperature,
            remove_accidental_hits=remove_accidental_hits,
            name=name,
        )

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
        """Returns the mean loss of the queries, and updates the metrics.

        Args:
            query_embeddings: [B, D].
            candidate_embeddings: [C, D]; the first B are the own candidates of the queries.
            sample_weight: [B] weights of the queries.
            candidate_sampling_probability: [C] probability that a draw of a negative is the
                candidate; there are C - 1 draws. None: the candidates are all there are.
            candidate_ids: [C]; required to remove accidental hits.
            compute_metrics: Whether to update the factorized metrics.
            compute_batch_metrics: Whether to update the batch metrics.
            score_mask: [B, C] bool, false for candidates that are no negatives of a query.
            own_columns: [B] int32 the column of each query's own candidate; None: the first B.
            num_queries: Number of queries of the batch that these are a share of; the loss is then
                their part of the batch's mean. None: B.

        Raises:
            ValueError: Accidental hits are to be removed, and there are no candidate ids.
        """
        scaled = query_embeddings
        if self._temperature is not None:
            scaled /= self._temperature
        logits = tf.matmul(scaled, candidate_embeddings, transpose_b=True)  # [B, C]
        own = tf.range(tf.shape(logits)[0]) if own_columns is None else own_columns
        excluded = self._own_candidates(own, tf.shape(logits)[1], candidate_ids)
        if score_mask is not None:
            excluded |= ~score_mask
        log_draws = None
        if candidate_sampling_probability is not None:
            num_draws = tf.cast(tf.shape(logits)[1] - 1, logits.dtype)
            log_draws = tf.math.log(num_draws * candidate_sampling_probability)
        losses = tf.nn.softplus(
            log_of_rest(logits, excluded, log_draws) - tf.gather(logits, own, batch_dims=1)
        )
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
        for metric in self._factorized_metrics if compute_metrics else ():
            metric.update_state(
                query_embeddings,
                tf.gather(candidate_embeddings, own),
                true_candidate_ids=None if candidate_ids is None else tf.gather(candidate_ids, own),
                sample_weight=sample_weight,
            )
        for metric in self._batch_metrics if compute_batch_metrics else ():
            labels = tf.one_hot(own, tf.shape(logits)[1])
            metric.update_state(labels, logits, sample_weight=sample_weight)
        return loss

    def _own_candidates(
        self, own: tf.Tensor, num_candidates: tf.Tensor, candidate_ids: tf.Tensor | None
    ) -> tf.Tensor:
        """Returns [B, C] bool: the own candidates of the queries, by id or by column."""
        if not self._remove_accidental_hits:
            return own[:, None] == tf.range(num_candidates)
        if candidate_ids is None:
            raise ValueError(
                "candidate_ids is None; expected the ids [C] of the candidates. Give them, or "
                "build the task with remove_accidental_hits=False."
            )
        return tf.gather(candidate_ids, own)[:, None] == candidate_ids


def log_of_rest(
    logits: tf.Tensor, excluded: tf.Tensor, log_expected_draws: tf.Tensor | None = None
) -> tf.Tensor:
    """Returns log Σ_j exp s_j [B] over the columns that are not excluded."""
    if log_expected_draws is not None:
        logits -= log_expected_draws
    return tf.reduce_logsumexp(tf.where(excluded, EXCLUDED, logits), axis=1)
