"""Training of both stages by `compile` and `fit`: callbacks, optimizers, TensorBoard summaries."""

from tfrec.training.fitting import (
    Plan,
    batch_size,
    best_epoch,
    check_clicks,
    fit,
    passes,
    patience,
    read_description,
    restore_best,
    write_description,
)
from tfrec.training.optimizers import dense_and_sparse
from tfrec.training.projector import choose_rows, metadata_of, write_projector
from tfrec.training.stage_model import StageModel
from tfrec.training.summaries import norms_of_sides
from tfrec.training.validation_summaries import write_curves

__all__ = [
    "Plan",
    "StageModel",
    "batch_size",
    "best_epoch",
    "check_clicks",
    "choose_rows",
    "dense_and_sparse",
    "fit",
    "metadata_of",
    "norms_of_sides",
    "passes",
    "patience",
    "read_description",
    "restore_best",
    "write_curves",
    "write_description",
    "write_projector",
]
