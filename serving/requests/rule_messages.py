"""Business rules of a request, and how often its user has seen what; plain dataclasses.

A part of `Rules` that is None is the service's default; an empty list, or a share of 0, turns
the default off.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Cap:
    """At most so many ads of an answer with the same value of a field.

    Ads without a value are not capped; an ad with a list counts for each value of it.

    Attributes:
        field: Name of a categorical or a list field of the ads.
        most: At least 1.
    """

    field: str
    most: int


@dataclasses.dataclass(frozen=True)
class FrequencyCap:
    """What the user has seen so often is not eligible.

    Attributes:
        most: Seen so many times, it does not come any more; at least 1.
        field: A categorical or a list field of the ads, of which no ad with such a value comes;
            None = the ad itself.
    """

    most: int
    field: str | None = None


@dataclasses.dataclass(frozen=True)
class Diversity:
    """Makes an ad worth less for each ad above it with the same value of a field.

    Attributes:
        field: A categorical or a list field of the ads.
        penalty: Share of the worth that each such ad above takes, in [0, 1].
    """

    field: str
    penalty: float


@dataclasses.dataclass(frozen=True)
class Exploration:
    """Gives a share of the slots to ads drawn evenly from the candidates.

    Attributes:
        share: Probability with which a slot is drawn, in [0, 1].
        among: Draws from so many of the best candidates; None = from all.
    """

    share: float
    among: int | None = None


@dataclasses.dataclass(frozen=True)
class Rules:
    """What an answer as a whole must keep to.

    Attributes:
        caps: All of them hold.
        frequency_caps: All of them hold.
        diversity: The factors of several fields multiply.
        exploration: Which slots are drawn.
    """

    caps: Sequence[Cap] | None = None
    frequency_caps: Sequence[FrequencyCap] | None = None
    diversity: Sequence[Diversity] | None = None
    exploration: Exploration | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON object, without what is not set."""
        return _set(dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True)
class Seen:
    """How often the user has seen ads, for frequency caps.

    Attributes:
        ads: Ad id -> times.
        fields: Ad field -> value -> times, such as {"advertiser": {"a3": 5}}.
    """

    ads: Mapping[str, int] | None = None
    fields: Mapping[str, Mapping[str, int]] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON object, without what is not set."""
        return _set({"ads": self.ads, "fields": self.fields})


def _set(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {name: _set(value) for name, value in values.items() if value is not None}
    return [_set(value) for value in values] if isinstance(values, list | tuple) else values
