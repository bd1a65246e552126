"""From training to a release: the pipeline, the export gate and the exporter."""

from serving.export.held_out_requests import LoggedRequest, logged_requests
from serving.export.index_inputs import (
    ad_embeddings,
    embeddings_from_files,
    trained_tower,
)
from serving.export.pipeline import Pipeline
from serving.export.release_export import export_release, query_embeddings, training_id_of
from serving.export.release_gate import check_copied_release

__all__ = [
    "LoggedRequest",
    "Pipeline",
    "ad_embeddings",
    "check_copied_release",
    "embeddings_from_files",
    "export_release",
    "logged_requests",
    "query_embeddings",
    "trained_tower",
    "training_id_of",
]
