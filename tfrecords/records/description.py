"""The description of a data set, `dataset.json`, and its profile, `profile.json`."""

from typing import Any

import pydantic

from tfrecords.records.spec import Spec
from tfrecords.splits import SplitOptions


class ShardDescription(pydantic.BaseModel):
    """One shard.

    Attributes:
        file: File name.
        records: Number of records.
        requests: Number of requests.
        rows: Number of impressions, sampled negatives included.
        bytes: Size of the file.
        sha256: Checksum of the file.
        label_sums: Sum of each label.
        label_counts: Number of rows that have each label.
        label_positives: Number of rows whose label is above 0.
        sampled: Number of sampled negatives.
    """

    file: str
    records: int
    requests: int
    rows: int
    bytes: int
    sha256: str
    label_sums: dict[str, float]
    label_counts: dict[str, int]
    label_positives: dict[str, int]
    sampled: int


class SplitDescription(pydantic.BaseModel):
    """One split: the sums over its shards, and the shards."""

    rows: int
    requests: int
    sampled: int
    label_sums: dict[str, float]
    label_counts: dict[str, int]
    label_positives: dict[str, int]
    shards: list[ShardDescription]


# Share of the labels that come within `LateLabels.seconds` of their impression.
LATE_SHARE = 0.99


class LateLabels(pydantic.BaseModel):
    """How late a label of a log of events comes.

    Attributes:
        seconds: Time within which `LATE_SHARE` of the labels come after their impression.
        young: Number of impressions that are younger at the end of the log.
    """

    seconds: float
    young: int


class EventCounts(pydantic.BaseModel):
    """Outcomes of the rows of a log of events that are not impressions.

    Attributes:
        joined: Clicks and engagements that became labels of an impression.
        unmatched: Clicks and engagements without an earlier view, which are left out.
        others: Event type that the schema does not name -> rows, which are left out.
        repeated: Rows that repeat another one, which counts once.
        anonymous: Rows without a user, views too, if clicks are joined to views by the user.
        late: Label -> how late it comes; empty without times.
    """

    joined: int
    unmatched: int
    others: dict[str, int]
    repeated: int = 0
    anonymous: int = 0
    late: dict[str, LateLabels] = {}

    @property
    def num_rows(self) -> int:
        """Number of rows that are not impressions."""
        return self.joined + self.left_out

    @property
    def left_out(self) -> int:
        """Number of rows that are neither impressions nor labels."""
        return self.unmatched + sum(self.others.values()) + self.repeated


class TableKeys(pydantic.BaseModel):
    """The rows of a table of ads or users that are ignored, and keys of the log that it lacks.

    Attributes:
        key: Columns that identify the rows.
        repeated: Rows whose key occurs again later; the last row of a key counts.
        differing: Repeated rows that differ from the last one in a column that is read.
        without_key: Rows without a key.
        examples: Up to three keys of the table.
        looked_up: Number of shown ads, or of rows of the log that have a user.
        unmatched: Number of those whose key is not in the table.
        unmatched_examples: Up to three such keys.
    """

    key: list[str]
    repeated: int
    differing: int
    without_key: int
    examples: list[str] = []
    looked_up: int = 0
    unmatched: int = 0
    unmatched_examples: list[str] = []


class SourceDescription(pydantic.BaseModel):
    """The log that was converted.

    Attributes:
        path: First file.
        paths: All files.
        format: Name of the format.
        lines: Number of lines.
        rejected: Number of rejected lines.
        events: Outcomes of the rows of a log of events; None: another log.
        ads_table: Keys of the table of ads, or None.
        users_table: Keys of the table of users, or None.
        encoder_sources: Text encoder -> digest of its source, if any of them is custom.
    """

    path: str
    paths: list[str]
    format: str
    lines: int
    rejected: int
    events: EventCounts | None = None
    ads_table: TableKeys | None = None
    users_table: TableKeys | None = None
    encoder_sources: dict[str, str | None] = {}


class DataSetDescription(pydantic.BaseModel):
    """The content of `dataset.json`.

    Attributes:
        format_version: Version of the data set's format.
        fingerprint: Fingerprint of the fitted schema.
        log_schema: The schema as JSON values; `schema` on disk.
        source: The log.
        spec: Record format.
        num_ads: Number of ads in the catalog.
        ads_not_in_table: Number of shown ads that the table of ads lacks, if there is one.
        impressions_of_changed_ads: Impressions of ads whose fields differ from the catalog.
        rows_of_varying_query_fields: Query field -> rows that differ from the first of a request.
        rows_of_other_users: Rows whose user differs from that of the first row of their request.
        num_users: Number of users, in which each anonymous visit counts; 0 without a user key.
        float_user: A user id such as 118.0 if nearly all ids of users are whole floats, or None.
        requests_of_most_active_user: Number of requests of the most active user.
        split: How the log was split.
        sampled_negatives: Sampled negatives per click.
        users_return: Whether they may be ads that the user clicked in other requests, because users
            return to ads.
        engagement_window_seconds: Maximum delay of an engagement after its click.
        rows_inside_engagement_window: Rows whose engagement and revenue are not known yet.
        rows_after_end_of_log: Rows among them that are so late that their time must be wrong.
        repeated_rows: Rows of a log of impressions that equal an earlier one in user or request,
            ad, time, position and labels; estimated in a long log.
        long_requests: Number of requests whose rows are more than a day apart.
        rows_with_clicks_above_1: Rows whose click is a whole number above 1, where 1 is a click.
        times_by_unit: Unit in which a time is a date since 1970 (or that it has none, see
            `columns.count_units`) -> rows of the log; empty without times.
        splits: Splits by name.
        sha256: File -> checksum, of the files other than shards.
    """

    format_version: int
    fingerprint: str
    log_schema: dict[str, Any] = pydantic.Field(alias="schema")
    source: SourceDescription
    spec: Spec
    num_ads: int
    ads_not_in_table: int
    impressions_of_changed_ads: int
    rows_of_varying_query_fields: dict[str, int]
    rows_of_other_users: int
    num_users: int
    float_user: str | None
    requests_of_most_active_user: int
    split: SplitOptions
    sampled_negatives: int
    users_return: bool
    engagement_window_seconds: float
    rows_inside_engagement_window: int
    rows_after_end_of_log: int
    repeated_rows: int
    long_requests: int
    rows_with_clicks_above_1: int
    times_by_unit: dict[str, int]
    splits: dict[str, SplitDescription]
    sha256: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON values of `dataset.json`."""
        return self.model_dump(mode="json", by_alias=True)


class TimeProfile(pydantic.BaseModel):
    """Rows and labels in bins of equal time spans, or of equal numbers of rows without times.

    Attributes:
        low: Start of the first bin.
        high: End of the last bin.
        by_time: Whether the bins are time spans.
        rows: Rows of each bin [T].

    Labels of 0 or 1 are further attributes: rows that have the label [T], such as `click_known`,
    and rows where it is 1 [T], such as `click_positive`.
    """

    model_config = pydantic.ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, list[int]]

    low: float
    high: float
    by_time: bool
    rows: list[int]


class Profile(pydantic.BaseModel):
    """The content of `profile.json`: the number of distinct values per string field, and times."""

    num_distinct: dict[str, int]
    time: TimeProfile
