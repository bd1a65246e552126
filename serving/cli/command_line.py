"""Runs a command: parses its flags and reports errors as one line."""

import contextlib
import errno
import functools
import io
import json
import logging
import os
import pathlib
import pwd
import re
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging

import tfrec  # noqa: F401  (first: it selects Keras 2 and lets TensorFlow start quietly)
from serving import errors
from serving.cli import flag_messages
from tfrecords import files, plugins

flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.EEXIST: "move it, or use another path",
    errno.EISDIR: "expected a file; check the path",
    errno.ENOTDIR: "part of the path is a file; check the path",
    errno.EROFS: "make it writable, or use another path",
    **dict.fromkeys(files.DISK_FULL, "free some space, and run the same command again"),
}
# The name of an operation in an error of TensorFlow.
_OPERATION = re.compile(r"\{\{function_node \S+\}\}|\[Op:\w+\]( name:)?")
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
        except SystemExit as error:
            place = plugins.place_of(error)
            if place is None or error.code == 128 + signal.SIGTERM:
                raise
            flag_messages.fail(
                f"Your class ended the process with status {error.code or 0}; expected a result or "
                f"an exception. Raise a ValueError instead.\n  ({place})"
            )
        except Exception as error:
            is_expected = isinstance(error, _EXPECTED_ERRORS) or files.is_disk_full(error)
            if flags.FLAGS.debug or not is_expected:
                raise
            flag_messages.fail(_message_of(error))

    parse = functools.partial(
        flag_messages.parse, command=command, known_only=other_flags is not None
    )
    with silent_if_output_is_closed():
        app.run(call, flags_parser=parse)


def address_of_flag(name: str) -> str | None:
    """Returns the address of a flag, or of the environment variable TFREC_NAME, if there is one.

    An address may contain a password, and all users of the machine can see a flag.
    """
    return flags.FLAGS[name].value or os.environ.get(f"TFREC_{name.upper()}") or None


@contextlib.contextmanager
def silent_if_output_is_closed() -> Iterator[None]:
    """Exits with status 1 if the reader of the output closes it in the block, as `head` does.

    If the disk of the output is full, an error says so.

    Output that is closed at the start, as by `>&-`, goes to the null device. Otherwise, the next
    opened file would get its descriptor, and with it the output of libraries.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The terminal's encoding may lack characters of a report.
        sys.stdout.reconfigure(errors="replace")
    try:
        try:
            yield
        finally:
            # At exit, Python would report output that cannot be written.
            sys.stdout.flush()
    except OSError as error:
        is_closed = isinstance(error, BrokenPipeError)
        shows_traceback = flags.FLAGS.is_parsed() and flags.FLAGS.debug
        if not is_closed and (shows_traceback or not files.is_disk_full(error)):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not is_closed:
            flag_messages.fail(_message_of(error))
        sys.exit(1)


@contextlib.contextmanager
def require_extra(extra: str) -> Iterator[None]:
    """Exits with the command that installs an extra if an import in the block fails.

    Args:
        extra: Name of the extra of this distribution.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        sys.exit(
            f"error: This command needs {error.name}, which is not installed. Install the extra "
            f"{extra!r}: {sys.executable} -m pip install -c constraints.txt -e '.[{extra}]'"
        )


def read_text(path: pathlib.Path) -> str:
    """Reads a text file given by a flag.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not UTF-8.
    """
    # Not `is_file`: the shell's `<(COMMAND)` is the path of a pipe.
    if path.is_dir() or not path.exists():
        problem = "is a directory, not a file" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {problem}; check the path.")
    try:
        # Excel and some editors start a file with a byte order mark.
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8.") from error


def read_lines(path: pathlib.Path) -> list[str]:
    """Reads the non-empty lines of a text file given by a flag, stripped.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not UTF-8.
    """
    # `splitlines` would also split at U+2028 and other characters that JSON may contain.
    lines = [line.strip() for line in read_text(path).split("\n")]
    return [line for line in lines if line]


def json_of_flag(name: str) -> dict[str, Any] | None:
    """Returns the JSON object of a flag, given as text or as a file; None if the flag is not set.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The value is not a JSON object.
    """
    text = flags.FLAGS[name].value
    if text is None:
        return None
    expected = "a JSON object or a file with one"
    if not text.lstrip().startswith(("{", "[")):
        try:
            text = read_text(pathlib.Path(text))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"--{name}: expected {expected}, but {error}") from error
    found = parse_json(text, f"--{name}", expected)
    if not isinstance(found, dict):
        raise ValueError(f"--{name}: expected a JSON object, got {found!r}.")
    return found


def parse_json(text: str, place: str, expected: str) -> Any:
    """Returns the value of a JSON text; `place` and `expected` are for the error message.

    Raises:
        ValueError: The text is not valid JSON.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{place}: expected {expected}, got invalid JSON ({error}).") from error


def print_json(value: Any) -> None:
    """Prints a value as one line of JSON."""
    print(json.dumps(value, default=str))


def _terminate(number: int, frame: object) -> NoReturn:
    """Ends the command like Ctrl-C, with the exit status that shells give to the signal."""
    # The next signal ends the process even where Python ignores an exception.
    signal.signal(number, signal.SIG_DFL)
    # The signal may have interrupted a print, which cannot be called again within itself.
    with contextlib.suppress(OSError):
        os.write(2, b"Terminated. Run the same command again to continue.\n")
    sys.exit(128 + number)


def _remedy_of_access(path: pathlib.Path) -> str:
    """Returns who runs this command, who owns the path or its directory, and what to do."""
    existing = next(found for found in (path, *path.absolute().parents) if os.path.exists(found))
    return (
        f" This command runs as the account {_account(os.geteuid())}, and {existing} belongs to "
        f"{_account(existing.stat().st_uid)}. Run it as an account that has access, or change the "
        "permissions."
    )


def _account(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _message_of(error: Exception) -> str:
    """Returns the message of an error, with the location if a plugin raised it."""
    message = flag_messages.with_dashes(str(error)) or type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.filename:
        remedy = _REMEDIES.get(error.errno or 0)
        message = f"{error.filename}: {error.strerror}{f'; {remedy}' if remedy else ''}."
        if isinstance(error, PermissionError) and isinstance(error.filename, str):
            message += _remedy_of_access(pathlib.Path(error.filename))
    elif not isinstance(error, _EXPECTED_ERRORS) or getattr(error, "errno", None) == errno.ENOSPC:
        # Errors of TensorFlow and Arrow. TensorFlow's may have several lines.
        message = " ".join(_OPERATION.sub("", message).split())
        message = f"The disk is full ({message}). Free some space, and run the same command again."
    place = plugins.place_of(error)
    return message if place is None else f"{message}\n  ({place}; --debug shows the traceback)"
