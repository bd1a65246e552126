import dataclasses
import os
import pathlib
import shutil
import signal

import killed
import pytest
import serving_fixtures

from serving import errors, manifest
from serving.releases import bundle, publishing

SAVED_MODEL = (
    "saved_model.pb",
    "fingerprint.pb",
    "variables/variables.index",
    "variables/variables.data-00000-of-00001",
)
FILES = (
    *(f"query_tower/1/{name}" for name in SAVED_MODEL),
    *(f"ad_tower/1/{name}" for name in SAVED_MODEL),
    *(f"ranker/1/{name}" for name in SAVED_MODEL),
    *(f"ad_index/1/{name}" for name in ("index.faiss", "ad_features.npy", "ads.arrow")),
)


@pytest.fixture
def base(tiny_base, tmp_path):
    return shutil.copytree(tiny_base, tmp_path / "bundles")


def flip(path: pathlib.Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_published_bundle_verifies_and_loads(tiny_base, tiny_bundle):
    assert manifest.versions(tiny_base) == [1]
    assert bundle.latest(tiny_base) == 1
    assert set(tiny_bundle.manifest.files) == set(FILES)
    assert tiny_bundle.ad_index.num_ads == 300
    assert tiny_bundle.manifest.present_heads == ("click", "engagement", "revenue")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_flipped_byte_in_any_file_is_refused(base, name, place):
    size = (base / name).stat().st_size
    flip(base / name, {"first": 0, "middle": size // 2, "last": size - 1}[place])
    with pytest.raises(errors.BundleError, match=name.split("/")[0]) as caught:
        bundle.load(base)
    assert "Restore" in str(caught.value)
    assert name in str(caught.value)


def test_a_flipped_byte_anywhere_in_the_manifest_is_refused(base):
    path = base / "manifests/1.json"
    original = path.read_bytes()
    for position in [*range(0, len(original), 97), len(original) - 1]:
        flip(path, position)
        with pytest.raises(errors.BundleError, match=r"manifests/1\.json"):
            bundle.verify(base, 1)
        path.write_bytes(original)
    bundle.verify(base, 1)


def test_a_bundle_without_its_manifest_is_refused(base):
    (base / "manifests/1.json").unlink()
    with pytest.raises(errors.BundleNotFoundError, match=r"has no .* manifests/1\.json is missing"):
        bundle.load(base, 1)
    with pytest.raises(errors.BundleNotFoundError, match=r"no manifests/N\.json"):
        bundle.load(base)


def test_an_empty_or_missing_directory_is_refused(tmp_path):
    with pytest.raises(errors.BundleNotFoundError, match="no published bundle"):
        bundle.load(tmp_path / "nowhere")


def test_a_tower_of_another_training_run_is_refused(base, tmp_path):
    serving_fixtures.publish(tmp_path / "foreign", serving_fixtures.Recipe(seed=7))
    shutil.rmtree(base / "query_tower/1")
    shutil.copytree(tmp_path / "foreign/query_tower/1", base / "query_tower/1")
    with pytest.raises(errors.BundleError, match=r"query_tower/1/.*, but the manifest expects"):
        bundle.load(base)


def test_a_missing_file_is_named(base):
    (base / "ad_index/1/ads.arrow").unlink()
    with pytest.raises(errors.BundleError, match=r"ad_index/1/ads\.arrow is missing"):
        bundle.verify(base, 1)


def test_a_missing_part_is_named(base):
    shutil.rmtree(base / "query_tower")
    with pytest.raises(errors.BundleError, match=r"query_tower/1/.* is missing"):
        bundle.verify(base, 1)


def test_a_truncated_file_is_named_with_its_size(base):
    path = base / "ranker/1/saved_model.pb"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(errors.BundleError, match=r"ranker/1/saved_model\.pb has 100 bytes"):
        bundle.verify(base, 1)


def test_an_unlisted_file_is_named(base):
    (base / "ranker/1/other").write_text("x")
    with pytest.raises(errors.BundleError, match=r"ranker/1/other"):
        bundle.verify(base, 1)


@pytest.mark.parametrize("name", ["manifests/1.json", "ranker/1/saved_model.pb"])
def test_a_file_that_the_system_cannot_read_is_a_problem_of_the_bundle(base, name):
    (base / name).unlink()
    # `open` raises ELOOP, as it would raise EIO.
    (base / name).symlink_to(base / name)
    with pytest.raises(errors.BundleError, match=r"cannot be read.*symbolic links"):
        bundle.load(base, 1)


@pytest.mark.parametrize("content", [b"\xff\xfe7", b"", b"seven"])
def test_an_unreadable_last_version_is_named(base, content):
    (base / ".last_version").write_bytes(content)
    with pytest.raises(errors.PublishError, match=r"\.last_version cannot be read .*Write that"):
        killed.publish_copy(base, base)
    (base / ".last_version").write_text("7\n")
    assert killed.publish_copy(base, base) == 8


def test_an_unknown_format_version_is_refused(base):
    release = dataclasses.replace(bundle.verify(base, 1), format_version=1)
    with manifest.writing(base, 1, manifest.encode(release)):
        pass
    with pytest.raises(errors.BundleError, match="format_version 1; expected 5"):
        bundle.verify(base, 1)


def test_a_manifest_of_another_version_is_refused(base):
    shutil.copy(base / "manifests/1.json", base / "manifests/3.json")
    with pytest.raises(errors.BundleError, match="it is the manifest of version 1"):
        bundle.load(base)


def with_probes(base: pathlib.Path, **changes: object) -> None:
    """Writes a manifest with other probes and valid checksums."""
    release = bundle.verify(base, 1)
    changed = dataclasses.replace(release, probes={**release.probes, **changes})
    with manifest.writing(base, 1, manifest.encode(changed)):
        pass


def test_embeddings_that_differ_from_the_probes_are_refused(base):
    embeddings = bundle.verify(base, 1).probes["query_embeddings"]
    embeddings[1][3] += 0.001
    with_probes(base, query_embeddings=embeddings)
    with pytest.raises(errors.BundleError, match=r"query_tower/1 does not.*0\.001"):
        bundle.load(base)


def test_candidates_that_differ_from_the_probes_are_refused(base):
    candidates = bundle.verify(base, 1).probes["candidates"]
    candidates[2][0] = next(row for row in range(300) if row not in candidates[2])
    with_probes(base, candidates=candidates)
    with pytest.raises(errors.BundleError, match=r"ad_index/1 .*request 2 lost 1 of 20"):
        bundle.load(base)


def test_a_failed_write_leaves_nothing(base):
    def write(staged):
        (staged.ranker / "half").write_text("x")
        raise OSError("disk full")

    with pytest.raises(errors.PublishError, match=r"disk full.*Earlier releases are unchanged"):
        publishing.publish(base, write)
    assert [path.name for path in (base / "ranker").iterdir()] == ["1"]
    assert bundle.latest(base) == 1


def _publish_and_die(base: pathlib.Path, where: str) -> None:
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if where == "write":
        publishing.publish(base, die)
    if where == "manifest":
        manifest.writing = die
        killed.publish_copy(base, base)
    if where == "rename":
        replace = os.replace
        os.replace = lambda source, target: (
            die() if pathlib.Path(target).parent == base / "manifests" else replace(source, target)
        )
        killed.publish_copy(base, base)


@pytest.mark.process
@pytest.mark.parametrize(("where", "next_version"), [("write", 2), ("manifest", 2), ("rename", 3)])
def test_leftovers_of_a_killed_publish_are_not_a_bundle_and_are_removed(base, where, next_version):
    assert killed.status_of(_publish_and_die, base, where) == -signal.SIGKILL
    leftovers = [path.name for path in (base / "ranker").iterdir() if path.name != "1"]
    assert len(leftovers) == 1
    assert bundle.latest(base) == 1
    bundle.load(base)
    # A model server may already have loaded a version that was renamed, so it is not reused.
    assert killed.publish_copy(base, base) == next_version
    names = {path.name for part in ("query_tower", "ranker") for path in (base / part).iterdir()}
    assert names == {"1", str(next_version)}
    assert {path.name for path in (base / "manifests").iterdir()} == {
        "1.json",
        f"{next_version}.json",
    }
    bundle.load(base)


def test_metrics_that_are_not_json_publish_nothing(tiny_base, tmp_path):
    def write(staged):
        content = killed.copy_parts(tiny_base, staged)
        return dataclasses.replace(content, metrics={"auc": float("nan")})

    with pytest.raises(ValueError, match="JSON"):
        publishing.publish(tmp_path, write)
    assert not list((tmp_path / "ranker").iterdir())
