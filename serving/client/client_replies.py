"""Reads what the REST service sends to its clients, and turns what went wrong into errors."""

from collections.abc import Mapping
from typing import Any

import httpx

from serving import errors, requests


def answer(document: Mapping[str, Any]) -> requests.Answer:
    """Reads an answer.

    Raises:
        ClientReplyError: It is none.
    """
    try:
        return requests.Answer.from_json(document)
    except ValueError as error:
        raise errors.ClientReplyError(str(error)) from error


def batch_answers(
    body: Mapping[str, Any] | None, document: Mapping[str, Any]
) -> list[requests.Answer]:
    """Reads the answers of a batch, given the body that asked for them.

    Raises:
        ClientReplyError: There are not as many as requests.
    """
    answers = document.get("responses")
    expected = len((body or {})["requests"])
    if not isinstance(answers, list) or len(answers) != expected:
        raise errors.ClientReplyError(f"Expected {expected} responses, got {str(document)[:200]}.")
    return [answer(item) for item in answers]


def document(
    place: str, outcome: httpx.Response | Exception | None, timeout_seconds: float
) -> dict[str, Any]:
    """Returns the JSON object of an outcome: a response, or what httpx raised.

    Args:
        place: Names the call in an error.
        outcome: What came of it.
        timeout_seconds: That it was given.

    Raises:
        TfrecClientError: As `serving.client.Client.recommend` describes.
    """
    if isinstance(outcome, httpx.TimeoutException):
        raise errors.ClientTimeoutError(
            f"{place}: no answer within {timeout_seconds} s. "
            "Give the client a longer timeout_seconds, or the request a deadline_ms."
        ) from outcome
    if isinstance(outcome, httpx.RequestError):
        raise errors.ClientConnectionError(
            f"{place}: {str(outcome).rstrip('.')}. Is the service running at this address?"
        ) from outcome
    if not isinstance(outcome, httpx.Response):
        raise errors.TfrecClientError(
            f"{place}: the request cannot be sent as JSON: {outcome}."
        ) from outcome
    try:
        found = outcome.json()
    except ValueError as error:
        raise errors.ClientReplyError(_no_service(place, outcome)) from error
    if not isinstance(found, dict):
        raise errors.ClientReplyError(_no_service(place, outcome))
    if not outcome.is_success:
        raise _status_error(place, outcome, found)
    return found


def _status_error(
    place: str, reply: httpx.Response, document: Mapping[str, Any]
) -> errors.TfrecClientError:
    match document:
        case {"error": {"code": str(code), "message": str(message)}}:
            kind: type[errors.ClientStatusError] = errors.ClientRequestError
            if reply.status_code == 429:
                kind = errors.ClientOverloadedError
            elif reply.status_code >= 500:
                kind = errors.ClientServiceError
            return kind(reply.status_code, code, message)
    return errors.ClientReplyError(_no_service(place, reply))


def _no_service(place: str, reply: httpx.Response) -> str:
    return (
        f"{place}: expected a JSON object of a tfrec service, got HTTP {reply.status_code} "
        f"{reply.text[:200]!r}. Is this its address?"
    )
