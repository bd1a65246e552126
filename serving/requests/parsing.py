"""Builds the models of `request`, and turns pydantic errors into ours."""

import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import pydantic

from serving import errors
from tfrecords import terminal

_Model = TypeVar("_Model", bound=pydantic.BaseModel)
# Maximum number of errors that a message lists.
_MAX_FAULTS = 20

# Expected values of pydantic's errors; the values in braces come from the error's context.
_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "an object",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "more than {gt:.12g}",
    "greater_than_equal": "at least {ge:.12g}",
    "int_from_float": "an integer",
    "int_type": "an integer",
    "less_than_equal": "at most {le:.12g}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "at least {min_length} characters",
    "string_type": "a string",
    "string_unicode": "text without unpaired surrogates",
    "too_long": "at most {max_length} values",
    "tuple_type": "a list",
}


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
        raise refusal(model, error.errors(include_url=False), place) from error


def refusal(
    model: type[pydantic.BaseModel], details: Sequence[Mapping[str, Any]], place: str = ""
) -> errors.InvalidRequestError:
    """Returns the error for pydantic's errors: path, expected value and actual value.

    Its message has one line per error.

    Args:
        model: Class that could not be built.
        details: pydantic's `errors()`.
        place: Path of the model in the request.
    """
    unknown = {detail["loc"][:-1] for detail in details if detail["type"] == "extra_forbidden"}
    # A misspelled key is also reported as a missing one.
    faults = [
        detail
        for detail in sorted(details, key=lambda detail: detail["type"] != "extra_forbidden")
        if detail["type"] != "missing" or detail["loc"][:-1] not in unknown
    ]
    return joined([_refusal_of_one(model, detail, place) for detail in faults[: _MAX_FAULTS + 1]])


def check_all(checks: Iterable[Callable[[], Any]]) -> list[Any]:
    """Runs checks and returns their results.

    Raises:
        InvalidRequestError: Some checks failed; the message has one line per error. It names the
            first ones, and the rest is not checked: a body may have 100,000 errors.
    """
    results, faults = [], []
    for check in checks:
        try:
            results.append(check())
        except errors.InvalidRequestError as error:
            faults.append(error)
            if len(faults) > _MAX_FAULTS:
                break
    if faults:
        raise joined(faults) from faults[0]
    return results


def joined(faults: Sequence[errors.InvalidRequestError]) -> errors.InvalidRequestError:
    """Combines errors into one, of the type of the first. Its message names the first errors."""
    if len(faults) == 1:
        return faults[0]
    lines = [line for fault in faults for line in str(fault).split("\n")]
    if len(lines) > _MAX_FAULTS:
        lines[_MAX_FAULTS:] = ["There are more errors."]
    return type(faults[0])("\n".join(lines))


def _refusal_of_one(
    model: type[pydantic.BaseModel], detail: Mapping[str, Any], place: str
) -> errors.InvalidRequestError:
    kind, location, value = detail["type"], detail["loc"], detail["input"]
    path = _path(place, location)
    start = f"{path or 'request'}: "
    if kind == "extra_forbidden":
        keys = _keys_at(model, location[:-1])
        name = location[-1]
        return errors.RequestTypeError(
            f"{_path(place, location[:-1]) or 'request'}: unknown key {shortened(name)}"
            f".{terminal.suggestion_for(str(name), keys)} Keys: {', '.join(keys)}."
        )
    if kind == "missing" and path:
        return errors.RequestTypeError(f"{start}expected a value, got none. Add it.")
    if kind in ("missing", "model_type", "model_attributes_type"):
        keys = _keys_at(model, location)
        got = "an empty body" if kind == "missing" else shortened(value)
        return errors.RequestTypeError(
            f"{start}expected an object with the keys {', '.join(keys)}, got {got}."
        )
    # Other errors are from our own validators, whose messages include the expected value.
    expected = _EXPECTED[kind].format_map(detail.get("ctx", {})) if kind in _EXPECTED else None
    got = str(len(value)) if kind == "too_long" else shortened(value)
    is_type = kind.endswith("_type") or kind in ("int_from_float", "string_unicode")
    error = errors.RequestTypeError if is_type else errors.InvalidRequestError
    return error(f"{start}expected {expected or detail['msg']}, got {got}.")


def shortened(value: Any) -> str:
    """Returns a value and its type for an error message, cut to a readable length."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"an int of {value.bit_length()} bits"  # repr refuses very long ints
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:60] + '…'} ({type(value).__name__})"


def _path(place: str, location: tuple[str | int, ...]) -> str:
    path = place
    for part in location:
        if part != "[key]":
            path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _keys_at(model: type[pydantic.BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """Returns the keys of the model at a location inside another."""
    for name in location:
        # Other names are keys of a dictionary, and numbers are positions in a list.
        if name in model.model_fields:
            model = _model_in(model.model_fields[name].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[pydantic.BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return annotation
    found = (_model_in(argument) for argument in typing.get_args(annotation))
    return next(filter(None, found), None)
