"""Runs scripts that only read their flags, many in the time of one.

TensorFlow is imported once, in the process that runs this file; each script then runs in a fork
of it, as `python scripts/NAME.py FLAGS` would. Reads command lines as JSON from standard input,
[[script, flag, …], …], and prints [[exit status, standard output, standard error], …].
"""

import json
import os
import pathlib
import runpy
import sys
import tempfile
import traceback

SCRIPTS = pathlib.Path(__file__).resolve().parents[1] / "scripts"


def run(command: list[str], out: int, err: int) -> int:
    """Runs a script in a fork, its output going to open files; returns its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.dup2(out, 1)
    os.dup2(err, 2)
    status = 70
    try:
        sys.argv = [str(SCRIPTS / command[0]), *command[1:]]
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
    sys.path.insert(0, str(SCRIPTS))
    # What takes seconds to import.
    import peer_models  # noqa: F401
    import pipeline  # noqa: F401
    import uvicorn  # noqa: F401

    from serving import app  # noqa: F401

    results = []
    for command in json.load(sys.stdin):
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            status = run(command, out.fileno(), err.fileno())
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
            results.append([status, *texts])
    print(json.dumps(results))


if __name__ == "__main__":
    main()
