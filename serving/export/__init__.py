"""From training to a release: the pipeline, the export gate and the exporter."""

from serving.export.held_out_requests import LoggedRequest, logged_requests
from serving.export.index_inputs import (
    embeddings_from_files,
    embeddings_from_tower,
    trained_tower,
)
from serving.export.pipeline import Pipeline
from serving.export.release_export import export_release, tuning_queries
from serving.export.release_gate import check_copied_release

__all__ = [
    "LoggedRequest",
    "Pipeline",
    "check_copied_release",
    "embeddings_from_files",
    "embeddings_from_tower",
    "export_release",
    "logged_requests",
    "trained_tower",
    "tuning_queries",
]
