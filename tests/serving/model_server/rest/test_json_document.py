"""JSON is taken, refused and described as RapidJSON 1.1.0 does with TensorFlow Serving's flags.

The offsets are bytes, counted by hand by the rules of its `reader.h`.
"""

import math
from typing import Any

import pytest

from serving.model_server.rest import json_document

_BOM = b"\xef\xbb\xbf"
_TOO_BIG = "Number too big to be stored in double."
_NO_MEMBER = "Missing a comma or '}' after an object member."
_NO_ELEMENT = "Missing a comma or ']' after an array element."
_SURROGATE = "The surrogate pair in string is invalid."


@pytest.mark.parametrize(
    ("body", "message", "offset"),
    [
        (b"", "The document is empty.", 0),
        (b" \n}", "The document is empty.", 2),
        (b"\x00", "The document is empty.", 0),
        (b'{"a": 1 "b"', _NO_MEMBER, 8),
        (b'{"a": 1\x00}', _NO_MEMBER, 7),
        (b'{"a": "]", "b": [1 2]}', _NO_ELEMENT, 19),
        (b'{"a": "{\\"", "b": [1', _NO_ELEMENT, 20),
        (b'{"a": 1,}', "Missing a name for object member.", 8),
        # Strings.
        (b'{"a": "b\tc"}', "Invalid escape character in string.", 8),
        (b'{"a": "b\x00c"}', "Missing a closing quotation mark in string.", 8),
        (b'{"a": "b\\', "Invalid escape character in string.", 8),
        (b'{"a": "b\\\\', "Missing a closing quotation mark in string.", 10),
        (b'{"a": "\\ud800"}', _SURROGATE, 7),
        (b'{"\\uDBFF": 1}', _SURROGATE, 2),
        (b'{"a": "\\ud83d\\ude00\\ud800\\u0041"}', _SURROGATE, 19),
        # The first of two errors.
        (b'{"a": "\\ud800", "b" 1}', _SURROGATE, 7),
        (b'{"a" 1, "b": "\\ud800"}', "Missing a colon after a name of object member.", 5),
        # Literals: the first character that is not theirs.
        (b'{"a": nope}', "Invalid value.", 7),
        (b'{"a": tru}', "Invalid value.", 9),
        (b'{"a": Infini}', "Invalid value.", 12),
        (b'{"a": -Na}', "Invalid value.", 9),
        (b'{"a": -x}', "Invalid value.", 7),
        (b"[1,]", "Invalid value.", 3),
        # Numbers.
        (b"[1.]", "Miss fraction part in number.", 3),
        (b"[1.5.]", _NO_ELEMENT, 4),
        (b"[1e]", "Miss exponent in number.", 3),
        (b"[-3e+]", "Miss exponent in number.", 5),
        (b"[2, -1e400]", _TOO_BIG, 4),
        (b"[1E+309]", _TOO_BIG, 1),
        (b"[0e309]", _TOO_BIG, 1),
        (b"[" + b"9" * 310 + b"]", _TOO_BIG, 1),
        (b"[1" + b"0" * 5000 + b"]", _TOO_BIG, 1),
        (b"[1" + b"0" * 310 + b".5, x]", _TOO_BIG, 1),
        # Bytes, not characters, and the mark counts.
        (_BOM + b'{"\xc3\xa9": x}', "Invalid value.", 10),
        (_BOM, "The document is empty.", 3),
        # Words that Python spells otherwise do not shift what follows.
        (b"[Inf, -NaN, -Inf, x]", "Invalid value.", 18),
        (b"[Inf x]", _NO_ELEMENT, 5),
    ],
)
def test_what_is_no_json_is_named_with_rapidjsons_words(
    body: bytes, message: str, offset: int
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        json_document.decode(body)
    assert str(caught.value) == f"{message} at offset: {offset}"


@pytest.mark.parametrize(
    ("body", "document"),
    [
        (_BOM + b' {"a": 1}', {"a": 1}),
        (b"[Inf, -Inf, Infinity, -Infinity]", [math.inf, -math.inf, math.inf, -math.inf]),
        (b'["Inf", "-NaN\\"", Inf]', ["Inf", '-NaN"', math.inf]),
        # Thirteen digits after the point leave room for a larger exponent.
        (b"[0.0000000000001e313, 1e308, 1e-999]", [1e300, 1e308, 0.0]),
        (b'["\\ud83d\\ude00", "\\\\ud800"]', ["\U0001f600", "\\ud800"]),
        # A surrogate that ends no pair is three bytes of UTF-8: ED B2 80.
        (b'["\\udc80"]', ["\udced\udcb2\udc80"]),
        (b'["\xff"]', ["\udcff"]),
        (b'{"a": 1} {', {"a": 1}),
    ],
)
def test_what_rapidjson_takes_is_taken(body: bytes, document: Any) -> None:
    assert json_document.decode(body) == document


def test_not_a_number_may_have_a_sign() -> None:
    plain, signed = json_document.decode(b"[NaN, -NaN]")
    assert math.isnan(plain)
    assert math.isnan(signed)


def test_the_first_of_two_members_of_a_name_is_found() -> None:
    document = json_document.decode(b'{"a": 1, "b": {"c": 2, "c": 3}, "a": [4]}')
    assert document == {"a": 1, "b": {"c": 2}}
    assert list(json_document.members(document)) == [("a", 1), ("b", {"c": 2}), ("a", [4])]
    assert dict(json_document.members(document["b"])) == {"c": 3}
    assert list(json_document.members({"a": 1})) == [("a", 1)]


def test_an_error_at_the_end_of_a_large_body_is_described() -> None:
    text = ", ".join(["0.123456789"] * 1_000_000)
    body = f'{{"a": [[{text}], "{"x" * 1_000_000}" '.encode()
    message = "or ']' after an array element"
    with pytest.raises(ValueError, match=rf"{message}.* at offset: {len(body)}$"):
        json_document.decode(body)
