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
    for field in dataclasses.fields(config):
        if "help" in field.metadata and (names is None or field.name in names):
            minimum = field.metadata.get("minimum")
            limits = () if minimum is None else (minimum,)
            define = _DEFINE[type(field.default)]
            define(_flag_of(field), field.default, field.metadata["help"], *limits)


def names_of(config: type) -> list[str]:
    """Returns the flags that `define_flags` defines for all options of a config dataclass."""
    return [_flag_of(field) for field in dataclasses.fields(config) if "help" in field.metadata]


def from_flags(config: type[Config], **overrides: Any) -> Config:
    """Returns a config with the values of the flags defined by `define_flags`.

    Args:
        config: Config dataclass.
        **overrides: Values of options that override the flags.
    """
    values = {
        field.name: flags.FLAGS[_flag_of(field)].value
        for field in dataclasses.fields(config)  # type: ignore[arg-type]
        if "help" in field.metadata and _flag_of(field) in flags.FLAGS
    }
    return config(**{**values, **overrides})


def _flag_of(field: dataclasses.Field[Any]) -> str:
    return field.metadata.get("flag") or field.name
