"""Keras layers shared by the two-tower model and the ranker."""

from tfrec.layers.attention import IsolatedAttentionBlock, LayerNorm
from tfrec.layers.features import CrossLayer, FieldEmbeddings, flatten, mean_of_values
from tfrec.layers.field_products import folded_products, pairwise_products
from tfrec.layers.histories import Ties, find_histories
from tfrec.layers.history_tokens import HistoryTokens
from tfrec.layers.id_dropout import IdDropout, oov_rates
from tfrec.layers.mixture import MultiGateMixture
from tfrec.layers.position_bias import PositionBias
from tfrec.layers.sampling import (
    ClickedAds,
    ClickShare,
    CountedShare,
    StreamedShare,
    expected_draws,
)
from tfrec.layers.second_pass import SecondPass
from tfrec.layers.user_bias import UserBias
from tfrec.layers.user_clicks import UserClicks
from tfrec.layers.user_ids import UserIds

__all__ = [
    "ClickShare",
    "ClickedAds",
    "CountedShare",
    "CrossLayer",
    "FieldEmbeddings",
    "HistoryTokens",
    "IdDropout",
    "IsolatedAttentionBlock",
    "LayerNorm",
    "MultiGateMixture",
    "PositionBias",
    "SecondPass",
    "StreamedShare",
    "Ties",
    "UserBias",
    "UserClicks",
    "UserIds",
    "expected_draws",
    "find_histories",
    "flatten",
    "folded_products",
    "mean_of_values",
    "oov_rates",
    "pairwise_products",
]
