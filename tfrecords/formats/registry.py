"""The formats by name."""

import inspect
from collections.abc import Iterable
from typing import Any, cast

from tfrecords import plugins
from tfrecords.formats import log_format

_MODULES = {
    "criteo_kaggle": "criteo",
    "criteo_1tb": "criteo",
    "criteo": "criteo",
    "criteo_attribution": "attribution",
    "outbrain": "outbrain",
    "avazu": "avazu",
    "tabular": "tabular",
}
_FUNCTIONS = ("schema", "open_log", "read_ads")


def _accept(found: Any) -> log_format.LogFormat | None:
    if inspect.isclass(found):
        return found() if issubclass(found, log_format.LogFormat) else None
    is_format = all(callable(getattr(found, name, None)) for name in _FUNCTIONS)
    return cast(log_format.LogFormat, found) if is_format else None


FORMATS: plugins.Registry[log_format.LogFormat] = plugins.Registry(
    "log format",
    "tfrec.log_formats",
    {name: f"tfrecords.formats.{module}" for name, module in _MODULES.items()},
    "a subclass of tfrecords.formats.LogFormat, or a module with its functions",
    _accept,
)


def name_by_columns(columns: Iterable[str]) -> str | None:
    """Returns the name of the format whose files have these columns in their `HEADER`, or None."""
    found = set(columns)
    headers = {name: getattr(FORMATS.get(name), "HEADER", ()) for name in _MODULES}
    return next((name for name, header in headers.items() if header and found == set(header)), None)
