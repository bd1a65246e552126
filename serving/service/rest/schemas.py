"""The REST bodies around `requests.Request` and `requests.Answer`, as pydantic models."""

import pydantic

from serving.config import MAX_BATCH_SIZE
from serving.requests import Answer, Request


class BatchRequest(pydantic.BaseModel):
    """Many requests."""

    model_config = pydantic.ConfigDict(extra="forbid")

    requests: list[Request] = pydantic.Field(max_length=MAX_BATCH_SIZE)


class BatchAnswer(pydantic.BaseModel):
    """The answers of a batch, in the order of its requests."""

    responses: list[Answer]


class ReadyBody(pydantic.BaseModel):
    """A service that is ready."""

    model_config = pydantic.ConfigDict(use_attribute_docstrings=True)

    status: str
    """ready."""
    degraded: str | None
    """Current problems: why answers are in retrieval order, lack live updates or users,
    or are not logged. Null: none."""
    refused: str | None = None
    """Why a newer release is not served. Absent if no release was refused."""


class ErrorDetail(pydantic.BaseModel):
    """Details of an error."""

    code: str
    message: str


class ErrorBody(pydantic.BaseModel):
    """Any error."""

    model_config = pydantic.ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "code": "invalid_request",
                        "message": "k: expected at least 1, got 0 (int).",
                    }
                }
            ]
        }
    )

    error: ErrorDetail
