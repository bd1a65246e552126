"""Help and error messages of the command line.

Errors go to standard error as one line; `error:` is red on a terminal, unless NO_COLOR
(https://no-color.org) is set.
"""

import difflib
import math
import os
import re
import sys
from types import ModuleType
from typing import NoReturn

from absl import flags

from serving.cli import config_flags
from tfrec import config
from tfrecords import terminal

HELP = ("--help", "-help", "-h", "--helpshort", "-helpshort", "--helpfull", "-helpfull", "-?")
# absl's message for an invalid value of a flag.
_ILLEGAL = re.compile(r"flag --(?P<name>\w+)=(?P<value>.*?): (?P<why>.*)", re.DOTALL)
# Commands with a flag for each option of a model; `tfrec train` has only some of them.
_OPTIONS_OF_MODELS = {
    "tfrec train_retrieval": config.RetrievalConfig,
    "tfrec train_ranker": config.RankerConfig,
}


def parse(argv: list[str], command: ModuleType, known_only: bool = False) -> list[str]:
    """Parses the command line; exits after printing help or an error message.

    Args:
        argv: Command line, including the program.
        command: Module whose docstring and flags --help shows.
        known_only: Whether to return unknown arguments instead of refusing them.

    Returns:
        The program and the unknown arguments.
    """
    if set(HELP) & set(argv[1:]):
        print(help_text(command))
        sys.exit(0)
    # Allows flags after other arguments.
    flags.FLAGS.set_gnu_getopt()
    try:
        rest = flags.FLAGS(argv, known_only=known_only)
    except flags.Error as error:
        fail(message_of(error))
    if rest[1:] and not known_only:
        fail(unknown_argument(rest[1]))
    for name, value in flags.FLAGS.flag_values_dict().items():
        if isinstance(value, float) and not math.isfinite(value):
            fail(f"--{name}: expected a finite number, got {value}.")
    return rest


def fail(message: str) -> NoReturn:
    """Exits with a message and status 1."""
    color = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    sys.exit(f"{chr(27)}[31merror:{chr(27)}[0m {message}" if color else f"error: {message}")


def help_text(command: ModuleType) -> str:
    """Returns the docstring and the flags of a command."""
    # The first line of absl's text is the name of the module.
    shown = flags.FLAGS.module_help(command).lstrip("\n").partition("\n")[2]
    return f"{(command.__doc__ or '').strip()}\n\nFlags:\n{shown}"


def message_of(error: flags.Error) -> str:
    """Returns the message for a flag error: the problem, the expected value, and a suggestion."""
    if isinstance(error, flags.UnrecognizedFlagError):
        return unknown_argument(f"--{error.flagname}")
    parsed = _ILLEGAL.match(str(error))
    if not parsed or parsed["name"] not in flags.FLAGS:
        text = str(error).strip().splitlines()[0]
        return text if text.endswith(".") else f"{text}."
    name, value = parsed["name"], parsed["value"]
    flag = flags.FLAGS[name]
    if flag.value is None and "must have a value" in parsed["why"]:
        return f"--{name} is required: {flag.help}"
    known = getattr(flag.parser, "enum_values", None)
    if known:
        hint = terminal.suggestion_for(value, known)
        return f"--{name}: expected one of {', '.join(known)}, got {value!r}.{hint}"
    expected = flag.parser.syntactic_help or "another value"
    if flag.boolean:
        expected = f"--{name} or --no{name}"
    return f"--{name}: expected {expected}, got {value!r}."


def with_dashes(message: str) -> str:
    """Returns the message of a library with dashes before the names of flags that it begins with.

    Libraries name the arguments of their functions, such as `query_tower: expected …`.
    """
    start, colon, rest = message.partition(": ")
    names = start.split(" and ")
    # absl's own flags have names that fields may have, such as `v`.
    modules = [str(flags.FLAGS.find_module_defining_flag(name, "absl")) for name in names]
    if not colon or any(module.startswith("absl") for module in modules):
        return message
    return f"{' and '.join(f'--{name}' for name in names)}: {rest}"


def unknown_argument(argument: str) -> str:
    """Returns the message for an unexpected argument or an unknown flag."""
    name = argument.partition("=")[0]
    if name.startswith("-"):
        name = name.lstrip("-")
        return f"Unknown flag --{name}.{_owners(name) or _close_flag(name)} See --help."
    hint = f" Did you mean --{argument}?" if name in flags.FLAGS else ""
    return f"Unexpected argument {argument!r}; options start with --.{hint} See --help."


def _owners(name: str) -> str:
    owners = [
        command
        for command, options in _OPTIONS_OF_MODELS.items()
        if name in config_flags.options_of(options)
    ]
    return f" It is a flag of {' and '.join(owners)}." if owners else ""


def _close_flag(name: str) -> str:
    known = list(flags.FLAGS)
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    if not found and name.startswith("no"):
        found = [f"no{hit}" for hit in difflib.get_close_matches(name[2:], known, n=1, cutoff=0.7)]
    return f" Did you mean --{found[0]}?" if found else ""
