"""Runs all cells of docs/tutorial.ipynb and stores their outputs.

    python scripts/docs/run_tutorial.py
    python scripts/docs/run_tutorial.py --output=/tmp/tutorial.ipynb

Takes a minute or two on two cores. Fails if a cell fails or if an output contains a path of the
machine. Execution times are not stored. Needs the extra `test` (nbclient, nbformat, ipykernel).
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
flags.DEFINE_string(
    "output", None, "File for the notebook with its outputs; default: the notebook."
)
flags.DEFINE_integer("timeout_seconds", 600, "Maximum time of a cell, in seconds.", lower_bound=1)
FLAGS = flags.FLAGS

ROOT = pathlib.Path(__file__).resolve().parents[2]
# An absolute path of more than one part, as in a traceback or a temporary directory.
_PATH = re.compile(r"(?<![\w:/.<])/(?:tmp|home|root|usr|var|opt|Users|work|private|mnt)/[\w.\-/]+")


def main() -> None:
    path = pathlib.Path(FLAGS.notebook)
    done = run(nbformat.read(path, as_version=4), FLAGS.timeout_seconds)
    found = machine_paths(done)
    if found:
        raise ValueError(
            f"{path}: an output contains the path {found[0]}; expected none. Do not print paths."
        )
    target = pathlib.Path(FLAGS.output or path)
    nbformat.write(done, target)
    print(f"{sum(cell.cell_type == 'code' for cell in done.cells)} code cells run: {target}")


def run(notebook: nbformat.NotebookNode, timeout_seconds: int) -> nbformat.NotebookNode:
    """Runs a notebook in a separate kernel.

    Raises:
        ValueError: A cell fails.
    """
    # The kernel imports this tree even if tfrec is installed, and TensorFlow logs only errors.
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "TF_USE_LEGACY_KERAS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    # Unix sockets, so that other users of the machine cannot connect to the kernel.
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
        raise ValueError(f"A cell of the notebook failed: {error}") from error
    return notebook


def machine_paths(notebook: nbformat.NotebookNode) -> list[str]:
    """Returns the absolute paths that outputs contain."""
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
