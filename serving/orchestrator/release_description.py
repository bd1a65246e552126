"""The release description that `GET /v1/bundle` returns."""

from typing import Any

from serving.orchestrator import orchestrator


def describe_release(service: orchestrator.Orchestrator) -> dict[str, Any]:
    """Describes a served release for clients.

    Args:
        service: Orchestrator of the release.

    Returns:
        Fields, heads, index and metrics of the release; the state of its live updates, and of the
        impression log and the user store (None if disabled); request limits; and sample requests,
        which are the raw query fields of the release's probes.
    """
    release, config, impressions = service.release.manifest, service.config, service.impressions
    return {
        "version": release.version,
        "created": release.created,
        "training_id": release.training_id,
        "dataset_fingerprint": release.dataset_fingerprint,
        "query_fields": release.query_fields,
        "ad_fields": release.ad_fields,
        "parts": release.parts,
        "heads": {head.label: head.trained for head in release.heads},
        "weak_heads": release.weak_heads,
        "outputs": {head.label: head.output for head in release.heads},
        "weights": release.utility_weights,
        "weights_source": release.weights_source,
        "index": release.index,
        "metrics": release.metrics,
        "live": service.live.status(),
        "impression_log": None if impressions is None else impressions.status(),
        "user_store": None if service.users is None else service.users.status(),
        "limits": {
            "num_candidates": config.num_candidates,
            "default_k": config.default_k,
            "max_k": config.max_k,
            "max_ads_per_call": config.max_ads_per_call,
            "default_deadline_ms": config.default_deadline_ms,
        },
        "sample_requests": release.probes["requests"],
    }
