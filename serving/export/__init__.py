"""From training to a release: the pipeline, the export gate and the exporter."""

from serving.export.gate import check_copied_release
from serving.export.held_out_requests import LoggedRequest, logged_requests
from serving.export.pipeline import Pipeline
from serving.export.release_export import export_release, query_embeddings, training_id_of

__all__ = [
    "LoggedRequest",
    "Pipeline",
    "check_copied_release",
    "export_release",
    "logged_requests",
    "query_embeddings",
    "training_id_of",
]
