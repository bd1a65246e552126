"""Releases in Milvus: served, updated, unavailable for a while, and removed.

FAISS Flat, with the same models and ads, gives the expected answers. The server is milvus-lite in
a separate process.
"""

import contextlib
import shutil
import signal

import milvus_servers
import numpy as np
import pytest
import requirements
import scripts_in_forks
import serving_fixtures
import waiting

from serving import client, errors, index, live, manifest, releases
from serving.index.milvus import connection
from serving.requests import Request

pytestmark = [pytest.mark.engines, requirements.NEEDS_MILVUS]

REQUEST = Request(user={"country": "CH", "age": 33, "history": ["ad-3", "ad-8"]}, k=50)
FILTERS = {
    "conditions": [
        {"field": "tags", "any_of": ["new"]},
        {"field": "price", "at_least": 10, "at_most": 120},
    ],
    "excluded_ads": ["ad-26"],
}
ADDED = [
    {"ad_id": "new-1", "fields": {"advertiser": "a-new", "price": 20, "tags": ["new"]}},
    {"ad_id": "ad-29", "fields": {"advertiser": "changed", "price": 21, "tags": ["new"]}},
]
REMOVED = ["ad-32", "ad-35"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The directory and the port of a running milvus-lite."""
    directory, port = tmp_path_factory.mktemp("milvus"), serving_fixtures.free_port()
    with milvus_servers.lite(directory, port):
        yield directory, port


def recipe(port, kind="Flat", **changes):
    config = index.IndexConfig(kind=kind, backend="milvus", milvus_uri=f"http://127.0.0.1:{port}")
    return serving_fixtures.Recipe(index_config=config, **changes)


def client_of(port):
    return connection.connect(f"http://127.0.0.1:{port}")


def answers(base):
    """The answers of a new process to a request with and without filters."""
    with client.LocalClient(base) as asked:
        plain = asked.recommend(REQUEST)
        return plain, asked.recommend(serving_fixtures.changed(REQUEST, filters=FILTERS))


def assert_same(found, wanted):
    for own, other in zip(found, wanted, strict=True):
        assert own.degraded is None
        assert [ad.ad_id for ad in own.ads] == [ad.ad_id for ad in other.ads]
        np.testing.assert_allclose(
            [ad.utility for ad in own.ads], [ad.utility for ad in other.ads], atol=1e-5
        )


@pytest.mark.parametrize("kind", ["Flat", "HNSW"])
def test_answers_are_those_of_faiss_before_and_after_updates(server, tmp_path, kind):
    serving_fixtures.publish(tmp_path / "milvus", recipe(server[1], kind))
    serving_fixtures.publish(tmp_path / "faiss")
    wanted = answers(tmp_path / "faiss")
    assert [len(answer.ads) for answer in wanted] == [50, 50]
    assert_same(answers(tmp_path / "milvus"), wanted)
    with client.LocalClient(tmp_path / "milvus") as open_before:
        for base in ("milvus", "faiss"):
            applied = live.LiveIndex(releases.load(tmp_path / base)).update(ADDED, REMOVED)
            assert (applied.added, applied.changed, applied.removed) == (1, 1, 2)
        updated = answers(tmp_path / "faiss")
        assert {"new-1", "ad-29"} <= {ad.ad_id for ad in updated[1].ads}
        assert not {"ad-32", "ad-35"} & {ad.ad_id for answer in updated for ad in answer.ads}
        # Clients see updates of another process, whether they opened the release before or after.
        assert_same([open_before.recommend(REQUEST)], updated[:1])
    assert_same(answers(tmp_path / "milvus"), updated)
    # The collection itself is as it was exported.
    assert releases.load(tmp_path / "milvus").ad_index.searcher.num_ads == 300
    (tmp_path / "milvus" / "live" / "1" / "journal").unlink()
    assert_same(answers(tmp_path / "milvus"), wanted)


def test_two_releases_are_served_together_and_pruning_drops_the_collection_of_the_old_one(
    server, tmp_path
):
    client_before = set(client_of(server[1]).list_collections())
    for seed in (0, 1, 2):
        serving_fixtures.publish(tmp_path, recipe(server[1], seed=seed))
    named = {
        version: manifest.read(tmp_path, version).index["milvus"]["collection"]
        for version in (1, 2, 3)
    }
    assert len(set(named.values())) == 3
    old, new = (releases.load(tmp_path, version) for version in (2, 3))
    for release in (old, new):
        query = np.array(release.manifest.probes["query_embeddings"][:1], np.float32)
        assert (
            release.ad_index.search(query, 20)[1].tolist()[0]
            == (release.manifest.probes["candidates"][0])
        )
    releases.promote(tmp_path, 3)
    assert releases.prune(tmp_path, keep=1).removed == (1,)
    left = set(client_of(server[1]).list_collections()) - client_before
    assert left == {named[2], named[3]}
    assert old.ad_index.search(query, 20)[1].shape == (1, 20)
    with pytest.raises(errors.PublishError, match="has its ads in Milvus"):
        releases.copy_release(tmp_path, 3, tmp_path / "elsewhere")


def test_a_collection_that_is_not_that_of_the_manifest_is_not_loaded(server, tmp_path):
    serving_fixtures.publish(tmp_path, recipe(server[1]))
    collection = manifest.read(tmp_path, 1).index["milvus"]["collection"]
    milvus = client_of(server[1])
    ((kept,),) = [milvus.get(collection, ids=[7])]
    milvus.delete(collection, ids=[7])
    with pytest.raises(errors.BundleError, match=r"same number of ads .* got \(299, 300, 300\)"):
        releases.load(tmp_path)
    wrong = {**kept, "embedding": (-100 * np.array(kept["embedding"])).tolist()}
    milvus.insert(collection, [wrong])
    best = manifest.read(tmp_path, 1).probes["candidates"][0][0]
    other = milvus.get(collection, ids=[best])[0]
    milvus.upsert(collection, [{**other, "embedding": wrong["embedding"]}])
    with pytest.raises(errors.BundleError, match="ad_index/1 does not reproduce"):
        releases.load(tmp_path)
    milvus.drop_collection(collection)
    with pytest.raises(errors.BundleError, match=f"has no collection {collection}"):
        releases.load(tmp_path)


def test_a_publish_that_fails_leaves_no_collection(server, tmp_path):
    before = set(client_of(server[1]).list_collections())

    def write(staged):
        content = recipe(server[1]).write(staged)
        assert set(client_of(server[1]).list_collections()) - before
        # Refused, because a part is empty.
        shutil.rmtree(staged.ad_tower)
        staged.ad_tower.mkdir()
        return content

    with pytest.raises(errors.PublishError, match="ad_tower: expected files, got none"):
        releases.publish(tmp_path, write)
    assert set(client_of(server[1]).list_collections()) == before


def test_requests_fail_clearly_while_milvus_is_away_and_recover_by_themselves(tmp_path):
    port = serving_fixtures.free_port()
    with milvus_servers.lite(tmp_path / "data", port) as server:
        serving_fixtures.publish(tmp_path / "base", recipe(port))
        asked = client.LocalClient(tmp_path / "base")
        wanted = asked.recommend(REQUEST)
        # Milvus is slow: the deadline of the request ends the call.
        server.send_signal(signal.SIGSTOP)
        hurried = serving_fixtures.changed(REQUEST, deadline_ms=200.0)
        with pytest.raises(
            errors.IndexUnavailableError, match=f"Milvus at http://127.0.0.1:{port}"
        ):
            asked.recommend(hurried)
        server.send_signal(signal.SIGCONT)
        waiting.until(lambda: succeeds(asked, wanted))
        server.kill()
        server.wait()
        with pytest.raises(errors.IndexUnavailableError, match="Check that it runs"):
            asked.recommend(hurried)
        with pytest.raises(errors.IndexUnavailableError):
            releases.load(tmp_path / "base")
        with pytest.raises(errors.IndexUnavailableError):
            index.drop_index(manifest.read(tmp_path / "base", 1).index)
    with milvus_servers.lite(tmp_path / "data", port):
        waiting.until(lambda: succeeds(asked, wanted))
        asked.close()


def test_a_file_that_another_process_has_open_is_named_without_a_traceback(tmp_path):
    from milvus_lite import server_manager

    path, base = tmp_path / "milvus.db", tmp_path / "base"
    config = index.IndexConfig(kind="Flat", backend="milvus", milvus_uri=str(path))
    serving_fixtures.publish(base, serving_fixtures.Recipe(index_config=config))
    (tmp_path / "ids.txt").write_text("ad-5\n")
    message = f"The milvus-lite file {path} cannot be opened: "
    with contextlib.closing(releases.load(base)):
        flags = (f"--bundle={base}", f"--remove={tmp_path / 'ids.txt'}")
        done = scripts_in_forks.run("update_index.py", *flags)
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {message}")
        assert "Only one process can have it open" in done.stderr
        assert "Traceback" not in done.stderr
        done = scripts_in_forks.run("doctor.py", f"--bundle={base}")
        assert (done.returncode, done.stderr) == (1, "")
        assert f"failed  release 1 of {base}: {message}" in done.stdout
    server_manager.server_manager_instance.release_server(str(path))


def succeeds(asked, wanted):
    try:
        assert_same([asked.recommend(REQUEST)], [wanted])
    except errors.IndexUnavailableError:
        return False
    return True
