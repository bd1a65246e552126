"""Placeholders for missing numbers and keys, and numbers as text.

Databases and data frames write missing values as NULL, None or nan. As the key of an ad or a user,
such a placeholder would merge many of them into one.
"""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.columns import arrow
from tfrecords.schema import Schema

# Placeholders for a missing number; a missing string is empty.
MISSING_NUMBERS = (
    "", "NA", "N/A", "n/a", "NaN", "nan", "NAN", "NULL", "null", "None", "none", "-", "\\N",
)  # fmt: skip
# Including blanks of fixed-width columns.
NULLS = (*MISSING_NUMBERS, *(" " * width for width in range(1, 33)))
# Arrow reads these as NaN, in addition to `MISSING_NUMBERS`.
_NAN = re.compile(r"[+-]?nan", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
# A currency is a code such as EUR, an abbreviation, or a sign; thousands are in groups of three.
# Nothing else may surround a number: ~5, 5 %, 5 ¢ and 5 k€ are not the number 5.
_CURRENCY = (
    r"(?:EUR|USD|GBP|JPY|CNY|INR|CHF|SEK|NOK|DKK|PLN|CZK|HUF|RON|TRY|RUB|BRL|MXN|CAD|AUD|NZD|SGD|"
    r"HKD|KRW|IDR|THB|VND|ZAR|AED|SAR|ILS|kr|Kč|zł|Ft|Fr\.?|Rs\.?|RM|Rp|lei|лв\.?|руб\.?|"
    r"(?:US|CA|AU|NZ|HK|NT|MX|SG|CN|JP|[ACEJNRSZ])?[$£¤¥֏؋৳฿៛₠-⃏﷼＄￡￥￦])?\s*+"
)
_WRITTEN = {
    decimal: re.compile(
        rf"[+\-−(]?\s*+{_CURRENCY}[+\-−(]?\s*+"
        rf"(?P<whole>\d{{1,3}}(?:[{group}'’\s]\d{{3}})+|\d+)"
        rf"(?:{re.escape(decimal)}(?P<part>\d+))?\s*+[\-−)]?\s*+{_CURRENCY}[\-−)]?"
    )
    for decimal, group in ((".", ","), (",", "."))
}
# All marks of a text, in order -> sign. Accounting writes negative numbers in parentheses.
_SIGNS = {"": "", "+": "+", "-": "-", "−": "-", "()": "-"}


def is_missing_number(text: str) -> bool:
    """Returns whether a text is a placeholder for a missing number or blank, as Arrow reads it."""
    return text in MISSING_NUMBERS or not text.strip(" ") or _NAN.fullmatch(text) is not None


def number_fault(name: str, value: str) -> str | None:
    """Returns why a text is not a number, or None."""
    # Spaces around a number are allowed, as Arrow allows them.
    text = value.strip(" ")
    if is_missing_number(value) or (_NUMBER.fullmatch(text) and np.isfinite(float(text))):
        return None
    is_written = any(plain_number(text, decimal) for decimal in _WRITTEN)
    hint = '; set "decimal" in the schema to read such numbers' if is_written else ""
    return f"{name} must be a finite number or empty, got {value[:40]!r}{hint}"


def read_number(name: str, text: str, decimal: str | None) -> float:
    """Returns the number of a text; NaN is missing.

    Args:
        name: The column, for messages.
        text: The text.
        decimal: Decimal sign of formatted numbers, such as `€1,234.50`; None: numbers are plain.

    Raises:
        ValueError: The text is not a number.
    """
    if is_missing_number(text):
        return float("nan")
    fault = number_fault(name, text)
    if fault is None and decimal != ",":
        return float(text)
    digits = None if decimal is None else plain_number(text, decimal)
    if digits is None:
        raise ValueError(
            fault
            if decimal is None and fault is not None
            else f"{name} must be empty or a number with the decimal sign {decimal!r}, got "
            f"{text[:40]!r}"
        )
    return float(digits)


def plain_number(text: str, decimal: str) -> str | None:
    """Returns a formatted number in plain digits, or None if it is not a number.

    Args:
        text: A number, perhaps with a currency and groups of thousands: `€1,234.50`. A negative
            number has a minus before or after it, or parentheses: `($5.00)`.
        decimal: Decimal sign, `.` or `,`.
    """
    match = _WRITTEN[decimal].fullmatch(text.strip())
    sign = None if match is None else _SIGNS.get("".join(re.findall(r"[+\-−()]", text)))
    if match is None or sign is None:
        return None
    whole, part = re.sub(r"\D", "", match["whole"]), match["part"]
    return f"{sign}{whole}.{part}" if part else sign + whole


def are_missing(keys: pa.Array) -> np.ndarray:
    """Returns whether each of the keys [V], as texts, is empty or a placeholder."""
    return pc.is_in(keys, pa.array(NULLS)).to_numpy(zero_copy_only=False)


def without_placeholders(schema: Schema, table: pa.Table) -> pa.Table:
    """Replaces placeholders in the key columns of parsed rows or of a table of ads by null.

    The columns of an ad key of several columns are not changed: each of them may be missing.
    """
    ad_key = schema.ad_key if len(schema.ad_key) == 1 else ()
    for name in dict.fromkeys((*ad_key, schema.user_key, schema.request_key)):
        if name is not None and name in table.column_names and arrow.is_text(table[name]):
            index = table.column_names.index(name)
            table = table.set_column(index, name, _known(table[name]))
    return table


def _known(column: pa.ChunkedArray) -> pa.ChunkedArray:
    keys = arrow.as_dictionary(column)
    is_known = pc.invert(pc.is_in(keys.dictionary, pa.array([text for text in NULLS if text])))
    if not pc.all(is_known).as_py():
        # An index is null where it was null or is of a placeholder.
        indices = pc.if_else(
            is_known.take(keys.indices), keys.indices, pa.scalar(None, keys.indices.type)
        )
        keys = pa.DictionaryArray.from_arrays(indices, keys.dictionary)
    return pa.chunked_array([keys])
