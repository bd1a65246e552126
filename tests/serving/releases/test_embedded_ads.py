import killed
import numpy as np
import pyarrow as pa
import pytest
import serving_fixtures

from serving.releases import embedded_ads, models

NUM_ADS, PIECE = 290, 64
AD_FIELDS = [{"name": name, "kind": kind} for name, kind in serving_fixtures.AD_KINDS.items()]


def embed(directory, tower_path, ads, piece=PIECE):
    embedded_ads.ADS_PER_PIECE = piece
    return embedded_ads.embed(directory, models.AdTower(tower_path, AD_FIELDS), ads, "model-1")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(embedded_ads, "ADS_PER_PIECE", PIECE)


@pytest.fixture
def tower_path(tiny_base):
    return tiny_base / "ad_tower" / "1"


@pytest.fixture
def embedded_rows(monkeypatch):
    """Number of ads in each call of the tower."""
    calls, own = [], models.AdTower.embed_table

    def counted(self, ads):
        calls.append(ads.num_rows)
        return own(self, ads)

    monkeypatch.setattr(models.AdTower, "embed_table", counted)
    return calls


def assert_of(found, num_ads):
    assert (found.embeddings.dtype, found.features.dtype) == (np.float32, np.int32)
    np.testing.assert_allclose(found.embeddings, serving_fixtures.ad_embeddings(num_ads), atol=1e-6)
    np.testing.assert_array_equal(found.features, serving_fixtures.ad_features(num_ads))


def test_ads_embedded_in_pieces_are_the_same_as_all_at_once(tower_path, tmp_path, embedded_rows):
    assert_of(embed(tmp_path / "work", tower_path, serving_fixtures.ads_table(NUM_ADS)), NUM_ADS)
    assert embedded_rows == [64, 64, 64, 64, 34]


@pytest.mark.process
def test_a_killed_export_resumes_at_the_first_unfinished_piece(tower_path, tmp_path, embedded_rows):
    ads = serving_fixtures.ads_table(NUM_ADS)
    left = set()
    # Each piece takes a few operations on files; the process is killed at some of them.
    for at in range(2, 16, 3):
        work = tmp_path / f"at-{at}"
        assert killed.status_of(embed, work, tower_path, ads, at=at) == -9
        embedded_rows.clear()
        assert_of(embed(work, tower_path, ads), NUM_ADS)
        left.add(len(embedded_rows))
        # Finished: nothing is embedded again.
        embedded_rows.clear()
        assert_of(embed(work, tower_path, ads), NUM_ADS)
        assert embedded_rows == []
    assert len(left) > 2
    assert max(left) <= 5


def test_other_ads_or_another_model_are_embedded_again(tower_path, tmp_path, embedded_rows):
    work, tower = tmp_path / "work", models.AdTower(tower_path, AD_FIELDS)
    embedded_ads.embed(work, tower, serving_fixtures.ads_table(200), "model-1")
    # The catalog has grown.
    assert_of(
        embedded_ads.embed(work, tower, serving_fixtures.ads_table(NUM_ADS), "model-1"), NUM_ADS
    )
    embedded_rows.clear()
    embedded_ads.embed(work, tower, serving_fixtures.ads_table(NUM_ADS), "model-2")
    assert sum(embedded_rows) == NUM_ADS


def test_a_catalog_that_grows_while_it_is_embedded_is_that_of_the_start(
    tower_path, tmp_path, monkeypatch
):
    path = tmp_path / "ads.arrow"

    def write(num_ads):
        with pa.ipc.new_file(path.with_suffix(".new"), table(num_ads).schema) as writer:
            writer.write_table(table(num_ads))
        path.with_suffix(".new").replace(path)

    def table(num_ads):
        return serving_fixtures.ads_table(num_ads)

    own = models.AdTower.embed_table

    def grows(self, ads):
        write(2 * NUM_ADS)
        return own(self, ads)

    write(NUM_ADS)
    ads = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    monkeypatch.setattr(models.AdTower, "embed_table", grows)
    assert_of(embed(tmp_path / "work", tower_path, ads), NUM_ADS)
    monkeypatch.setattr(models.AdTower, "embed_table", own)
    grown = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    assert_of(embed(tmp_path / "work", tower_path, grown), 2 * NUM_ADS)
