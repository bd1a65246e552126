"""The OpenAPI document of the service, with examples that the served release can answer.

FastAPI writes the document from the routes. Each time the document is requested, this module adds
the release, example requests with its fields and values, and whether a token is required.
"""

import copy
import math
from collections.abc import Collection, Sequence
from typing import Any

import fastapi
import numpy as np
from pydantic import json_schema

from serving import index, manifest, orchestrator, requests
from serving.service.rest import request_deadline, schemas

_WHY = {
    400: "The request is refused, or the body is not valid JSON.",
    401: "The token is missing or wrong.",
    408: "The body was sent too slowly.",
    413: "The body is too large, or the requests need too many ads.",
    415: "The content type is not JSON, or the body is compressed.",
    422: "A value has a wrong type, or a key is unknown.",
    429: "The request cannot be answered in time; `retry-after` says when to try again.",
    500: "The service failed; its log has the reason.",
    503: "The service cannot answer at the moment.",
}
# Descriptions of scores by the kind of the head.
_SCORES = {
    "probability": "Probability of {label}, in [0, 1].",
    "probability_after_click": "Probability of a click with {label} after it, in [0, 1].",
    "amount": "Expected {label}, in the unit of the log.",
}
_REF = "#/components/schemas/{model}"
# Number of ads whose values examples use.
_MAX_ADS = 100
_REQUEST_ID = "x-request-id"
REQUEST_HEADERS: dict[str, Any] = {
    "parameters": [
        {
            "name": request_deadline.HEADER,
            "in": "header",
            "required": False,
            "description": "Milliseconds that the caller has left, if that is less than the "
            "request's own deadline. A deadline longer than the default must be set here, too, "
            "because a request that would be late is refused before its body is read.",
            "schema": {
                "type": "number",
                "exclusiveMinimum": 0,
                "maximum": requests.MAX_DEADLINE_MS,
            },
        },
        {
            "name": _REQUEST_ID,
            "in": "header",
            "required": False,
            "description": "Id of the request if its body has none, or of a batch; returned in the "
            "reply.",
            "schema": {"type": "string", "maxLength": requests.MAX_REQUEST_ID_LENGTH},
        },
    ]
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Returns the error responses of a route, for FastAPI's `responses`."""
    schema = {"$ref": _REF.format(model="ErrorBody")}
    described: dict[int | str, dict[str, Any]] = {
        status: {
            "description": _WHY[status],
            "content": {"application/json": {"schema": schema}},
        }
        for status in statuses
    }
    if 429 in described:
        described[429]["headers"] = {
            "retry-after": {"description": "Seconds to wait.", "schema": {"type": "integer"}}
        }
    return described


def openapi_document(
    app: fastapi.FastAPI, service: orchestrator.Orchestrator, open_paths: Collection[str] | None
) -> dict[str, Any]:
    """Returns the document.

    Args:
        app: The application.
        service: Orchestrator whose release provides the examples.
        open_paths: Routes that do not require a token; None: no route requires one.
    """
    document = copy.deepcopy(app.openapi())
    document["info"]["version"] = str(service.release.version)
    described = document["components"]["schemas"]
    _drop_validation_errors(document)
    _, errors = json_schema.models_json_schema(
        [(schemas.ErrorBody, "serialization")], ref_template=_REF
    )
    described.update(errors["$defs"])
    # FastAPI omits nulls from examples, and an answer without them is not valid.
    described["Answer"]["examples"] = requests.Answer.model_json_schema()["examples"]
    scores = {head.output: _score_schema(head) for head in service.release.manifest.heads}
    described["RankedAd"]["properties"].update(scores)
    described["RankedAd"]["required"] += scores
    example = example_request(service)
    described["Request"]["examples"] = [example]
    short = {name: example[name] for name in ("user", "context")}
    described["BatchRequest"]["examples"] = [{"requests": [{**short, "k": 3}]}]
    if "EventBatch" in described:
        described["EventBatch"]["examples"] = [{"events": [_example_event(service)]}]
        described["UserProfile"]["examples"] = [{"profile": _profile(service, example["user"])}]
    if open_paths is not None:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, methods in document["paths"].items():
            for operation in methods.values():
                operation["security"] = [] if path in open_paths else [{"token": []}]
    return document


def _drop_validation_errors(document: dict[str, Any]) -> None:
    """Removes the errors that FastAPI adds to each route with a path parameter."""
    described = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        described.pop(name, None)
    added = {"application/json": {"schema": {"$ref": _REF.format(model="HTTPValidationError")}}}
    for methods in document["paths"].values():
        for operation in methods.values():
            if operation["responses"].get("422", {}).get("content") == added:
                del operation["responses"]["422"]


def _score_schema(head: manifest.ReleaseHead) -> dict[str, Any]:
    """Returns the schema of a head's score in an answer."""
    return {
        "anyOf": [{"type": "number"}, {"type": "null"}],
        "title": head.output,
        "description": f"{_SCORES[head.kind].format(label=head.label)} Null if the release was not "
        "trained for it, and in retrieval order.",
    }


def example_request(service: orchestrator.Orchestrator) -> dict[str, Any]:
    """Returns the JSON object of a request with all parts, using values of the release."""
    release = service.release.manifest
    samples = release.probes["requests"]
    known = {name: value for name, value in samples[0].items() if value is not None}
    situation = dict(list(known.items())[:1])
    ads = service.release.ad_index.listed(np.arange(min(_MAX_ADS, release.index["num_ads"])))
    values = _values(ads, release.ad_kinds)
    conditions: list[dict[str, Any]] = []
    named: list[str] = []
    for name, value in values.items():
        if release.ad_kinds[name] == "numeric":
            conditions.append({"field": name, "at_most": value})
        else:
            named.append(name)
            conditions.append({"field": name, "none_of": [value]})
    field = named[:1]
    return {
        "user": {name: value for name, value in known.items() if name not in situation},
        "context": situation,
        "k": service.config.default_k,
        "weights": release.utility_weights,
        "deadline_ms": service.config.default_deadline_ms,
        "request_id": "42",
        "filters": {"conditions": conditions, "excluded_ads": [ads[-1].ad_id]},
        "rules": {
            "caps": [{"field": name, "max": 2} for name in field],
            "frequency_caps": [{"max": 3}, *({"field": name, "max": 9} for name in field)],
            "diversity": [{"field": name, "penalty": 0.2} for name in field],
            "exploration": {"share": 0.05, "among": 100},
        },
        "seen": {
            "ads": {ads[0].ad_id: 3},
            "fields": {name: {values[name]: 4} for name in field},
        },
        "explain": True,
    }


def _example_event(service: orchestrator.Orchestrator) -> dict[str, Any]:
    """Returns the JSON object of a click on an ad of the release."""
    (ad,) = service.release.ad_index.listed(np.arange(1))
    return {
        "event_id": "example-event",
        "user_id": "example-user",
        "ad_id": ad.ad_id,
        "event": "click",
    }


def _profile(service: orchestrator.Orchestrator, user: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of an example's user that belong to a profile."""
    # Lists may be histories, which are not part of a profile; the id of the user is in the path.
    user_field = service.release.manifest.user_field
    return {n: v for n, v in user.items() if n != user_field and not isinstance(v, list)}


def _values(ads: Sequence[index.ListedAd], kinds: dict[str, str]) -> dict[str, Any]:
    """Returns a value of the first field of each kind, except the ad's key.

    For a numeric field it is the greatest value, so that ads meet an upper bound.
    """
    found: dict[str, Any] = {}
    seen: set[str] = set()
    for name, kind in kinds.items():
        values = [
            value
            for ad in ads
            for value in _flat(ad.fields.get(name))
            if value != ad.ad_id and value != ""
        ]
        if kind in seen or not values:
            continue
        seen.add(kind)
        found[name] = max(values) if kind == "numeric" else values[0]
    return found


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [item for item in value if item is not None]
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return []
    return [value]
