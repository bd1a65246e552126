"""Stage one: the base class of retrieval models, the two-tower model, task and training."""

from tfrec.retrieval.distillation import LIST_LENGTH, UTILITY, Teacher
from tfrec.retrieval.reading import (
    Clicks,
    evenly_spaced,
    read_clicks,
    read_pairs,
    read_queries,
)
from tfrec.retrieval.refit import (
    REFIT_SPLITS,
    most_clicked,
    order_of_ties,
    with_validation_clicks,
)
from tfrec.retrieval.retrieval_model import RETRIEVAL_MODELS, Embedded, RetrievalModel
from tfrec.retrieval.retrieval_training import (
    build_two_tower,
    forget_teacher,
    load_two_tower,
    train_two_tower,
)
from tfrec.retrieval.retrieval_validation import HeldOut
from tfrec.retrieval.task import SampledSoftmax
from tfrec.retrieval.towers import Tower, embed_in_batches
from tfrec.retrieval.two_tower import TwoTower, exact_top_k, query_chunks
from tfrec.retrieval.weighted_query import WeightedQueryTower

__all__ = [
    "LIST_LENGTH",
    "REFIT_SPLITS",
    "RETRIEVAL_MODELS",
    "UTILITY",
    "Clicks",
    "Embedded",
    "HeldOut",
    "RetrievalModel",
    "SampledSoftmax",
    "Teacher",
    "Tower",
    "TwoTower",
    "WeightedQueryTower",
    "build_two_tower",
    "embed_in_batches",
    "evenly_spaced",
    "exact_top_k",
    "forget_teacher",
    "load_two_tower",
    "most_clicked",
    "order_of_ties",
    "query_chunks",
    "read_clicks",
    "read_pairs",
    "read_queries",
    "train_two_tower",
    "with_validation_clicks",
]
