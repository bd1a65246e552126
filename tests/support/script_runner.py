"""Runs many scripts with a single import of TensorFlow.

Each script runs as `python scripts/NAME.py FLAGS` would, but in a fork of the process that runs
this file, which has imported the slow modules and used none of them. Each line of the standard
input is a command line as JSON, [script, flag, …]; the reply is a line of JSON, [exit status,
standard output, standard error]. The fresh processes of all benchmarks are forks of one forkserver
of `multiprocessing`, which imports TensorFlow once more.
"""

import gc
import json
import os
import pathlib
import runpy
import signal
import sys
import tempfile
import traceback
from multiprocessing import forkserver

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
    # As in tests/conftest.py: graph optimization and lessons would take most of the time.
    lessons.give(lessons.FEW)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
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


def main() -> None:
    # These take seconds to import.
    import lightgbm  # noqa: F401
    import sklearn  # noqa: F401
    import uvicorn  # noqa: F401

    from serving import export, operations, service  # noqa: F401

    # Forks do not collect garbage among the objects that they share.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    # Processes of the forkserver print to standard error, not between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    forkserver.set_forkserver_preload(["tfrec", "serving.export", "serving.operations"])
    for line in sys.stdin:
        command = json.loads(line)
        if command[0].startswith("benchmarks/"):
            forkserver.ensure_running()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            status = run(command, out.fileno(), err.fileno())
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
        print(json.dumps([status, *texts]), file=answers, flush=True)


if __name__ == "__main__":
    main()
