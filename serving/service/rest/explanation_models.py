"""The explanations of an answer as pydantic models: they document the service."""

import pydantic


class PartBody(pydantic.BaseModel):
    """What one head gives to a utility: score times weight."""

    score: float
    weight: float
    part: float


class AdExplanationBody(pydantic.BaseModel):
    """Why one ad is in its slot."""

    parts: dict[str, PartBody] | None = pydantic.Field(
        description="Of each head; they sum to the utility. Null in a degraded answer."
    )
    place_without_rules: int
    diversity_factor: float
    explored: bool


class LeftOutBody(pydantic.BaseModel):
    """Candidates that stood above the last ad of the answer and did not come."""

    rule: str = pydantic.Field(description="cap, diversity or exploration.")
    field: str | None
    count: int
    ads: list[str] = pydantic.Field(description="The best of them, at most ten.")


class AtCapBody(pydantic.BaseModel):
    """How many values of a field, or ads where it is null, were seen too often."""

    field: str | None
    count: int


class ExplanationBody(pydantic.BaseModel):
    """What the rules did to the answer."""

    candidates: int
    at_frequency_cap: list[AtCapBody]
    left_out: list[LeftOutBody]
    explored_slots: int
