"""Stage one: the base class of retrieval models, the two-tower model, task and training."""

from tfrec.retrieval.refit import REFIT_SPLITS, most_clicked, with_validation_clicks
from tfrec.retrieval.retrieval_model import RETRIEVAL_MODELS, Embedded, RetrievalModel
from tfrec.retrieval.retrieval_training import (
    Clicks,
    build_two_tower,
    check_trainable,
    evenly_spaced,
    load_two_tower,
    read_clicks,
    read_pairs,
    train_two_tower,
)
from tfrec.retrieval.retrieval_validation import RECALL_AT, HeldOut
from tfrec.retrieval.task import SampledSoftmax
from tfrec.retrieval.towers import Tower
from tfrec.retrieval.two_tower import TwoTower, embed_in_batches, exact_top_k, query_chunks

__all__ = [
    "RECALL_AT",
    "REFIT_SPLITS",
    "RETRIEVAL_MODELS",
    "Clicks",
    "Embedded",
    "HeldOut",
    "RetrievalModel",
    "SampledSoftmax",
    "Tower",
    "TwoTower",
    "build_two_tower",
    "check_trainable",
    "embed_in_batches",
    "evenly_spaced",
    "exact_top_k",
    "load_two_tower",
    "most_clicked",
    "query_chunks",
    "read_clicks",
    "read_pairs",
    "train_two_tower",
    "with_validation_clicks",
]
