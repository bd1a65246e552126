"""The REST bodies around `requests.Request` and `requests.Answer`, as pydantic models."""

from typing import Any

import pydantic

from serving.config import MAX_BATCH_SIZE
from serving.requests import Answer, Request


class BatchRequest(pydantic.BaseModel):
    """Many requests."""

    model_config = pydantic.ConfigDict(extra="forbid")

    requests: list[Request] = pydantic.Field(max_length=MAX_BATCH_SIZE)


class ErrorDetail(pydantic.BaseModel):
    """Details of an error."""

    code: str
    message: str


class ErrorBody(pydantic.BaseModel):
    """Any error."""

    error: ErrorDetail


class BatchAnswer(pydantic.BaseModel):
    """The outcome of each request of a batch, in their order: an answer, or why there is none."""

    responses: list[Answer | ErrorBody]


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request is refused."},
    "5XX": {"model": ErrorBody, "description": "The service cannot answer at the moment."},
}
