"""What `GET /v1/bundle` says of a release that is served."""

from typing import Any

from serving.orchestrator import orchestrator


def describe_release(service: orchestrator.Orchestrator) -> dict[str, Any]:
    """Returns the release's fields, heads, index and metrics, its updates, the state of the
    impression log (None where there is none), the limits of requests, and sample requests: the raw
    query fields of its probes.
    """
    release, config, impressions = service.release.manifest, service.config, service.impressions
    return {
        "version": release.version,
        "created": release.created,
        "training_id": release.training_id,
        "dataset_fingerprint": release.dataset_fingerprint,
        "query_fields": release.query_fields,
        "ad_fields": release.ad_fields,
        "heads": {head.label: head.trained for head in release.heads},
        "index": release.index,
        "metrics": release.metrics,
        "live": service.live.status(),
        "impression_log": None if impressions is None else impressions.status(),
        "limits": {
            "num_candidates": config.num_candidates,
            "default_k": config.default_k,
            "max_k": config.max_k,
            "default_deadline_ms": config.default_deadline_ms,
        },
        "sample_requests": release.probes["requests"],
    }
