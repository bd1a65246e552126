"""Which columns of texts are lists."""

import numpy as np
import pytest

from tfrecords.schema_inference import kinds
from tfrecords.schema_inference.sample import log_sample


def column(name: str, values: list[str], is_list: bool = False) -> log_sample.Column:
    distinct = list(dict.fromkeys(values))
    codes = [distinct.index(value) for value in values]
    return log_sample.Column(name, log_sample.LOG, distinct, np.array(codes), is_list)


@pytest.mark.parametrize(
    ("name", "values", "separator"),
    [
        # No name: 40 lists of 4 of 13 ids, 12 times each, in every place.
        ("c7", [" ".join(f"N{(n * k) % 13}" for k in (1, 3, 4, 9)) for n in range(1, 41)], " "),
        # 30 of 33 ids are there once.
        ("history", [f"N{n} N{n + 100} N7" for n in range(15)] + ["N3"], " "),
        ("genres", ["Drama War", "Comedy War", "Drama", "Comedy Romance Drama"], " "),
        ("items", ["1 2 3", "2", "3 1", "2 3"], " "),
        ("items", ["12,7", "7,9", "9,12", "12", "9,7"], ","),
        ("bid", ["12,7", "7,9", "9,12", "12", "9,7"], None),
        # Searches of one or two words; a city with the same values is not a list.
        ("query", [f"w{n}{more}" for n in range(8) for more in ("", " cheap")], " "),
        ("city", [f"w{n}{more}" for n in range(8) for more in ("", " cheap")], None),
        ("brand", [f"Brand {n}" for n in range(40)], None),
        ("path", [f"cat{n % 5} > sub{n}" for n in range(40)], None),
        ("model", [f"iPhone {n % 9} Pro {'Max' * (n % 2)}".strip() for n in range(40)], None),
        ("town", ["New York", "Los Angeles", "San Jose", "Las Vegas", "Berlin"], None),
        ("categories", ["Home Garden", "Toys", "Sport Fitness", "Food"], None),
        ("seen", [f"2024-01-{n + 10} 10:00:00" for n in range(15)], None),
    ],
)
def test_separators(name: str, values: list[str], separator: str | None) -> None:
    assert kinds.separator(column(name, values)) == separator


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["0.1|-2.5|3.25", "1.5|0.0|7e-3"], {"kind": "dense", "length": 3}),
        # Lists of two lengths, of whole numbers, and of words.
        (["0.1|-2.5|3.25", "1.5|0.5"], "categorical_list"),
        (["1|2|3", "4|5|6"], "categorical_list"),
        (["a|b", "c|d"], "categorical_list"),
    ],
)
def test_lists_of_fractions_of_one_length_are_vectors(values: list[str], kind: object) -> None:
    found = kinds.kind(column("taste", values, is_list=True), [])
    assert found == kind if isinstance(kind, dict) else found["kind"] == kind
