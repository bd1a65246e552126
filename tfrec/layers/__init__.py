"""Keras layers shared by the two-tower model and the ranker."""

from tfrec.layers.attention import LayerNorm, TargetAttention
from tfrec.layers.biases import PositionBias, UserBias
from tfrec.layers.comparisons import (
    Comparisons,
    FieldPair,
    LabeledRows,
    PairRates,
    find_comparisons,
    find_pair_rates,
    pair_rates_of,
)
from tfrec.layers.crosses import CrossLayer, pairwise_products
from tfrec.layers.custom_code import (
    check_operations,
    check_stateless,
    ids_error,
    ids_to_try,
    needs_autograph,
)
from tfrec.layers.dropout import Dropout, IdDropout, new_generator, oov_rates
from tfrec.layers.factorization import RANK, FactorizationMachine
from tfrec.layers.features import (
    FieldEmbeddings,
    embedding_tables,
    flatten,
    history_tables,
    mean_of_values,
)
from tfrec.layers.head_outputs import (
    Logits,
    add_to_logits,
    after_click_logits,
    amount_scale,
    head_outputs,
    mix_logits,
    positive_logits,
    positive_probability,
    raw_amount_scale,
)
from tfrec.layers.histories import Ties, find_histories
from tfrec.layers.history_tokens import HistoryTokens
from tfrec.layers.key_ids import KeyIds
from tfrec.layers.numbers import NumericSlopes
from tfrec.layers.replicas import (
    WHOLE,
    Columns,
    gather_columns,
    mean_of_rows,
    order_columns,
    own_rows,
    part_of_whole,
    share_of,
    whole_batch,
)
from tfrec.layers.sampling import ClickedAds, ClickShares, clicked_in_request, expected_draws
from tfrec.layers.user_clicks import UserClicks

__all__ = [
    "RANK",
    "WHOLE",
    "ClickShares",
    "ClickedAds",
    "Columns",
    "Comparisons",
    "CrossLayer",
    "Dropout",
    "FactorizationMachine",
    "FieldEmbeddings",
    "FieldPair",
    "HistoryTokens",
    "IdDropout",
    "KeyIds",
    "LabeledRows",
    "LayerNorm",
    "Logits",
    "NumericSlopes",
    "PairRates",
    "PositionBias",
    "TargetAttention",
    "Ties",
    "UserBias",
    "UserClicks",
    "add_to_logits",
    "after_click_logits",
    "amount_scale",
    "check_operations",
    "check_stateless",
    "clicked_in_request",
    "embedding_tables",
    "expected_draws",
    "find_comparisons",
    "find_histories",
    "find_pair_rates",
    "flatten",
    "gather_columns",
    "head_outputs",
    "history_tables",
    "ids_error",
    "ids_to_try",
    "mean_of_rows",
    "mean_of_values",
    "mix_logits",
    "needs_autograph",
    "new_generator",
    "oov_rates",
    "order_columns",
    "own_rows",
    "pair_rates_of",
    "pairwise_products",
    "part_of_whole",
    "positive_logits",
    "positive_probability",
    "raw_amount_scale",
    "share_of",
    "whole_batch",
]
