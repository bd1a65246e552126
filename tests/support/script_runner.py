"""Runs many scripts with a single import of TensorFlow.

Each script runs as `python scripts/NAME.py FLAGS` would, but in a fork of the process that runs
this file, which has imported the slow modules and used none of them. Each line of the standard
input is a command line as JSON, [script, flag, …]; the reply is a line of JSON, [exit status,
standard output, standard error]. The forkserver of `multiprocessing`, which forks the fresh
processes of benchmarks, is itself such a fork.
"""

import gc
import itertools
import json
import os
import pathlib
import runpy
import signal
import sys
import tempfile
import traceback
from multiprocessing import forkserver, resource_tracker, util

from repository import SCRIPTS

import tfrec  # noqa: F401  (first: it selects Keras 2)

import lessons  # isort: skip
import tensorflow as tf  # isort: skip

SECONDS = 500


def run(command: list[str], out: int, err: int) -> int:
    """Runs a script in a fork, its output going to open files; returns its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    signal.alarm(SECONDS)
    # The forkserver is running. A fork cannot check it, because it is a child of the parent.
    forkserver._forkserver.ensure_running = lambda: None
    status = 70
    try:
        sys.argv = [str(SCRIPTS / command[0]), *command[1:]]
        sys.path.insert(0, str(pathlib.Path(sys.argv[0]).parent))
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
        if isinstance(left.code, str):
            print(left.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def start_forkserver() -> None:
    """Starts the forkserver in a fork, because a new interpreter would import TensorFlow again."""

    def fork(_program: str, arguments: list[str], descriptors: list[int]) -> int:
        child = os.fork()
        if not child:
            for low, high in itertools.pairwise([2, *sorted(descriptors), 1_024]):
                os.closerange(low + 1, high)
            try:
                exec(arguments[-1])
            finally:
                os._exit(0)
        return child

    resource_tracker.ensure_running()
    new_program, util.spawnv_passfds = util.spawnv_passfds, fork
    forkserver.ensure_running()
    util.spawnv_passfds = new_program


def main() -> None:
    # These take seconds to import.
    import lightgbm  # noqa: F401
    import sklearn  # noqa: F401
    import uvicorn  # noqa: F401

    from serving import export, operations, service  # noqa: F401

    # As in tiny_models.py: graph optimization and lessons would take most of the time.
    lessons.give(lessons.FEW)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    # Forks do not collect garbage among the objects that they share.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    # Processes of the forkserver print to standard error, not between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    start_forkserver()
    for line in sys.stdin:
        command = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            status = run(command, out.fileno(), err.fileno())
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
        print(json.dumps([status, *texts]), file=answers, flush=True)


if __name__ == "__main__":
    main()
