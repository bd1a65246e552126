"""The training loop of both stages: optimizers, checkpoints, TensorBoard summaries."""

from tfrec.training.loop import (
    Plan,
    Trainer,
    batch_size,
    best_epoch,
    check_clicks,
    num_examples,
    patience,
    read_description,
    restore_best,
    write_description,
)
from tfrec.training.optimization import Losses, TrainingStep
from tfrec.training.projector import choose_rows, metadata_of, write_projector
from tfrec.training.summaries import norms_of_sides
from tfrec.training.validation_summaries import write_curves

__all__ = [
    "Losses",
    "Plan",
    "Trainer",
    "TrainingStep",
    "batch_size",
    "best_epoch",
    "check_clicks",
    "choose_rows",
    "metadata_of",
    "norms_of_sides",
    "num_examples",
    "patience",
    "read_description",
    "restore_best",
    "write_curves",
    "write_description",
    "write_projector",
]
