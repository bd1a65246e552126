"""A user's own kind of index, as in docs/howto/own_index.md."""

import faiss
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
    assert saved.searcher.kind == "six_bits:SixBits"
    recall = index_recall.recall_against_exact(saved, embeddings, index_fixtures.clustered(60), 500)
    # 6 bits do not order the ads exactly.
    assert 0.9 < recall < 1.0


def test_filters_of_an_own_kind_are_exact(tmp_path):
    embeddings = index_fixtures.clustered(3000)
    built = index.build_index(embeddings, index.IndexConfig(kind="six_bits:SixBits"))
    allowed = index.RowSet.from_rows(np.arange(0, 3000, 7), 3000)
    _, rows = built.searcher.search(index_fixtures.clustered(5), 100, allowed)
    assert rows.shape == (5, 100)
    assert not (rows % 7).any()


def test_the_check_of_an_own_kind_leaves_no_map_of_ads_in_its_file():
    built = index.build_index(index_fixtures.clustered(3000), kind_of("IVF8,Flat"))
    assert faiss.extract_index_ivf(built.searcher.index).direct_map.type == faiss.DirectMap.NoMap


def kind_of(returned, **methods):
    """Defines a kind in this module whose factory returns a value; returns its config."""
    own = {"factory": lambda self, config, num_ads, dimension: returned, **methods}
    globals()["Own"] = type("Own", (index.IndexKind,), own)
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
    assert saved.searcher.is_exact == built.searcher.is_exact == is_exact
    recall = index_recall.recall_against_exact(saved, embeddings, embeddings, 50)
    assert (recall > 0.999) == is_exact


def does_nothing(*arguments):
    pass


def adds(self, index, embeddings, queries):
    index.add(embeddings[:10])


def fails(self, *arguments):
    raise KeyError("cells")


@pytest.mark.parametrize(
    ("returned", "methods", "message"),
    [
        ("Flatt", {}, r"expected a factory string of FAISS for inner products of 32 dim.* 'Flatt'"),
        ("LSH", {}, "expected a factory string of FAISS for inner products"),
        (None, {}, "expected a factory string of FAISS from `factory`, got None"),
        ("SQ8,RFlat", {}, "expected an index that does not rescore, got 'SQ8,RFlat'"),
        ("IDMap,Flat", {}, "expected an index whose labels are the rows of the ads, got 'IDMap,F"),
        ("PQ8x4", {}, "expected an index that accepts a selector of ads, and reconstructs ads, wh"),
        (
            "IVF8,FlatDedup",
            {},
            "expected an index that accepts a selector of ads, and reconstructs",
        ),
        ("HNSW16_PQ4x4", {}, "expected an index for inner products, got 'HNSW16_PQ4x4', which FA"),
        ("IVF8,PQ8x4fs", {}, "expected an index whose vectors can be read from its file, as"),
        ("PCA8,IVF8,PQ8x4fs", {}, "expected an index whose vectors can be read from its file"),
        ("PCA8,HNSW16,Flat", {}, "expected an index that finds as many ads as there are, got 'PCA"),
        ("IVF64_HNSW2,Flat", {}, r"expected an index that finds .* \(IVF256, not IVF256_HNSW32\)"),
        ("IVF8,Flat", {"train": does_nothing}, "expected a trained index after `train`"),
        ("Flat", {"train": adds}, "expected an empty index after `train`, got one with 10 vectors"),
        ("IVF400,Flat", {}, "`train` failed with RuntimeError: .*clusters"),
        ("Flat", {"factory": fails}, "`factory` failed with KeyError: 'cells'"),
        ("Flat", {"train": fails}, "`train` failed with KeyError: 'cells'"),
        (
            "Flat",
            {"set_search": fails},
            r"`set_search` failed with KeyError: 'cells' \(.*\.py, line",
        ),
        ("Flat", {"set_search": lambda self: None}, "`set_search` failed with TypeError"),
    ],
)
def test_an_own_kind_that_fails_is_named(returned, methods, message):
    config = kind_of(returned, **methods)
    named = f"^index kind '{__name__}:Own': {message}"
    with pytest.raises(ValueError, match=named):
        index.try_kind(config, 300, 32)
    with pytest.raises(ValueError, match=named):
        index.build_index(index_fixtures.clustered(300), config)


def test_an_own_kind_to_which_no_ads_can_be_added_is_named():
    config = kind_of("NSG32,Flat")
    named = f"^index kind '{__name__}:Own': expected an index to which 100 ads can be added, got 'N"
    with pytest.raises(ValueError, match=named):
        index.try_kind(config, 100, 32)
    with pytest.raises(ValueError, match=named):
        index.build_index(index_fixtures.clustered(100), config)


def test_a_kind_is_tried_as_it_is_built_for_the_catalog():
    index.try_kind(index.IndexConfig(), 10**9, 32)
    index.try_kind(index.IndexConfig(kind="six_bits:SixBits"), 3000, 32)
    # Needs 400 ads to train its cells.
    index.try_kind(kind_of("IVF400,Flat"), 400, 32)


class WithArgument(index.IndexKind):
    def __init__(self, bits):
        self.bits = bits


def test_an_own_kind_that_cannot_be_created_is_named():
    with pytest.raises(
        ValueError, match=r"WithArgument': expected a class that is created without"
    ):
        index.IndexConfig(kind=WithArgument)


def test_a_class_is_a_kind_and_other_names_are_refused():
    assert index.IndexConfig(kind=index.IndexKind).kind == "serving.index.kinds:IndexKind"
    with pytest.raises(ValueError, match=r"Unknown index kind 'ivf'; .* Did you mean 'IVF'\?"):
        index.IndexConfig(kind="ivf")
    with pytest.raises(ValueError, match=r"expected a subclass of serving.index.IndexKind, got"):
        index.IndexConfig(kind="collections:Counter")
