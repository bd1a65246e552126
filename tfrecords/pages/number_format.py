"""Number formats of the reports on data and on models."""

from collections.abc import Callable, Sequence

NO_VALUE = "–"


def format_percent(share: float | None) -> str:
    """Formats a share in percent; only 0 and 1 are shown as 0 % and 100 %."""
    if share is None:
        return NO_VALUE
    if -0.0005 < share < 0:
        return "> -0.1 %"
    if 0 < share < 0.0005:
        return "< 0.1 %"
    if 0.9995 < share < 1:
        return "> 99.9 %"
    return f"{100 * share:.1f} %"


def format_count(value: int | None) -> str:
    """Formats a whole number with a thousands separator."""
    return NO_VALUE if value is None else f"{value:,}"


def format_decimal(value: float | None) -> str:
    """Formats a number with three significant digits, or without decimals from 100 on."""
    if value is None:
        return NO_VALUE
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def format_mean(value: float | None) -> str:
    """Formats a mean with two decimals."""
    # Adding 0 turns -0.0 into 0.0.
    return NO_VALUE if value is None else f"{round(value, 2) + 0.0:,.2f}"


def format_metric(value: float | None) -> str:
    """Formats a metric with four decimals, or with two from 10 on."""
    if value is None:
        return NO_VALUE
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.2f}"


def format_interval(
    bounds: Sequence[float] | None, form: Callable[[float | None], str] = format_metric
) -> str:
    """Formats the bounds of an interval, each by `form`."""
    return NO_VALUE if bounds is None else f"{form(bounds[0])} to {form(bounds[1])}"
