"""What a person meets who asks for --help, or mistypes a flag.

Messages go to standard error as one line; `error:` is red on a terminal, unless NO_COLOR
(https://no-color.org) is set.
"""

import difflib
import os
import re
import sys
from types import ModuleType
from typing import NoReturn

from absl import flags

from tfrecords import terminal

_HELP = {"--help", "-help", "-h", "--helpshort", "-helpshort", "-?"}
# How absl says that a value is none of a flag's.
_ILLEGAL = re.compile(r"flag --(?P<name>\w+)=(?P<value>.*?): (?P<why>.*)", re.DOTALL)


def parse(argv: list[str], command: ModuleType | None = None) -> list[str]:
    """Parses the command line, as `app.run` asks it; leaves with a message if it is wrong.

    Args:
        argv: The command line, the script first.
        command: The module that --help is about; None is the script itself.

    Returns:
        The script alone.
    """
    if _HELP & set(argv[1:]):
        print(help_text(command))
        sys.exit(0)
    try:
        rest = flags.FLAGS(argv)[1:]
    except flags.Error as error:
        fail(said_of(error))
    if rest:
        fail(of_argument(rest[0]))
    return argv[:1]


def fail(message: str) -> NoReturn:
    """Leaves with a message and exit status 1."""
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    sys.exit(f"{chr(27)}[31merror:{chr(27)}[0m {message}" if colour else f"error: {message}")


def help_text(command: ModuleType | None = None) -> str:
    """Returns the docstring of a command, with its examples, and its flags."""
    about = ((command or sys.modules["__main__"]).__doc__ or "").strip()
    shown = flags.FLAGS.module_help(command) if command else flags.FLAGS.main_module_help()
    return f"{about}\n\nFlags:{shown}"


def said_of(error: flags.Error) -> str:
    """Returns what was wrong with a flag, what was expected and what may have been meant."""
    if isinstance(error, flags.UnrecognizedFlagError):
        return f"Unknown flag --{error.flagname}.{_close_flag(error.flagname)} See --help."
    parsed = _ILLEGAL.match(str(error))
    if not parsed or parsed["name"] not in flags.FLAGS:
        return _sentence(str(error))
    name, value = parsed["name"], parsed["value"]
    flag = flags.FLAGS[name]
    if flag.value is None and "must have a value" in parsed["why"]:
        return f"Give --{name}=…: {flag.help}"
    known = getattr(flag.parser, "enum_values", None)
    if known:
        hint = terminal.suggestion_for(value, known)
        return f"--{name}: expected one of {', '.join(known)}, got {value!r}.{hint}"
    expected = flag.parser.syntactic_help or "another value"
    if flag.boolean:
        expected = f"--{name} or --no{name}"
    return f"--{name}: expected {expected}, got {value!r}."


def of_argument(argument: str) -> str:
    """Returns what is wrong with an argument that is no flag."""
    name = argument.partition("=")[0]
    hint = f" Did you mean --{argument}?" if name in flags.FLAGS else ""
    return f"Unexpected argument {argument!r}; options start with --.{hint} See --help."


def _close_flag(name: str) -> str:
    known = list(flags.FLAGS)
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    if not found and name.startswith("no"):
        found = [f"no{own}" for own in difflib.get_close_matches(name[2:], known, n=1, cutoff=0.7)]
    return f" Did you mean --{found[0]}?" if found else ""


def _sentence(text: str) -> str:
    text = text.strip().splitlines()[0]
    return text if text.endswith(".") else f"{text}."
