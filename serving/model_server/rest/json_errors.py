"""Names what is wrong with a JSON text in the words of RapidJSON, which TensorFlow Serving uses.

References: RapidJSON 1.1.0, `error/en.h` (the words) and `reader.h` (which of them, and where).
"""

import json
import re

_MESSAGES = {
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
    "Invalid \\escape": "Invalid escape character in string.",
}
_INVALID_VALUE = "Invalid value."
_INVALID_ESCAPE = "Invalid escape character in string."
_UNTERMINATED = "Missing a closing quotation mark in string."
_TOO_BIG = "Number too big to be stored in double."
_LONE_SURROGATE = "The surrogate pair in string is invalid."
_SIGNED_LITERALS = ("NaN", "Infinity")
_LITERALS = ("null", "true", "false", *_SIGNED_LITERALS)
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"?'
_BRACKETS = re.compile(_STRING + r"|[][{}]", re.DOTALL)
_CLOSING = {"{": "}", "[": "]"}
# A surrogate that begins a pair, with or without the one that ends it; or any other escape.
_ESCAPES = re.compile(
    r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})(\\u[dD][c-fC-F][0-9a-fA-F]{2})?|.)", re.DOTALL
)
_NUMBERS = re.compile(_STRING + r"|-?(\d+)(?:\.(\d+))?(?:[eE]\+?(\d+))?", re.DOTALL)
# What a number that is too big has; looking for it is quick, unlike reading the numbers.
_LARGE_EXPONENTS = (re.compile(rb"e\+?\d{3}"), re.compile(rb"E\+?\d{3}"))
_MANY_DIGITS = b"0" * 200
_ALL_DIGITS_0 = bytes(48 if 48 <= byte < 58 else 32 for byte in range(256))
_LARGEST_EXPONENT = 308
_LARGEST_TENTH = 1.7976931348623157e307
_SIGNIFICANT_DIGITS = 17


class ParseError(ValueError):
    """A text that is no JSON.

    Attributes:
        message: what is wrong.
        position: the character where it is.
    """

    def __init__(self, message: str, position: int) -> None:
        super().__init__(f"{message} at position {position}")
        self.message = message
        self.position = position


def check_strings_and_numbers(body: bytes, text: str, start: int, end: int) -> None:
    """Checks a part of a text that Python takes for what RapidJSON refuses.

    Args:
        body: the whole text in UTF-8.
        text: the whole text.
        start: where the part begins.
        end: where it ends.

    Raises:
        ParseError: at the first number beyond double precision or surrogate without its pair.
    """
    errors = []
    if "\\ud" in text or "\\uD" in text:
        errors += _lone_surrogates(text, start, end)
    if _MANY_DIGITS in body.translate(_ALL_DIGITS_0) or any(
        pattern.search(body) for pattern in _LARGE_EXPONENTS
    ):
        errors += _too_big(text, start, end)
    if errors:
        raise min(errors, key=lambda error: error.position)


def from_python(error: json.JSONDecodeError, start: int) -> ParseError:
    """Returns an error of Python's decoder as RapidJSON has it, for a text that begins at `start`.

    RapidJSON takes a byte 0 outside a string for the end of the text.
    """
    text, position = error.doc, error.pos
    if error.msg.startswith("Expecting value"):
        return _not_a_value(text, position, position == start)
    if error.msg.startswith("Expecting ',' delimiter"):
        return _after_value(text, position)
    if error.msg.startswith("Unterminated string"):
        backslashes = len(text) - len(text.rstrip("\\"))
        if backslashes % 2:
            return ParseError(_INVALID_ESCAPE, len(text) - 1)
        # Not its start: the end, where the mark is missing.
        return ParseError(_UNTERMINATED, len(text))
    if error.msg.startswith("Invalid control character"):
        return ParseError(_UNTERMINATED if text[position] == "\0" else _INVALID_ESCAPE, position)
    if error.msg.startswith("Invalid \\uXXXX"):
        # Not its `u`: the backslash.
        position = text.rindex("\\", 0, position + 1)
    known = (value for key, value in _MESSAGES.items() if error.msg.startswith(key))
    return ParseError(next(known, "Unspecific syntax error."), position)


def _not_a_value(text: str, position: int, is_first: bool) -> ParseError:
    if is_first and text[position : position + 1] in ("", "\0", "}", "]", ",", ":"):
        return ParseError("The document is empty.", position)
    signed = text.startswith("-", position)
    position += signed
    for literal in _SIGNED_LITERALS if signed else _LITERALS:
        # The error is at the first character that the literal does not have.
        sizes = range(len(literal), 0, -1)
        common = next((size for size in sizes if text.startswith(literal[:size], position)), 0)
        if common:
            return ParseError(_INVALID_VALUE, position + common)
    return ParseError(_INVALID_VALUE, position)


def _after_value(text: str, position: int) -> ParseError:
    begin = position
    while begin and text[begin - 1] in "0123456789+-.eE":
        begin -= 1
    number, character = text[begin:position].lower(), text[position : position + 1]
    if number[-1:].isdigit():
        if character == "." and "." not in number and "e" not in number:
            return ParseError("Miss fraction part in number.", position + 1)
        if character in ("e", "E") and "e" not in number:
            sign = text[position + 1 : position + 2] in ("+", "-")
            return ParseError("Miss exponent in number.", position + (2 if sign else 1))
    if _innermost(text, position) == "{":
        return ParseError("Missing a comma or '}' after an object member.", position)
    return ParseError("Missing a comma or ']' after an array element.", position)


def _innermost(text: str, end: int) -> str:
    """Returns the bracket that is still open at the end of the text."""
    opened: list[str] = []
    for match in _BRACKETS.finditer(text, 0, end):
        token = match[0]
        if token in _CLOSING:
            opened.append(token)
        elif opened and token == _CLOSING[opened[-1]]:
            opened.pop()
    return opened[-1] if opened else ""


def _lone_surrogates(text: str, start: int, end: int) -> list[ParseError]:
    for match in _ESCAPES.finditer(text, start, end):
        if match[1] and not match[2]:
            return [ParseError(_LONE_SURROGATE, match.start())]
    return []


def _too_big(text: str, start: int, end: int) -> list[ParseError]:
    for match in _NUMBERS.finditer(text, start, end):
        whole, fraction, exponent = match.groups(default="")
        if whole and _is_too_big(whole, fraction, exponent):
            return [ParseError(_TOO_BIG, match.start())]
    return []


def _is_too_big(whole: str, fraction: str, exponent: str) -> bool:
    if len(whole) > _LARGEST_EXPONENT and float(whole[:-1]) >= _LARGEST_TENTH:
        return True
    # Digits of the fraction are taken for the number's own until it has as many as a double.
    leading = len(whole) if whole != "0" else len(fraction.lstrip("0")) - len(fraction)
    taken = min(len(fraction), max(_SIGNIFICANT_DIGITS - leading, 0))
    return len(exponent) > 2 and int(exponent[:20]) > _LARGEST_EXPONENT + taken
