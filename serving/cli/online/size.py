"""Estimates the machines, memory and network that a deployment needs.

    tfrec size --ads=10000000 --rps=10000 --users=50000000
    tfrec size --ads=1000000 --rps=100 --machine_cores=8 --machine_gb=32

Prints one line per figure, which says whether the figure was measured or calculated, and from what.
The default constants were measured on one machine with two slow cores. To use your own, measure
them with `scripts/benchmarks/http_service.py --constants=FILE`, and pass the file as --constants.
See docs/sizing.md. --json prints the figures as JSON.
"""

import pathlib

import numpy as np
from absl import flags

from serving.cli import command_line
from tfrecords import terminal

# The bounds exceed any deployment; beyond them, figures become unreadable, and then infinite.
flags.DEFINE_integer("ads", 1_000_000, "Number of ads.", 1, 10**12)
flags.DEFINE_float("rps", 100.0, "Number of requests per second, at the peak.", 0.0, 1e9)
flags.DEFINE_integer("users", 0, "Number of users in a user store; 0: none.", 0, 10**12)
flags.DEFINE_integer("machine_cores", 32, "Number of cores of a machine.", 1, 10**6)
flags.DEFINE_float("machine_gb", 128.0, "Memory of a machine, in 10^9 bytes.", 1.0, 1e9)
flags.DEFINE_string("constants", None, "File of measured constants; default: the package's.")
flags.DEFINE_bool("json", False, "Print the figures as JSON.")
FLAGS = flags.FLAGS
_PREFIXES = ("", "k", "M", "G", "T", "P")


def main() -> None:
    from serving import operations

    constants = operations.MeasuredConstants.load(
        pathlib.Path(FLAGS.constants) if FLAGS.constants else None
    )
    machine = operations.Machine(FLAGS.machine_cores, FLAGS.machine_gb * 1e9)
    figures = operations.size_deployment(constants, FLAGS.ads, FLAGS.rps, FLAGS.users, machine)
    if FLAGS.json:
        command_line.print_json([vars(figure) for figure in figures])
        return
    print(
        f"{FLAGS.ads:,} ads, {FLAGS.rps:,.15g} requests/s, {FLAGS.users:,} users; machines of "
        f"{FLAGS.machine_cores} cores and {FLAGS.machine_gb:,.15g} GB"
    )
    rows = [(f.part, f.name, _text(f.value, f.unit), f"{f.source}: {f.how}") for f in figures]
    print(terminal.text_table(("part", "figure", "value", "source"), rows, left=(0, 1, 3)))
    drivers = operations.cost_drivers(figures)
    print("cost: " + ", ".join(f"{part} {share:.0%} of the machines" for part, share in drivers))
    cores = sum(figure.value for figure in figures if figure.name == "cores")
    if cores <= machine.cores and not any(figure.part == "Milvus" for figure in figures):
        print(
            f"One machine has enough cores for everything ({_digits(cores, 2)}); a second one is a "
            "spare."
        )
    print(f"measured on {constants.machine}, {constants.date}, by {constants.command}")


def _text(value: float, unit: str) -> str:
    """Returns a value with its unit: three digits, and B with a prefix."""
    if not unit:
        return _digits(value, 2)
    power = 0
    while unit == "B" and value >= 999.5 and power < len(_PREFIXES) - 1:
        value, power = value / 1000, power + 1
    return f"{_digits(value, 3)} {_PREFIXES[power]}{unit}"


def _digits(value: float, digits: int) -> str:
    """Returns a value with at least `digits` significant digits, and no exponent."""
    if value >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return np.format_float_positional(value, digits, fractional=False, trim="-")
