"""Command-line habits shared by the scripts: flags from configs, clear failures.

Every option's default and help live in a config dataclass; flags are derived from it.
"""

import dataclasses
import functools
import json
import logging
import os
import pathlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

from absl import app, flags
from absl import logging as absl_logging

import tfrec  # noqa: F401  (first: it settles Keras and quiets TensorFlow)
from serving import errors
from serving.cli import flag_messages
from tfrecords import convert

Config = TypeVar("Config")
_EXPECTED_ERRORS = (
    ValueError,
    OSError,
    FloatingPointError,
    errors.ServingError,
    errors.ServerStartError,
)


def define_flags(config: type, prefix: str = "", names: tuple[str, ...] | None = None) -> None:
    """Defines a flag for each option of a config dataclass.

    Args:
        config: The dataclass.
        prefix: Put before each option's name.
        names: Only these options; None is all.
    """
    define: dict[type, Callable[..., Any]] = {
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
        bool: flags.DEFINE_bool,
    }
    # The flags are the caller's: its --help shows them.
    command = sys._getframe(1).f_globals["__name__"]
    if command == "__main__":
        command = sys.argv[0]
    for field in dataclasses.fields(config):
        if "help" in field.metadata and (names is None or field.name in names):
            define[type(field.default)](
                prefix + field.name, field.default, field.metadata["help"], module_name=command
            )


def from_flags(config: type[Config], prefix: str = "", **overrides: Any) -> Config:
    """Builds a config from the flags that `define_flags` made, and overrides."""
    values = {
        field.name: flags.FLAGS[prefix + field.name].value
        for field in dataclasses.fields(config)  # type: ignore[arg-type]
        if prefix + field.name in flags.FLAGS
    }
    return config(**{**values, **overrides})


def run(main: Callable[[], None], command: ModuleType | None = None) -> None:
    """Parses the flags and runs `main`; an expected failure is one line and exit status 1.

    Args:
        main: Takes no argument.
        command: The module whose docstring and flags --help shows; None is the script itself.
    """

    def call(argv: list[str]) -> None:
        del argv  # Flags alone: flag_messages refuses anything else.
        absl_logging.set_verbosity(absl_logging.ERROR)
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
        try:
            main()
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read the output has enough of it, as `head` does.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except _EXPECTED_ERRORS as error:
            if flags.FLAGS.debug:
                raise
            flag_messages.fail(_said_by(error))
        except KeyboardInterrupt:
            sys.exit("interrupted; run the same command again to continue.")

    app.run(call, flags_parser=functools.partial(flag_messages.parse, command=command))


def _said_by(error: Exception) -> str:
    """Returns an error as a sentence; the system's own say what, but not what of."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}."
    return str(error) or type(error).__name__


def read_text(path: pathlib.Path) -> str:
    """Reads a file that a flag names.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is not UTF-8.
    """
    if not path.is_file():
        what = "is a directory, not a file" if path.is_dir() else "is not there"
        raise FileNotFoundError(f"{path} {what}; check the path.")
    try:
        # Some editors and Excel put a byte order mark first.
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8.") from error


def read_lines(path: pathlib.Path) -> list[str]:
    """Reads the lines of a file that a flag names, without the empty ones and outer blanks.

    Raises:
        As `read_text`.
    """
    # Not splitlines: JSON may hold U+2028 and other characters at which that ends a line.
    lines = [line.strip() for line in read_text(path).split("\n")]
    return [line for line in lines if line]


def print_json(value: Any) -> None:
    """Prints a value as one line of JSON."""
    print(json.dumps(value, default=str))


FORMAT_HELP = f"Layout of the log: {', '.join(convert.FORMATS)}."
flags.DEFINE_bool("debug", False, "Show the whole traceback of an error.")
