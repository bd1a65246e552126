"""Derives flags from config dataclasses, which define the default and help of each option."""

import dataclasses
from typing import Any, TypeVar

from absl import flags

from tfrec import config as options

Config = TypeVar("Config")
_AS_TEXT: flags.ArgumentSerializer[float] = flags.ArgumentSerializer()
# Flags belong to the module that calls `define_flags`, so that its --help shows them.
flags.disclaim_key_flags()


class _NumberParser(flags.ArgumentParser[float]):
    """Parses a number and refuses it if it is not in the range of an option."""

    def __init__(self, field: dataclasses.Field[Any]) -> None:
        self._field = field
        self.syntactic_help = options.values_of(field)

    def parse(self, argument: Any) -> float:
        kind: Any = type(self._field.default)
        value: float = kind(argument)
        if not options.is_within(self._field, value):
            raise ValueError(self.syntactic_help)
        return value


def define_flags(config: type, names: tuple[str, ...] | None = None) -> None:
    """Defines a flag for each option of a config dataclass, or for those with `names`."""
    for flag, field in options_of(config).items():
        if names is None or field.name in names:
            default: Any = field.default
            text = field.metadata["help"]
            if isinstance(default, bool):
                flags.DEFINE_bool(flag, default, text)
            elif isinstance(default, str):
                flags.DEFINE_string(flag, default, text)
            else:
                flags.DEFINE(_NumberParser(field), flag, default, text, serializer=_AS_TEXT)


def from_flags(config: type[Config], **overrides: Any) -> Config:
    """Returns a config with the values of the flags of `define_flags` and of `overrides`."""
    values = {
        field.name: flags.FLAGS[flag].value
        for flag, field in options_of(config).items()
        if flag in flags.FLAGS
    }
    return config(**{**values, **overrides})


def options_of(config: type) -> dict[str, dataclasses.Field[Any]]:
    """Returns the options of a config dataclass by the names of their flags."""
    return {
        field.metadata.get("flag") or field.name: field
        for field in dataclasses.fields(config)
        if "help" in field.metadata
    }
