"""Training of both stages by `compile` and `fit`: callbacks, optimizers, TensorBoard summaries."""

from tfrec.training.callbacks import check_callbacks
from tfrec.training.fitting import (
    Plan,
    batch_size,
    best_epoch,
    check_clicks,
    check_source,
    fit,
    patience,
    read_description,
    restore_best,
    stream_epochs,
    write_description,
)
from tfrec.training.optimizers import dense_and_sparse
from tfrec.training.projector import choose_rows, metadata_of, write_projector
from tfrec.training.shrinkage import ShrinkEmbeddings
from tfrec.training.stage_model import SavedAsWeights, StageModel, construct
from tfrec.training.validation_summaries import write_curves
from tfrec.training.workers import (
    WorkerLostError,
    check_same,
    chief_value,
    gathered,
    is_chief,
    joined,
    shared_out,
)

__all__ = [
    "Plan",
    "SavedAsWeights",
    "ShrinkEmbeddings",
    "StageModel",
    "WorkerLostError",
    "batch_size",
    "best_epoch",
    "check_callbacks",
    "check_clicks",
    "check_same",
    "check_source",
    "chief_value",
    "choose_rows",
    "construct",
    "dense_and_sparse",
    "fit",
    "gathered",
    "is_chief",
    "joined",
    "metadata_of",
    "patience",
    "read_description",
    "restore_best",
    "shared_out",
    "stream_epochs",
    "write_curves",
    "write_description",
    "write_projector",
]
