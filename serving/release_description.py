"""What `GET /v1/bundle` says of a release that is served."""

from typing import Any

from serving import orchestrator


def of(service: orchestrator.Orchestrator) -> dict[str, Any]:
    """Returns the release's fields, heads, index and metrics, and its updates."""
    release = service.release.manifest
    return {
        "version": release.version,
        "created": release.created,
        "training_id": release.training_id,
        "dataset_fingerprint": release.dataset_fingerprint,
        "query_fields": release.query_fields,
        "ad_fields": release.ad_fields,
        "heads": release.heads,
        "index": release.index,
        "metrics": release.metrics,
        "live": service.live.status(),
    }
