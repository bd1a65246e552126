"""Shows a JSON value in a message as TensorFlow Serving does: laid out, and cut after 256 bytes.

References: TensorFlow Serving, `util/json_tensor.cc` (`JsonWriterWithLimit`); RapidJSON 1.1.0,
    `prettywriter.h` (the layout) and `internal/dtoa.h` (the numbers).
"""

import decimal
import math
from collections.abc import Iterator
from typing import Any

from serving.model_server.rest import json_document, json_text

_MAX_BYTES = 256
# TensorFlow Serving shows the last string whole, however long; a message has no need of more.
_MAX_STRING = 65_536
# Numbers from 1e-6 up to below 1e21 are written without an exponent.
_DIGITS_BEFORE_POINT = 21
_ZEROS_AFTER_POINT = 5


def text(value: Any) -> str:
    """Returns a decoded JSON value as text: what is begun within the limit, and no more.

    A number that is no finite one ends the text.
    """
    written: list[str] = []
    size = 0
    for token in _tokens(value, 0, ""):
        if token is None or size >= _MAX_BYTES:
            break
        written.append(token)
        size += len(token.encode("utf-8", "surrogateescape"))
    return "".join(written)


def _tokens(value: Any, depth: int, prefix: str) -> Iterator[str | None]:
    """Yields what is written at once, behind what comes before it; None at the end of all."""
    if isinstance(value, list):
        yield prefix + "["
        for index, item in enumerate(value):
            yield from _tokens(item, depth + 1, ", " if index else "")
        yield "]"
    elif isinstance(value, dict):
        yield prefix + "{"
        for index, (name, item) in enumerate(json_document.members(value)):
            line = f"\n{json_text.INDENT * (depth + 1)}"
            yield ("," if index else "") + line + json_text.string(name[:_MAX_STRING])
            yield from _tokens(item, depth + 1, ": ")
        yield f"\n{json_text.INDENT * depth}}}" if value else "}"
    else:
        yield from _scalar(value, prefix)


def _scalar(value: Any, prefix: str) -> Iterator[str | None]:
    if isinstance(value, str):
        yield prefix + json_text.string(value[:_MAX_STRING])
    elif value is None or isinstance(value, bool):
        yield prefix + {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, int) and json_document.is_integer(value):
        yield f"{prefix}{value}"
    elif math.isfinite(number := float(value)):
        yield prefix + _double(number)
    else:
        yield prefix
        yield None


def _double(number: float) -> str:
    """Returns the shortest digits that give the number back, as RapidJSON sets them out."""
    sign, numerals, power = decimal.Decimal(repr(number)).normalize().as_tuple()
    minus, digits, power = "-" if sign else "", "".join(map(str, numerals)), int(power)
    point = len(digits) + power
    if not number:
        unsigned = "0.0"
    elif power >= 0 and point <= _DIGITS_BEFORE_POINT:
        unsigned = digits + "0" * power + ".0"
    elif 0 < point <= _DIGITS_BEFORE_POINT:
        unsigned = f"{digits[:point]}.{digits[point:]}"
    elif -_ZEROS_AFTER_POINT <= point <= 0:
        unsigned = f"0.{'0' * -point}{digits}"
    else:
        fraction = f".{digits[1:]}" if len(digits) > 1 else ""
        unsigned = f"{digits[0]}{fraction}e{point - 1}"
    return minus + unsigned
