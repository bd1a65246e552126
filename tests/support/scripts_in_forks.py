"""Runs scripts as a person does, without the seconds that importing TensorFlow takes each time."""

import atexit
import functools
import json
import pathlib
import subprocess
import sys

from repository import ROOT

_RUNNER = pathlib.Path(__file__).with_name("script_runner.py")


@functools.cache
def _runner():
    process = subprocess.Popen(
        [sys.executable, str(_RUNNER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    atexit.register(process.kill)
    return process


def run(name, *flags):
    """Runs scripts/NAME with flags; returns status and output as `subprocess.run` does.

    A program that is none of the scripts is named by its absolute path.
    """
    command = [str(name), *map(str, flags)]
    process = _runner()
    process.stdin.write(json.dumps(command) + "\n")
    process.stdin.flush()
    status, out, err = json.loads(process.stdout.readline())
    return subprocess.CompletedProcess(command, status, out, err)
