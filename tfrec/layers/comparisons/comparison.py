"""Comparisons of a query's fields with an ad's.

A comparison is the same for all values: whether both sides have the same value, such as the
category of a page and of an ad, how far a number of the ad is above a number of the query, such as
a price above a budget, or how often the user has seen or clicked the ad. Each pair of values is
rare in the log, but equal values are not. So comparisons can be learned from small logs, and apply
to pairs that the log does not show.

Shapes: Wq and Wa columns of the query and the ad side, P comparisons.

References:
    Cheng et al., Wide & Deep Learning for Recommender Systems, 2016 (cross-product features).
"""

from collections.abc import Sequence

import tensorflow as tf

from tfrec.layers import histories
from tfrec.layers.comparisons import events, pair_rates, values
from tfrecords import encoding
from tfrecords.schema import Field


class Comparisons:
    """Compares fields of a query with fields of an ad.

    - Categorical fields give log(1 + n), where n is the number of the ad's values that the query
      has. Case and enclosing punctuation do not matter.
    - Numbers give max(d, 0), max(d - 1, 0) and max(-d, 0), where d is the ad's logarithm minus the
      query's, each standardized over its buckets: how high the ad's number is for the query's. The
      number of a history is the mean of its ads. A missing number counts as the mean.
    - A history and a categorical field or list of the ad give log(1 + n) and log(1 + m) for each
      kind of event: n is the number of its events with the ad's value (the mean over the values of
      a list), and m the same with weights that halve each day. Eight more features for each kind
      of event encode the time since the latest of them. So the model learns that users tire of
      ads that they see often, or return to what they clicked, and when. Out-of-vocabulary values
      match nothing.
    - Pairs of values give their clicks in the training rows, and how far their click rate is above
      the rate that both values predict.

    Another missing value gives 0.

    Args:
        fitted: The fitted schema.
        pairs: The fields to compare, from `find_comparisons`.
        ties: From `histories.find_histories`; required to compare histories of ads.
        rates: Click rates of pairs of values.
    """

    def __init__(
        self,
        fitted: encoding.FittedSchema,
        pairs: Sequence[values.FieldPair],
        ties: histories.Ties | None = None,
        rates: Sequence[pair_rates.PairRates] = (),
    ) -> None:
        self._comparisons = [
            _comparison(fitted, query_field, ad_field, ties or {})
            for query_field, ad_field in pairs
        ]
        self._rates = tuple(rates)

    def __call__(
        self, query: tf.Tensor, ad: tf.Tensor, clicks: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Compares encoded rows.

        Args:
            query: [..., Wq] int32; its leading dimensions broadcast against the ad's.
            ad: [..., Wa] int32.
            clicks: [...] labels of training rows; None: other rows.

        Returns:
            [..., P] float32.
        """
        # Without pairs the result has no columns.
        no_columns = tf.cast(ad[..., :0], tf.float32)
        compared = [compare(query, ad) for compare in self._comparisons]
        pair_rates = [rates(query, ad, clicks) for rates in self._rates]
        return tf.concat([no_columns, *compared, *pair_rates], axis=-1)


def _comparison(
    fitted: encoding.FittedSchema, query_field: Field, ad_field: Field, ties: histories.Ties
) -> values.Compare:
    if ad_field.kind == "numeric":
        return values.differences(fitted, query_field, ad_field, ties)
    if query_field.kind == "history":
        return events.numbers_of_events(fitted, query_field, ad_field, ties)
    return values.equal_values(fitted, query_field, ad_field)
