"""How messages show JSON values: RapidJSON's own output for the same texts, cut where it is."""

import pytest

from serving.model_server.rest import json_document, json_shown


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"[1, true, null, []]", "[1, true, null, []]"),
        (b'{"a": {}, "b": [1]}', '{\n    "a": {},\n    "b": [1]\n}'),
        # A list counts as a level, though it stands on one line.
        (b'[{"a": [2]}]', '[{\n        "a": [2]\n    }]'),
        (b'{"a": 1, "a": 2}', '{\n    "a": 1,\n    "a": 2\n}'),
        (b'["\\u000b\\u001f\\n/\\"\\\\"]', '["\\u000B\\u001F\\n/\\"\\\\"]'),
        (
            b"[1e20, 1e21, 1.5e22, 1e-6, 1e-7, 12.5, -0.0, 123456789012345680.0, 0.001]",
            "[100000000000000000000.0, 1e21, 1.5e22, 0.000001, 1e-7, 12.5, -0.0, "
            "123456789012345680.0, 0.001]",
        ),
        # Beyond the integers of 64 bits.
        (
            b"[18446744073709551615, 36893488147419103232]",
            "[18446744073709551615, 36893488147419103000.0]",
        ),
        # Such numbers end the text, behind what comes before them.
        (b"[1, NaN, 2]", "[1, "),
        (b'{"a": -Infinity}', '{\n    "a": '),
    ],
)
def test_a_value_is_laid_out_as_by_rapidjson(body: bytes, shown: str) -> None:
    assert json_shown.text(json_document.decode(body)) == shown


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'["%s"]' % (b"x" * 300), '["' + "x" * 300 + '"'),
        (b'{"a": "%s", "b": 1}' % (b"x" * 300), '{\n    "a": "' + "x" * 300 + '"'),
        # Bytes count: 130 letters of two each are more than 256.
        ('["{}", 1]'.format("é" * 130).encode(), '["' + "é" * 130 + '"'),
        # 253 bytes leave room for one more value, and for nothing behind it.
        (b'["%s", 1, 2]' % (b"x" * 250), '["' + "x" * 250 + '", 1'),
    ],
)
def test_after_256_bytes_nothing_more_is_begun(body: bytes, shown: str) -> None:
    assert json_shown.text(json_document.decode(body)) == shown
