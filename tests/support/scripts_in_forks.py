"""Runs scripts as a person does, without the seconds that importing TensorFlow takes each time."""

import atexit
import functools
import json
import os
import pathlib
import subprocess
import sys

from repository import ROOT

_RUNNER = pathlib.Path(__file__).with_name("script_runner.py")


class Runner:
    """A process whose forks run scripts.

    Args:
        **environment: Environment variables, in addition to those of this process.
    """

    def __init__(self, **environment):
        self.process = subprocess.Popen(
            [sys.executable, str(_RUNNER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment},
        )
        atexit.register(self.process.kill)

    def run(self, name, *flags):
        """Runs scripts/NAME with flags; returns status and output as `subprocess.run` does.

        `name` is an absolute path for other programs.
        """
        command = [str(name), *map(str, flags)]
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        status, out, err = json.loads(self.process.stdout.readline())
        return subprocess.CompletedProcess(command, status, out, err)


@functools.cache
def _runner():
    return Runner()


def run(name, *flags):
    """Runs scripts/NAME with flags in a fork of a process that all tests of a worker share."""
    return _runner().run(name, *flags)
