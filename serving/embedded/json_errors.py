"""Names what is wrong with a JSON text in the words of RapidJSON, which TensorFlow Serving uses.

References: RapidJSON, `error/en.h` (the words) and `reader.h` (which of them, and where).
"""

import json

_MESSAGES = {
    "Expecting value": "Invalid value.",
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
    "Invalid control character at": "Invalid encoding in string.",
}
_CLOSING = {"{": "}", "[": "]"}


def describe(error: json.JSONDecodeError) -> str:
    """Returns the words and the byte where the error is."""
    text, position = error.doc, error.pos
    if error.msg.startswith(("Expecting ',' delimiter", "Illegal trailing comma")):
        message = _after_value(text, position)
    else:
        known = (value for key, value in _MESSAGES.items() if error.msg.startswith(key))
        message = next(known, "Unspecific syntax error.")
    if error.msg.startswith("Unterminated string"):
        # Not its start: the end, where the mark is missing.
        position = len(text)
    elif error.msg.startswith("Invalid \\uXXXX"):
        # Not its `u`: the backslash.
        position = text.rindex("\\", 0, position + 1)
    offset = len(text[:position].encode("utf-8", "surrogateescape"))
    return f"{message} at offset: {offset}"


def _after_value(text: str, position: int) -> str:
    if text[position - 1 : position].isdigit():
        if text[position : position + 1] == ".":
            return "Miss fraction part in number."
        if text[position : position + 1] in ("e", "E"):
            return "Miss exponent in number."
    if _innermost(text[:position]) == "{":
        return "Missing a comma or } after an object member."
    return "Missing a comma or ] after an array element."


def _innermost(text: str) -> str:
    """Returns the bracket that is still open at the end of the text."""
    opened: list[str] = []
    in_string = escaped = False
    for character in text:
        if escaped:
            escaped = False
        elif in_string:
            escaped = character == "\\"
            in_string = character != '"'
        elif character == '"':
            in_string = True
        elif character in _CLOSING:
            opened.append(character)
        elif opened and character == _CLOSING[opened[-1]]:
            opened.pop()
    return opened[-1] if opened else ""
