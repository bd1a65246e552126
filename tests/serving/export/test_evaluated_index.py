"""The index that an evaluation measures."""

import types

import numpy as np
import pytest

from serving import index
from serving.export import evaluated_index, release_export


class Misspelled(index.IndexKind):
    def factory(self, config, num_ads, dimension):
        return "Flatt"


def test_an_own_kind_is_tried_before_anything_is_measured(monkeypatch):
    embeddings = np.zeros((2, 32), np.float32)
    monkeypatch.setattr(release_export, "query_embeddings", lambda *_: embeddings)
    data_set = types.SimpleNamespace(catalog=lambda: range(300))
    models = types.SimpleNamespace(two_tower=None)
    config = index.IndexConfig(kind=Misspelled)
    with pytest.raises(ValueError, match=r"Misspelled': expected a factory string of FAISS"):
        evaluated_index.opener(None, data_set, models, config, None)
