"""Why an answer is as it is: what each ad's utility is made of, and what the rules did.

Plain dataclasses, as `messages` has them; an answer carries them where the request asks.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self


@dataclasses.dataclass(frozen=True)
class Part:
    """What one head gives to a utility.

    Attributes:
        score: Of the head.
        weight: Of the request.
        part: Their product.
    """

    score: float
    weight: float
    part: float


@dataclasses.dataclass(frozen=True)
class AdExplanation:
    """Why one ad is in its slot.

    Attributes:
        parts: Of each present head; they sum to the utility. None in a degraded answer.
        place_without_rules: Its rank among the candidates by utility alone, or in a degraded
            answer by retrieval score; 1 is the best.
        diversity_factor: What the ads above it left of its worth, in [0, 1].
        explored: Whether its slot was drawn.
    """

    parts: dict[str, Part] | None
    place_without_rules: int
    diversity_factor: float
    explored: bool

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Builds it from its JSON object; KeyError or TypeError where that is another."""
        parts = document["parts"]
        if parts is not None:
            parts = {head: _build(Part, part) for head, part in parts.items()}
        return _build(cls, {**document, "parts": parts})


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """Candidates that stood above the last ad of the answer and did not come.

    Attributes:
        rule: `cap`, `diversity` or `exploration`. A candidate that several caps kept out is
            counted at each; the others are counted where no cap did.
        field: Of the cap; None otherwise.
        count: How many.
        ads: Ids of the best of them, at most ten.
    """

    rule: str
    field: str | None
    count: int
    ads: list[str]


@dataclasses.dataclass(frozen=True)
class AtCap:
    """What a frequency cap made ineligible.

    Attributes:
        field: Of the cap; None = the ads themselves.
        count: Values of the field, or ads, that were seen too often.
    """

    field: str | None
    count: int


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What the rules did to an answer.

    Attributes:
        candidates: Eligible ads that the answer was chosen from.
        at_frequency_cap: Of each frequency cap that the user has reached.
        left_out: Of each rule that left candidates out.
        explored_slots: Slots that were drawn.
    """

    candidates: int
    at_frequency_cap: list[AtCap]
    left_out: list[LeftOut]
    explored_slots: int

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Builds it from its JSON object; KeyError or TypeError where that is another."""
        lists = {
            "at_frequency_cap": [_build(AtCap, value) for value in document["at_frequency_cap"]],
            "left_out": [_build(LeftOut, value) for value in document["left_out"]],
        }
        return _build(cls, {**document, **lists})


def _build(cls: type, document: Mapping[str, Any]) -> Any:
    return cls(**{field.name: document[field.name] for field in dataclasses.fields(cls)})
