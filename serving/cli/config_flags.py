"""Derives flags from config dataclasses, which define the default and help of each option."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from absl import flags

Config = TypeVar("Config")
_DEFINE: dict[type, Callable[..., Any]] = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    bool: flags.DEFINE_bool,
}
# Flags belong to the module that calls `define_flags`, so that its --help shows them.
flags.disclaim_key_flags()


def define_flags(config: type, names: tuple[str, ...] | None = None) -> None:
    """Defines a flag for each option of a config dataclass.

    Args:
        config: Config dataclass with options of `tfrec.config` or `serving.config`.
        names: Options to define flags for. None: all.
    """
    for flag, field in options_of(config).items():
        if names is None or field.name in names:
            minimum = field.metadata.get("minimum")
            limits = () if minimum is None else (minimum,)
            define = _DEFINE[type(field.default)]
            define(flag, field.default, field.metadata["help"], *limits)


def from_flags(config: type[Config], **overrides: Any) -> Config:
    """Returns a config with the values of the flags defined by `define_flags`.

    Args:
        config: Config dataclass.
        **overrides: Values of options that override the flags.
    """
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
