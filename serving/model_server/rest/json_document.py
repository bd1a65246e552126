"""Decodes a JSON text as RapidJSON does with the flags that TensorFlow Serving gives it.

References: TensorFlow Serving, `util/json_tensor.cc`, `ParseJson`; RapidJSON 1.1.0, `reader.h`
    (`kParseNanAndInfFlag`, `kParseStopWhenDoneFlag`) and `document.h` (`FindMember`).
"""

import bisect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from serving.model_server.rest import json_errors

_BYTE_ORDER_MARK = "\ufeff"
_WHITE = " \t\r\n"
_INT64_MIN, _UINT64_MAX = -(2**63), 2**64 - 1
# Numbers that Python spells otherwise, and the strings around them.
_SPELLINGS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|-?Inf(?!i)|-NaN', re.DOTALL)
# A pair, a surrogate that ends none, or any other escape.
_LOW_SURROGATES = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u....|u([dD][c-fC-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


class Repeated(dict[str, Any]):
    """An object that has a name twice: the first value is the one that is found by it.

    Attributes:
        pairs: all names and values, in order.
    """

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__()
        for name, value in pairs:
            self.setdefault(name, value)
        self.pairs = list(pairs)


def decode(body: bytes) -> Any:
    """Returns the first JSON value of the text; what follows it is ignored.

    Strings hold bytes that are not UTF-8 as surrogates, for `surrogateescape`.

    Raises:
        ValueError: if it is no JSON; the message has RapidJSON's words and the byte.
        RecursionError: if it is nested too deeply.
    """
    text = body.decode("utf-8", "surrogateescape")
    start = 1 if text.startswith(_BYTE_ORDER_MARK) else 0
    start = len(text) - len(text[start:].lstrip(_WHITE))
    try:
        return _decode(body, text, start)
    except json_errors.ParseError as error:
        offset = len(text[: error.position].encode("utf-8", "surrogateescape"))
        raise ValueError(f"{error.message} at offset: {offset}") from error


def members(value: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Returns all names and values of an object, a name that comes twice with both of them."""
    return value.pairs if isinstance(value, Repeated) else value.items()


def is_integer(number: int) -> bool:
    """Returns whether RapidJSON reads a number as an integer; beyond 64 bits it is a double."""
    return _INT64_MIN <= number <= _UINT64_MAX


def _decode(body: bytes, text: str, start: int) -> Any:
    try:
        document, end = _raw_decode(text, start)
    except json.JSONDecodeError as error:
        json_errors.check_strings_and_numbers(body, text, start, error.pos)
        raise json_errors.from_python(error, start) from error
    except ValueError:
        # An integer of thousands of digits.
        json_errors.check_strings_and_numbers(body, text, start, len(text))
        raise
    json_errors.check_strings_and_numbers(body, text, start, end)
    if "\\ud" in text or "\\uD" in text:
        escapes = _LOW_SURROGATES.finditer(text)
        if any(match[1] for match in escapes):
            document, _ = _raw_decode(_LOW_SURROGATES.sub(_as_bytes, text), start)
    return document


def _raw_decode(text: str, start: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        match = _SPELLINGS.match(text, error.pos)
        if match is None or match[0].startswith('"'):
            raise
    respelt, ends, growths = _respelt(text)

    def original(position: int) -> int:
        return position - growths[bisect.bisect_right(ends, position)]

    try:
        document, end = _DECODER.raw_decode(respelt, start)
    except json.JSONDecodeError as error:
        raise json.JSONDecodeError(error.msg, text, original(error.pos)) from error
    return document, original(end)


def _respelt(text: str) -> tuple[str, list[int], list[int]]:
    """Returns the text in Python's spelling, where in it words end, and how far it grew by then.

    The growths begin with that before the first word, 0.
    """
    ends: list[int] = []
    growths = [0]

    def respell(match: re.Match[str]) -> str:
        word = match[0]
        if word.startswith('"'):
            return word
        spelt = "NaN" if word == "-NaN" else word + "inity"
        growths.append(growths[-1] + len(spelt) - len(word))
        ends.append(match.end() + growths[-1])
        return spelt

    return _SPELLINGS.sub(respell, text), ends, growths


def _as_bytes(match: re.Match[str]) -> str:
    """Returns a surrogate that ends no pair as RapidJSON does: by three bytes, as is."""
    if not match[1]:
        return match[0]
    encoded = chr(int(match[1], 16)).encode("utf-8", "surrogatepass")
    return encoded.decode("utf-8", "surrogateescape")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    return members if len(members) == len(pairs) else Repeated(pairs)


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
