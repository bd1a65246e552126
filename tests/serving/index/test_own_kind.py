"""A kind of index of a user, which is that of docs/howto/own_index.md."""

import howto
import index_fixtures
import numpy as np
import pytest

from serving import index
from serving.index import ad_index
from serving.index.tuning import index_recall


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The current directory, with the module of the page."""
    howto.write("own_index", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def test_an_own_kind_is_built_tuned_saved_and_searched(tmp_path):
    embeddings = index_fixtures.clustered(3000)
    config = index.IndexConfig(kind="six_bits:SixBits", num_lists=50, num_probes=1)
    built = index.build_index(embeddings, config, tuning_queries=embeddings[::100])
    # Widened until recall no longer improves.
    assert built.searcher.search_parameters()["num_probes"] > 1
    entry = built.manifest_index(1.0)
    assert (entry["kind"], entry["build"]) == ("six_bits:SixBits", {"factory": "IVF50,SQ6"})
    saved = ad_index.AdIndex.open(index_fixtures.save(built, tmp_path), entry)
    assert saved.kind == "six_bits:SixBits"
    recall = index_recall.recall_against_exact(saved, embeddings, index_fixtures.clustered(60), 500)
    # 6 bits do not order the ads exactly.
    assert 0.9 < recall < 1.0


def test_filters_of_an_own_kind_are_exact(tmp_path):
    embeddings = index_fixtures.clustered(3000)
    built = index.build_index(embeddings, index.IndexConfig(kind="six_bits:SixBits"))
    allowed = index.RowSet.of_rows(np.arange(0, 3000, 7), 3000)
    _, rows = built.searcher.search(index_fixtures.clustered(5), 100, allowed)
    assert rows.shape == (5, 100)
    assert not (rows % 7).any()


def kind_of(factory, **methods):
    """Offers a kind with this factory string as an attribute of this module."""
    methods.setdefault("factory", lambda self, config, num_ads, dimension: factory)
    globals()["Own"] = type("Own", (index.IndexKind,), methods)
    return index.IndexConfig(kind=f"{__name__}:Own")


@pytest.mark.parametrize(
    ("factory", "is_exact"), [("Flat", True), ("SQ4", False), ("PCA16,Flat", False)]
)
def test_only_float_vectors_of_all_ads_are_exact(factory, is_exact, tmp_path):
    embeddings = index_fixtures.clustered(300)
    built = index.build_index(embeddings, kind_of(factory), tuning_queries=embeddings[:20])
    entry = built.manifest_index(1.0)
    assert (entry["kind"], entry["search"]) == (f"{__name__}:Own", {})
    saved = ad_index.AdIndex.open(index_fixtures.save(built, tmp_path), entry)
    assert saved.is_exact == built.searcher.is_exact == is_exact
    recall = index_recall.recall_against_exact(saved, embeddings, embeddings, 50)
    assert (recall > 0.999) == is_exact


class Rescoring(index.IndexKind):
    def factory(self, config, num_ads, dimension):
        return "SQ8,RFlat"


def test_an_own_kind_that_rescores_is_refused():
    config = index.IndexConfig(kind=f"{__name__}:Rescoring")
    with pytest.raises(ValueError, match=r"expected an index that does not rescore, got 'SQ8,R"):
        index.build_index(index_fixtures.clustered(100), config)


def test_a_class_is_a_kind_and_other_names_are_refused():
    assert index.IndexConfig(kind=Rescoring).kind == f"{__name__}:Rescoring"
    with pytest.raises(ValueError, match=r"Unknown index kind 'ivf'; .* Did you mean 'IVF'\?"):
        index.IndexConfig(kind="ivf")
    with pytest.raises(ValueError, match=r"expected a subclass of serving.index.IndexKind, got"):
        index.IndexConfig(kind="collections:Counter")
