"""The rules of a request as pydantic models, for REST; `rule_messages` says what they mean."""

from typing import Annotated

import pydantic


class CapBody(pydantic.BaseModel):
    """At most so many ads of the answer with the same value of a field."""

    model_config = pydantic.ConfigDict(extra="forbid")

    field: Annotated[str, pydantic.Strict()] = pydantic.Field(
        description="Name of a categorical or list field of the ads."
    )
    most: Annotated[int, pydantic.Strict()] = pydantic.Field(description="At least 1.")


class FrequencyCapBody(pydantic.BaseModel):
    """What the user has seen so often, as `seen` says, does not come."""

    model_config = pydantic.ConfigDict(extra="forbid")

    field: Annotated[str, pydantic.Strict()] | None = pydantic.Field(
        None, description="Ad field whose values are counted; null = the ads themselves."
    )
    most: Annotated[int, pydantic.Strict()] = pydantic.Field(
        description="Seen so many times, it does not come any more."
    )


class DiversityBody(pydantic.BaseModel):
    """Makes an ad worth less for each ad above it with the same value of a field."""

    model_config = pydantic.ConfigDict(extra="forbid")

    field: Annotated[str, pydantic.Strict()] = pydantic.Field(
        description="Name of a categorical or list field of the ads."
    )
    penalty: Annotated[float, pydantic.Strict()] = pydantic.Field(
        description="Share of the worth that each such ad above takes, 0 to 1."
    )


class ExplorationBody(pydantic.BaseModel):
    """Gives a share of the slots to ads drawn evenly from the candidates."""

    model_config = pydantic.ConfigDict(extra="forbid")

    share: Annotated[float, pydantic.Strict()] = pydantic.Field(
        description="Probability with which a slot is drawn, 0 to 1."
    )
    among: Annotated[int, pydantic.Strict()] | None = pydantic.Field(
        None, description="Draws from so many of the best candidates; null = from all."
    )


class RulesBody(pydantic.BaseModel):
    """What the answer as a whole must keep to.

    A part that is null is the service's default; an empty list, or a share of 0, turns it off.
    """

    model_config = pydantic.ConfigDict(extra="forbid")

    caps: list[CapBody] | None = None
    frequency_caps: list[FrequencyCapBody] | None = None
    diversity: list[DiversityBody] | None = None
    exploration: ExplorationBody | None = None


class SeenBody(pydantic.BaseModel):
    """How often the user has seen what."""

    model_config = pydantic.ConfigDict(extra="forbid")

    ads: dict[str, Annotated[int, pydantic.Strict()]] | None = pydantic.Field(
        None, description="Ad id -> times."
    )
    fields: dict[str, dict[str, Annotated[int, pydantic.Strict()]]] | None = pydantic.Field(
        None, description="Ad field -> value -> times."
    )
