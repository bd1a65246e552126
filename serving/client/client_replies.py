"""Reads replies of the REST service and turns failures into errors."""

from collections.abc import Mapping
from typing import Any

import httpx
import pydantic

from serving import errors, requests


def answer(document: Mapping[str, Any]) -> requests.Answer:
    """Reads an answer.

    Raises:
        ClientReplyError: The document is not an answer.
    """
    try:
        return requests.Answer.model_validate(document)
    except pydantic.ValidationError as error:
        raise errors.ClientReplyError(f"Expected the JSON object of an answer: {error}") from error


def batch_answers(
    body: Mapping[str, Any] | None, document: Mapping[str, Any]
) -> list[requests.Answer]:
    """Reads the answers of a batch, given the body of its request.

    Raises:
        ClientReplyError: The number of answers is not that of the requests.
    """
    answers = document.get("responses")
    expected = len((body or {})["requests"])
    if not isinstance(answers, list) or len(answers) != expected:
        raise errors.ClientReplyError(f"Expected {expected} responses, got {str(document)[:200]}.")
    return [answer(item) for item in answers]


def document(
    place: str, outcome: httpx.Response | Exception | None, timeout_seconds: float
) -> dict[str, Any]:
    """Returns the JSON object of a response.

    Args:
        place: Method and URL of the call, for error messages.
        outcome: Response, or what httpx raised.
        timeout_seconds: Time-out of the call.

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
        raise errors.ClientReplyError(_not_a_service(place, outcome)) from error
    if not isinstance(found, dict):
        raise errors.ClientReplyError(_not_a_service(place, outcome))
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
    return errors.ClientReplyError(_not_a_service(place, reply))


def _not_a_service(place: str, reply: httpx.Response) -> str:
    return (
        f"{place}: expected a JSON object of a tfrec service, got HTTP {reply.status_code} "
        f"{reply.text[:200]!r}. Is this its address?"
    )
