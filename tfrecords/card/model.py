"""The content of a data card. A share, rate or mean is None if its denominator is 0.

Shapes: T bins of time, K ranks of ads.
"""

from typing import Any

import pydantic

from tfrecords import records
from tfrecords.schema import Schema

Share = float | None


class LabelSummary(pydantic.BaseModel):
    """A label in a split."""

    known: int  # rows that have the label
    missing: int
    positive: int  # rows whose label is above 0
    rate: Share  # of the known rows
    mean: Share


class ListLengths(pydantic.BaseModel):
    """Mean and quantiles of the numbers of ads of requests; None without requests."""

    mean: Share = None
    min: int | None = None
    median: int | None = None
    p90: int | None = None
    p99: int | None = None
    max: int | None = None
    one_ad: Share = None  # of the requests


class SplitSummary(pydantic.BaseModel):
    """A split."""

    rows: int  # impressions, sampled negatives included
    requests: int
    sampled: int  # sampled negatives
    share_with_click: Share
    without_click: dict[str, int]  # impressions with a label above 0 and without a click
    known_without_click: dict[str, int]  # unclicked impressions with a label that needs a click
    labels: dict[str, LabelSummary]
    list_lengths: ListLengths


class Drift(pydantic.BaseModel):
    """Drift of a field from training to test."""

    psi: float | None  # population stability index: 0 is no drift, None an empty split
    by_chance: float  # expected index for this number of rows without drift
    groups: int  # of values
    level: str  # stable, shifted, drifted, or unknown if there are too few rows


class TopValue(pydantic.BaseModel):
    """A frequent value, with its share in each split."""

    value: str
    train: Share
    validation: Share
    test: Share


class WrittenTwice(pydantic.BaseModel):
    """Whole numbers that are also written as floats or with zeros: 118 and 118.0, 7 and 007."""

    count: int
    example: str  # the whole number
    other: str  # as it is also written


class FieldSummary(pydantic.BaseModel):
    """A field. Shares are by split, of requests (query side) or impressions (ad side)."""

    name: str
    column: str
    side: str
    kind: str
    is_computed: bool  # a history or a rate
    unit: str  # request or impression
    missing: dict[str, Share]
    constant: bool  # in training
    largest_share: Share  # of one id in training
    drift: Drift
    click_auc: float | None = None  # of the click rates of values, on held-out units
    # Strings:
    vocabulary: int | None = None  # number of values in the vocabulary
    distinct: int | None = None  # number of values in training
    out_of_vocabulary: dict[str, Share] = {}  # of the values that are not missing
    top: list[TopValue] = []
    value_lists: dict[str, list[int]] = {}  # number of lists by number of values
    written_twice: WrittenTwice | None = None
    written_as_float: str | None = None  # such as 118.0, if nearly all values are
    # Numbers:
    boundaries: list[float] = []
    buckets: dict[str, list[float]] = {}  # share of each bucket
    quantiles: dict[str, float | None] = {}  # boundary above a share of the training values


class ShownAd(pydantic.BaseModel):
    """An ad in training."""

    ad_id: str
    show: dict[str, Any] = {}
    impressions: int
    share: float  # of all impressions
    click_rate: float


class PopularityCurve(pydantic.BaseModel):
    """Cumulative shares [K] of the most popular ads in training, up to each rank."""

    rank: list[int]
    impressions: list[float]
    clicks: list[float]


class NewAds(pydantic.BaseModel):
    """The ads of a split that training never shows."""

    counted: str  # impressions or clicks
    ads: int
    of_ads: int  # ads of the split
    share: Share  # of what is counted
    share_of_clicks: Share


class AdsSummary(pydantic.BaseModel):
    """The ads of the catalog."""

    count: int
    shown_in_training: int
    clicked_in_training: int
    impressions_of_changed_ads: int  # shown with fields that differ from the catalog
    changed_share: Share  # of the log's impressions
    most_shown: list[ShownAd]
    curve: PopularityCurve
    top: PopularityCurve  # at round ranks
    new: dict[str, NewAds]
    written_twice: WrittenTwice | None = None  # ids
    written_as_float: str | None = None  # such as 118.0, if nearly all ids are


class RejectedReason(pydantic.BaseModel):
    """A reason without the rejected values."""

    reason: str
    count: int


class RejectedRow(pydantic.BaseModel):
    """A row of `rejected.tsv`, its text shortened."""

    file: str
    line: str
    reason: str
    text: str


class RejectedRows(pydantic.BaseModel):
    """The rejected rows."""

    lines: int  # of the log
    count: int
    share: Share
    distinct_reasons: int
    reasons: list[RejectedReason]  # the most common ones
    examples: list[RejectedRow]  # the first ones


class TimeSummary(pydantic.BaseModel):
    """Rows and label rates over time."""

    by_time: bool  # otherwise bins are numbers of rows
    unit: str | None  # of times since 1970; None for plain numbers
    by_unit: dict[str, int]  # rows of the log by the unit of their time, see columns.count_units
    low: float
    high: float
    edges: list[str]  # of the bins [T + 1]
    rows: list[int]  # of each bin [T]
    rates: dict[str, list[Share]]  # of each label [T]


class CardWarning(pydantic.BaseModel):
    """A problem of the data set and its remedy."""

    level: str  # warning: likely a mistake, or a metric or model is useless; note: information
    text: str
    action: str


def warning(text: str, action: str) -> CardWarning:
    """Returns a warning."""
    return CardWarning(level="warning", text=text, action=action)


def note(text: str, action: str) -> CardWarning:
    """Returns a note."""
    return CardWarning(level="note", text=text, action=action)


class DataCard(pydantic.BaseModel):
    """The content of a data set, and the problems in it."""

    directory: str
    data: records.DataSetDescription
    log_schema: Schema
    split_meaning: str
    splits: dict[str, SplitSummary]
    time: TimeSummary
    fields: list[FieldSummary]
    ads: AdsSummary
    rejected: RejectedRows
    warnings: list[CardWarning] = []  # warnings before notes
