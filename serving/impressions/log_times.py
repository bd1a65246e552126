"""The latest time of an impression log, the reference for the age of its impressions.

The clock of a host may be ahead, which would make all impressions look old. So the latest time is
one at which several hosts were logging, and is not in the future.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

# Logs of hosts end at different times, because each host writes a file a minute.
_USUAL_GAP_SECONDS = 300.0


@dataclasses.dataclass(frozen=True)
class Span:
    """The impressions of a host, or of one of its files.

    Attributes:
        host: Name of the host.
        first: Time of the first impression, in seconds since 1970.
        last: Time of the last impression.
    """

    host: str
    first: float
    last: float


def latest_time(spans: Sequence[Span], now: float) -> tuple[float, str | None]:
    """Returns the latest time that can be trusted, and a warning if a later one cannot.

    If several hosts log at the same time for most of the log, a quarter of them, and at least two,
    must have been logging at the latest time.

    Args:
        spans: Spans of all files.
        now: Current time, in seconds since 1970.
    """
    by_host: dict[str, list[Span]] = {}
    for span in spans:
        by_host.setdefault(span.host, []).append(span)
    hosts = [
        Span(host, min(s.first for s in host_spans), max(s.last for s in host_spans))
        for host, host_spans in by_host.items()
    ]
    trusted = min(_corroborated(hosts), now)
    ahead = [host for host in hosts if host.last > trusted + _USUAL_GAP_SECONDS]
    if not ahead:
        return trusted, None
    furthest = max(ahead, key=lambda host: host.last)
    return trusted, (
        f"host {furthest.host or 'unknown'} has impressions up to {furthest.last - trusted:,.0f} s "
        "later than the other hosts, or than now. The age of impressions is measured from the "
        "earlier time. Check the host's clock."
    )


def _corroborated(hosts: Sequence[Span]) -> float:
    """Returns the latest time at which enough hosts were logging."""
    edges = np.unique([edge for host in hosts for edge in (host.first, host.last)])
    if len(edges) < 2:
        return float(edges[-1])
    first, last = (np.array([getattr(host, end) for host in hosts]) for end in ("first", "last"))
    middles = (edges[1:] + edges[:-1]) / 2
    active = ((first <= middles[:, None]) & (middles[:, None] <= last)).sum(axis=1)
    order = np.argsort(-active, kind="stable")
    seconds = np.cumsum(np.diff(edges)[order])
    # At least this many hosts were logging for half of the time.
    usual = int(active[order][np.searchsorted(seconds, seconds[-1] / 2)])
    needed = max(min(usual, 2), math.ceil(usual / 4))
    return float(edges[1:][active >= needed][-1])
