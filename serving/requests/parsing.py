"""Builds the models of a request, and turns pydantic's errors into ours."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import pydantic

from serving import errors

_Model = TypeVar("_Model", bound=pydantic.BaseModel)


def parse(model: type[_Model], value: Any, place: str = "") -> _Model:
    """Builds a model from its JSON object; an instance is returned as it is.

    Args:
        model: Class to build.
        value: JSON object, or an instance of the class.
        place: Path of the value in the request, for messages.

    Raises:
        InvalidRequestError: The value is refused.
    """
    try:
        return model.model_validate(value)
    except pydantic.ValidationError as error:
        raise refusal(error.errors(include_url=False), place) from error


def refusal(details: Sequence[Mapping[str, Any]], place: str = "") -> errors.InvalidRequestError:
    """Returns the error for the first of pydantic's errors: path, expected and actual value.

    Args:
        details: pydantic's `errors()`.
        place: Path of the model in the request.
    """
    # A misspelled key is also reported as a missing one.
    first = next((one for one in details if one["type"] == "extra_forbidden"), details[0])
    path = place
    for part in first["loc"]:
        if part != "[key]":
            path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    if first["type"] == "extra_forbidden":
        return errors.InvalidRequestError(f"{path}: unknown key.")
    got = "" if first["type"] == "missing" else f", got {shortened(first['input'])}"
    return errors.InvalidRequestError(f"{path or 'request'}: {first['msg']}{got}.")


def shortened(value: Any) -> str:
    """Returns a value and its type for an error message, cut to a readable length."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"an int of {value.bit_length()} bits"  # repr refuses very long ints
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:60] + '…'} ({type(value).__name__})"
