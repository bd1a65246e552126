"""How the pages of data and of models write numbers."""

from collections.abc import Sequence

NO_VALUE = "–"


def format_percent(share: float | None) -> str:
    """Returns a share; what is neither none nor all never rounds to 0 % or 100 %."""
    if share is None:
        return NO_VALUE
    if 0 < share < 0.0005:
        return "< 0.1 %"
    if 0.9995 < share < 1:
        return "> 99.9 %"
    return f"{100 * share:.1f} %"


def format_count(value: int | None) -> str:
    """Returns a whole number with its thousands apart."""
    return NO_VALUE if value is None else f"{value:,}"


def format_decimal(value: float | None) -> str:
    """Returns a number with three significant digits or all of its whole ones."""
    if value is None:
        return NO_VALUE
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def format_metric(value: float | None) -> str:
    """Returns a metric with four decimals; large values with two."""
    if value is None:
        return NO_VALUE
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.2f}"


def format_interval(bounds: Sequence[float] | None) -> str:
    """Returns the bounds of a metric's interval."""
    return (
        NO_VALUE if bounds is None else f"{format_metric(bounds[0])} to {format_metric(bounds[1])}"
    )


def format_mean(value: float | None) -> str:
    """Returns a mean with two decimals."""
    return NO_VALUE if value is None else f"{value:,.2f}"


def format_list(items: Sequence[str], most: int = 8) -> str:
    """Joins items; of many, the first ones and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
