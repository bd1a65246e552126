"""Runs docs/tutorial.ipynb from its first cell and keeps the outputs of this run.

    python scripts/docs/run_tutorial.py
    python scripts/docs/run_tutorial.py --output=/tmp/tutorial.ipynb

A minute or two on two cores. A cell that fails is an error. What names the machine is left out:
times of execution, and outputs may hold no path of it, which is checked. Needs the extra `test`
(nbclient, nbformat, ipykernel).
"""

import os
import pathlib
import re

from absl import flags

from serving import cli

with cli.require_extra("test"):
    import nbclient
    import nbformat
    import traitlets.config

flags.DEFINE_string("notebook", "docs/tutorial.ipynb", "The notebook.")
flags.DEFINE_string("output", None, "Where it goes with its outputs; default: the notebook.")
flags.DEFINE_integer("timeout_seconds", 600, "Most time for one cell.", lower_bound=1)
FLAGS = flags.FLAGS

ROOT = pathlib.Path(__file__).resolve().parents[2]
# An absolute path of more than one part, as in a traceback or a temporary directory.
_PATH = re.compile(r"(?<![\w:/.<])/(?:tmp|home|root|usr|var|opt|Users|work|private|mnt)/[\w.\-/]+")


def main() -> None:
    path = pathlib.Path(FLAGS.notebook)
    done = run(nbformat.read(path, as_version=4), FLAGS.timeout_seconds)
    found = machine_paths(done)
    if found:
        raise ValueError(f"{path}: an output names the path {found[0]}; print no paths.")
    target = pathlib.Path(FLAGS.output or path)
    nbformat.write(done, target)
    print(f"{sum(cell.cell_type == 'code' for cell in done.cells)} code cells run: {target}")


def run(notebook: nbformat.NotebookNode, timeout_seconds: int) -> nbformat.NotebookNode:
    """Runs a notebook in a kernel of its own.

    Raises:
        ValueError: A cell fails.
    """
    # The kernel imports this tree, whatever is installed, and says nothing on its way.
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "TF_USE_LEGACY_KERAS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    # Over sockets of the file system: the kernel is heard by nobody else.
    private = traitlets.config.Config({"KernelManager": {"transport": "ipc"}})
    client = nbclient.NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=timeout_seconds,
        record_timing=False,
        config=private,
    )
    try:
        client.execute(env=environment)
    except nbclient.exceptions.CellExecutionError as error:
        raise ValueError(f"A cell of the notebook fails: {error}") from error
    return notebook


def machine_paths(notebook: nbformat.NotebookNode) -> list[str]:
    """Returns the paths of a machine that outputs name."""
    texts = [
        str(text)
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        for text in (output.get("text", ""), *output.get("data", {}).values())
        if not str(text).startswith("iVBOR")
    ]
    return [path for text in texts for path in _PATH.findall(text)]


if __name__ == "__main__":
    cli.run(main)
