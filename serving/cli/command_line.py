"""Runs a command: parses its flags, and reports an expected error as one line."""

import contextlib
import json
import logging
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging

import tfrec  # noqa: F401  (first: it selects Keras 2 and lets TensorFlow start quietly)
from serving import errors
from tfrecords import files, plugins

flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
HELP = ("--help", "-help", "-h", "--helpshort", "--helpfull")
_EXPECTED_ERRORS = (ValueError, OSError, FloatingPointError, errors.ServingError)


def run(main: Callable[[], None], other_flags: list[str] | None = None) -> None:
    """Parses the flags and runs `main`; an expected failure is one line and exit status 1.

    Args:
        main: Main function of the command's module, whose docstring and flags --help shows.
        other_flags: List that receives the arguments that are not flags of the command. None: such
            arguments are refused.
    """
    command = sys.modules[main.__module__]

    def call(argv: list[str]) -> None:
        if other_flags is not None:
            other_flags[:] = argv[1:]
        signal.signal(signal.SIGTERM, _terminate)
        absl_logging.set_verbosity(absl_logging.ERROR)
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
        try:
            main()
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except KeyboardInterrupt:
            sys.exit("Interrupted. Run the same command again to continue.")
        except Exception as error:
            is_expected = isinstance(error, _EXPECTED_ERRORS) or files.is_disk_full(error)
            # An error of a user's own class needs its traceback.
            if flags.FLAGS.debug or not is_expected or plugins.place_of(error):
                raise
            fail(_message_of(error))

    try:
        app.run(call, flags_parser=lambda argv: _parse(argv, command, other_flags is not None))
    except BrokenPipeError:
        # The reader of the output has closed it, as `head` does. At exit, Python would report what
        # cannot be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def fail(message: str) -> NoReturn:
    """Exits with a message and status 1."""
    sys.exit(f"error: {message}")


def address_of_flag(name: str) -> str | None:
    """Returns the address of a flag, or of the environment variable TFREC_NAME, if there is one.

    An address may contain a password, and all users of the machine can see a flag.
    """
    return flags.FLAGS[name].value or os.environ.get(f"TFREC_{name.upper()}") or None


@contextlib.contextmanager
def require_extra(extra: str) -> Iterator[None]:
    """Exits with the command that installs an extra if an import in the block fails.

    Args:
        extra: Name of the extra of this distribution.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        fail(
            f"This command needs {error.name}, which is not installed. Install the extra "
            f"{extra!r}: {sys.executable} -m pip install -c constraints.txt -e '.[{extra}]'"
        )


def read_lines(path: pathlib.Path) -> list[str]:
    """Reads the non-empty lines of a UTF-8 text file, stripped."""
    # `splitlines` would also split at U+2028 and other characters that JSON may contain.
    lines = [line.strip() for line in read_text(path).split("\n")]
    return [line for line in lines if line]


def read_text(path: pathlib.Path) -> str:
    """Reads a UTF-8 text file."""
    try:
        # Excel and some editors start a file with a byte order mark.
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8.") from error


def json_of_flag(name: str) -> dict[str, Any] | None:
    """Returns the JSON object of a flag, given as text or a file; None if the flag is not set."""
    text = flags.FLAGS[name].value
    if text is None:
        return None
    if not text.lstrip().startswith(("{", "[")):
        text = read_text(pathlib.Path(text))
    found = parse_json(text, f"--{name}", "a JSON object or a file with one")
    if not isinstance(found, dict):
        raise ValueError(f"--{name}: expected a JSON object, got {found!r}.")
    return found


def parse_json(text: str, place: str, expected: str) -> Any:
    """Returns the value of a JSON text; `place` and `expected` are for the error message."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{place}: expected {expected}, got invalid JSON ({error}).") from error


def print_json(value: Any) -> None:
    """Prints a value as one line of JSON."""
    print(json.dumps(value, default=str))


def _parse(argv: list[str], command: ModuleType, known_only: bool) -> list[str]:
    """Returns the program and the arguments that are not flags; exits after help or an error."""
    if set(HELP) & set(argv[1:]):
        # The first line of absl's text is the name of the module.
        shown = flags.FLAGS.module_help(command).lstrip("\n").partition("\n")[2]
        print(f"{(command.__doc__ or '').strip()}\n\nFlags:\n{shown}", flush=True)
        sys.exit(0)
    # Allows flags after other arguments.
    flags.FLAGS.set_gnu_getopt()
    try:
        rest = flags.FLAGS(argv, known_only=known_only)
    except flags.Error as error:
        fail(f"{str(error).strip()} See --help.")
    if rest[1:] and not known_only:
        fail(f"Unexpected argument {rest[1]!r}; options start with --. See --help.")
    return rest


def _terminate(number: int, frame: object) -> NoReturn:
    """Ends the command like Ctrl-C, with the exit status that shells give to the signal."""
    # The next signal ends the process even where Python ignores an exception.
    signal.signal(number, signal.SIG_DFL)
    # The signal may have interrupted a print, which cannot be called again within itself.
    with contextlib.suppress(OSError):
        os.write(2, b"Terminated. Run the same command again to continue.\n")
    sys.exit(128 + number)


def _message_of(error: Exception) -> str:
    if files.is_disk_full(error):
        # Errors of TensorFlow and Arrow may have several lines.
        text = " ".join(str(error).split())
        return f"The disk is full ({text}). Free some space, and run the same command again."
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}. Check the path and its permissions."
    return str(error) or type(error).__name__
