"""A custom index is built again if the source of its class changes."""

import importlib
import json
import sys
import types

import logs
import pytest

from serving import export
from serving.export.steps import Steps
from serving.index import IndexConfig

KIND = """
from serving import index

class Bytes(index.IndexKind):
    def factory(self, config, num_ads, dimension):
        return "SQ8"
"""
OWN = "bytes_per_dimension:Bytes"
DATA_SET = types.SimpleNamespace(checksum="1", schema=logs.FEW_FIELDS)


class Stopped(Exception):
    pass


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """A pipeline whose steps stop before their work, and a dict of their inputs."""
    (tmp_path / "bytes_per_dimension.py").write_text(KIND)
    monkeypatch.delitem(sys.modules, "bytes_per_dimension", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    given = {}

    def once(self, step, title, inputs, *_, **__):
        given[step] = inputs
        raise Stopped

    monkeypatch.setattr(Steps, "once", once)
    monkeypatch.setattr(export.Pipeline, "_models_inputs", lambda *_: {})
    monkeypatch.setattr(export.Pipeline, "truth_of", lambda *_: None)
    return export.Pipeline(tmp_path / "work"), given


def inputs_of(steps, config):
    """Returns the inputs of an evaluation and an export."""
    pipeline, given = steps
    with pytest.raises(Stopped):
        pipeline.evaluate(DATA_SET, index_config=config)
    with pytest.raises(Stopped):
        pipeline.export(DATA_SET, None, config)
    return given.pop("evaluation"), given.pop("bundle")


def test_a_kind_whose_module_is_missing_is_named_without_advice_to_delete_the_note(steps):
    pipeline, _ = steps
    note = pipeline.workdir / "steps" / "bundle.json"
    note.parent.mkdir(parents=True)
    note.write_text(json.dumps({"inputs": {"index": {"kind": "lost_module:Kind"}}}))
    with pytest.raises(ValueError, match=r"bundle\.json: index kind .* or add it to PYTHONPATH\.$"):
        pipeline.export(DATA_SET, None)


def test_evaluation_and_export_depend_on_the_source_of_an_own_index(steps, tmp_path):
    own = IndexConfig(kind=OWN)
    before = inputs_of(steps, own)
    assert inputs_of(steps, own) == before
    (tmp_path / "bytes_per_dimension.py").write_text(f"{KIND}    # changed\n")
    importlib.reload(sys.modules["bytes_per_dimension"])
    for new, old in zip(inputs_of(steps, own), before, strict=True):
        assert new["index"] == old["index"]
        assert new["index_source"] != old["index_source"]
    for inputs in inputs_of(steps, IndexConfig(kind="Flat")):
        assert "index_source" not in inputs


def test_an_evaluation_uses_the_published_index_only_if_its_source_is_the_same(steps, tmp_path):
    pipeline, _ = steps
    own = IndexConfig(kind=OWN)
    assert pipeline._is_published(DATA_SET, None)
    assert not pipeline._is_published(DATA_SET, own)
    pipeline._steps.write_note("bundle", {"inputs": inputs_of(steps, own)[1]})
    assert pipeline._is_published(DATA_SET, None)
    assert pipeline._is_published(DATA_SET, own)
    assert not pipeline._is_published(DATA_SET, IndexConfig(kind="Flat"))
    (tmp_path / "bytes_per_dimension.py").write_text(f"{KIND}    # changed\n")
    importlib.reload(sys.modules["bytes_per_dimension"])
    assert not pipeline._is_published(DATA_SET, None)
    assert not pipeline._is_published(DATA_SET, own)
