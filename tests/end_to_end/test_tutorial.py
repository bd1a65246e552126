"""The tutorial runs from its first cell to its last, and its outputs are committed."""

import lessons
import nbformat
import pytest
from repository import ROOT

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
# Slow parts of the notebook -> replacements in the test, which do not change the kind of any
# output.
SMALLER = {
    "num_views, shown = 500, 1_000, 5_000, 8": "num_views, shown = 100, 300, 600, 8",
    "epochs=10,": "epochs=1, refit=False,",
    "epochs=4,": "epochs=1,",
    "tfrec.EvaluationConfig(resamples=50)": "tfrec.EvaluationConfig(resamples=5)",
    # Fewer lessons of the towers and no graph optimization, as in tiny_models.
    "print(tfrec.__doc__.splitlines()[0])": f"""
import gc
import tensorflow as tf
from tfrec.retrieval import distillation
vars(distillation).update({lessons.FEW})
tf.config.optimizer.set_experimental_options({{"disable_meta_optimizer": True}})
gc.freeze()
gc.set_threshold(20_000, 20, 20)
print("tfrec")
""",
}
PLOTS = 7  # data card, epochs of both stages, map, calibration, funnel, index, stage times


def kinds(cell):
    """Returns the kinds of a cell's outputs: the name of a stream, or the types of a figure."""
    return {output.get("name") or tuple(sorted(output["data"])) for output in cell.outputs}


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def committed():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    return notebook


def test_the_committed_outputs_come_from_a_complete_run_without_machine_paths(committed, script):
    numbers = [cell.execution_count for cell in code_cells(committed)]
    assert numbers == list(range(1, len(numbers) + 1))
    figures = [
        output
        for cell in code_cells(committed)
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(figures) == PLOTS
    outputs = [output for cell in code_cells(committed) for output in cell.outputs]
    assert not [output for output in outputs if "ename" in output or output.get("name") == "stderr"]
    assert script("run_tutorial").machine_paths(committed) == []


def test_machine_paths_in_outputs_are_found(script):
    notebook = nbformat.v4.new_notebook()
    cell = nbformat.v4.new_code_cell("x")
    cell.outputs = [nbformat.v4.new_output("stream", text="saved in /tmp/abc/x.png\nsee /v1/ads")]
    notebook.cells.append(cell)
    assert script("run_tutorial").machine_paths(notebook) == ["/tmp/abc/x.png"]


@pytest.mark.process
def test_a_run_has_the_committed_kinds_of_output(committed, script, tmp_path, monkeypatch):
    # Where the notebook creates its directory.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    fresh = nbformat.read(NOTEBOOK, as_version=4)
    for cell in code_cells(fresh):
        cell.outputs = []
    for asked, smaller in SMALLER.items():
        (cell,) = [cell for cell in code_cells(fresh) if asked in cell.source]
        cell.source = cell.source.replace(asked, smaller)
    done = script("run_tutorial").run(fresh, 300)
    for ours, theirs in zip(code_cells(done), code_cells(committed), strict=True):
        assert kinds(ours) == kinds(theirs), ours.source
