"""The roles of the columns of a log."""

import dataclasses
from typing import Any

import numpy as np

from tfrecords.schema_inference.sample.log_sample import Column


@dataclasses.dataclass
class Roles:
    """The columns of keys and labels; None if the log has no such column."""

    ad_key: Column
    click: Column | None = None
    click_threshold: float | None = None
    engagement: Column | None = None
    revenue: Column | None = None
    time: Column | None = None
    user_key: Column | None = None
    request_key: Column | None = None
    position: Column | None = None
    split: Column | None = None
    event: Column | None = None
    events: dict[str, Any] | None = None
    # The revenue of engagements, which may also be a field.
    price: Column | None = None
    # Columns without a role that may be the click.
    candidates: list[Column] = dataclasses.field(default_factory=list)
    # Whether each row has a different request id, by which another table can be joined.
    has_ids_of_rows: bool = False
    # Columns that may hold event types, by their names.
    codes: list[Column] = dataclasses.field(default_factory=list)

    def names(self) -> set[str]:
        """Returns the names of the columns with a role."""
        return {
            value.name
            for role, value in vars(self).items()
            if isinstance(value, Column) and role != "price"
        }

    def are_of_types(self, *steps: str) -> np.ndarray:
        """Returns whether each row [B] is an event of a type of some steps of `events`."""
        assert self.event is not None
        assert self.events is not None
        types = {type_ for step in steps for type_ in self.events.get(step, ())}
        return np.array([value.strip() in types for value in self.event.values])[self.event.codes]

    @property
    def impressions(self) -> np.ndarray:
        """Whether each row [B] of a log of events is an impression."""
        return self.are_of_types("view" if "view" in (self.events or {}) else "click")

    def of_rows(self, rows: np.ndarray) -> "Roles":
        """Returns the roles with the columns of the rows that a mask [B] selects."""
        found = dataclasses.replace(self)
        for role, column in vars(self).items():
            if isinstance(column, Column):
                setattr(found, role, column.of_rows(rows))
        return found

    def clicked(self) -> np.ndarray:
        """Returns 1 or 0 [B]: is the row clicked or, in a log of events, a click; NaN: unknown."""
        if self.events is not None:
            return self.are_of_types("click").astype(np.float64)
        if self.click is None:
            return np.ones(len(self.ad_key.codes))
        if self.click_threshold is not None:
            return self.click.by_row(self.click.numbers >= self.click_threshold)
        return self.click.by_row(self.click.truths)
