"""Text tables are aligned, plain, and show their cells unchanged; counts agree with nouns."""

import pytest

from tfrecords import terminal


def test_columns_are_aligned_and_cells_are_shown_unchanged():
    table = terminal.text_table(
        ["", "rows", "notes"], [["é", "1,000", "[b]x"], ["test", "2"]], (0, 2)
    )
    assert table.split("\n") == ["       rows  notes", "é     1,000  [b]x", "test      2"]


def test_a_count_agrees_with_its_noun():
    assert [terminal.format_count(n, "ad") for n in (0, 1, 2000)] == ["0 ads", "1 ad", "2,000 ads"]
    assert terminal.format_count(1, "row is", "rows are") == "1 row is"
    assert terminal.format_count(2, "row is", "rows are") == "2 rows are"


def test_a_wide_table_is_not_wrapped_and_has_no_colors(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    assert terminal.text_table(["a"], [["x" * 300]]).split("\n") == ["a", "x" * 300]


@pytest.mark.parametrize(
    ("count", "shown"), [(2, "1, 2"), (3, "1, 2, 3"), (5, "1, 2, 3 and 2 more")]
)
def test_a_long_list_ends_with_a_count(count, shown):
    assert terminal.format_list([str(i + 1) for i in range(count)], 3) == shown
