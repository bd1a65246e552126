"""Histories from the log to an answer: records, samples, probes and requests agree."""

import asyncio
import collections
import json
import shutil
import time

import numpy as np
import pytest
import serving_fixtures

from serving import (
    errors,
    impressions,
    live,
    model_server,
    orchestrator,
    requests,
    users,
)
from serving.releases import bundle
from tfrec import exported, retrieval
from tfrecords import histories, schema
from tfrecords.splits import SPLITS

pytestmark = pytest.mark.slow


def test_the_manifest_has_an_input_for_each_part_of_a_history(event_base):
    fields = bundle.verify(event_base, 1).query_fields
    assert fields[1:5] == [
        {"name": "clicks", "kind": "categorical_list"},
        {"name": "clicks__age_seconds", "kind": "numeric_list", "of": "clicks"},
        {"name": "all", "kind": "categorical_list"},
        {"name": "all__age_seconds", "kind": "numeric_list", "of": "all"},
    ]
    assert fields[5] == {"name": "all__events", "kind": "categorical_list", "of": "all"}


def test_raw_samples_are_embedded_like_their_records(event_base, event_data_set, event_models):
    release = bundle.load(event_base)
    samples = event_data_set.sample_requests()
    assert max(len(sample["all"]) for sample in samples) > 20
    served = release.query_tower.embed(release.query_tower.columns(samples))
    windows = event_data_set.windows(SPLITS[2]).as_numpy_iterator()
    stored = np.concatenate([window["query"] for window in windows])[: len(samples)]
    expected = retrieval.embed_in_batches(event_models[0].query_tower, stored)
    np.testing.assert_allclose(served, expected, atol=1e-5)


def test_events_of_a_candidate_are_compared_in_both_orders_of_the_scores(
    event_data_set, event_models
):
    _, ranker = event_models
    assert [tuple(own.name for own in pair) for pair in ranker.compared] == [("brands", "brand")]
    batch = next(iter(event_data_set.batches(SPLITS[2], 64)))
    assert np.any(ranker.comparisons(batch["query"][:, None], batch["ad"]))
    trained = ranker.score(batch["query"], batch["ad"])
    found = exported.score_candidates(ranker, batch["query"], batch["ad"], parts=2)
    for head, logits in trained.items():
        np.testing.assert_allclose(found[head], logits, atol=1e-4)


def test_requests_carry_histories_with_or_without_ages(event_base, event_data_set):
    release = bundle.load(event_base)
    sample = next(own for own in event_data_set.sample_requests() if len(own["all"]) > 3)
    values = {name: own for name, own in sample.items() if "__" not in name}
    absent = {name: own for name, own in values.items() if name not in ("clicks", "all", "brands")}

    async def recommend(address):
        service = serving_fixtures.make_orchestrator(release, address)
        try:
            await service.verify_ranker()
            asked = [requests.Request(user=own, k=5) for own in (sample, values, absent)]
            together = await serving_fixtures.together(service, asked)
            with pytest.raises(errors.InvalidRequestError, match="clicks__age_seconds"):
                await service.recommend(requests.Request(user={"clicks__age_seconds": ["x"]}))
            return together
        finally:
            await service.close()

    with model_server.ModelServer({"ranker": event_base / "ranker"}, poll_seconds=None) as server:
        answers = asyncio.run(recommend(f"127.0.0.1:{server.port}"))
    assert [answer.degraded for answer in answers] == [None] * 3
    scores = [{ad.ad_id: ad.retrieval_score for ad in answer.ads} for answer in answers]
    assert scores[0] != scores[2]


def logged_events(release, rows, event_files):
    """Returns user id -> logged events with the values of their ads; the first of an id counts."""
    lines = [json.loads(line) for file in event_files for line in file.read_text().splitlines()]
    shown = [
        (row["_user_id"], f"{row['_request_id']}/{row['_ad_id']}", row["_time"], row["_ad_id"])
        for row in rows
    ]
    found = {(user, key): (schema.IMPRESSION, time, ad) for user, key, time, ad in shown}
    for line in lines:
        key = line["user_id"], line["event_id"]
        kind = next(name for name in (schema.IMPRESSION, *users.ACTIONS) if name in line)
        found.setdefault(key, (kind, line["time"], line["ad_id"]))
    plan = schema.schema_from_json(release.manifest.schema)
    listed = histories.listed_fields(plan)
    updated = live.LiveIndex(release)
    values = updated.view().values(sorted({ad for *_, ad in found.values()}), listed)
    events = collections.defaultdict(list)
    for (user, key), (kind, moment, ad) in found.items():
        own = {name: values[name][ad][0] for name in listed if values[name].get(ad)}
        events[user].append(histories.UserEvent(kind, moment, ad, own, key))
    return events


def test_histories_from_a_user_store_equal_those_computed_from_the_logs(event_base, tmp_path):
    shutil.copytree(event_base, tmp_path / "bundle")
    release, directory = bundle.load(tmp_path / "bundle"), tmp_path / "log"
    log, feedback = impressions.ImpressionLog(directory), impressions.FeedbackLog(directory)
    patient = serving_fixtures.PATIENT_USERS

    async def use(address):
        data = orchestrator.UserData(users.open_store(f"sqlite:{tmp_path}/users.db"), patient)
        service = serving_fixtures.make_orchestrator(release, address, users=data, impressions=log)
        events = orchestrator.EventIntake(data, feedback)
        rng, number = np.random.default_rng(1), 0
        service.live.update([{"ad_id": "new", "fields": {"brand": "live"}}])
        shown = {"ad_id": "new", "event": "impression", "time": time.time() - 60, "event_id": "0"}
        await events.add([requests.Event(user_id=user_id, **shown) for user_id in ("ann", "bob")])
        for _ in range(12):
            for user_id in ("ann", "bob"):
                number += 1
                answer = await service.recommend(
                    requests.Request(user_id=user_id, user={"age": 3}, k=4, request_id=str(number))
                )
                assert answer.user_data == "found"
                await data.flush()
                ids = {"user_id": user_id, "request_id": answer.request_id}
                for kind in ("click", "engagement")[: rng.integers(0, 3)]:
                    ad_id = answer.ads[rng.integers(0, 4)].ad_id
                    event_id = f"{number}-{kind}"
                    sent = requests.Event(event_id=event_id, ad_id=ad_id, event=kind, **ids)
                    # Twice, as by a client that got no reply.
                    await events.add([sent])
                    await events.add([sent])
        await service.close()
        await data.close()

    with model_server.ModelServer({"ranker": event_base / "ranker"}, poll_seconds=None) as server:
        asyncio.run(use(f"127.0.0.1:{server.port}"))
    log.close()
    files = sorted(directory.glob(impressions.FILE_PATTERN))
    event_files = sorted(directory.glob(impressions.FEEDBACK_PATTERN))
    rows = [row for file in files for row in impressions.read_file(file).to_pylist()]
    logged = logged_events(release, rows, event_files)
    plan = schema.schema_from_json(release.manifest.schema)
    answers = {row["_answer_id"]: row for row in rows}.values()
    assert len(answers) == 24
    for row in answers:
        rebuilt = histories.raw_values(plan, logged[row["_user_id"]], row["_time"])
        for name in ("clicks", "all", "all__events", "brands"):
            assert list(row[name] or ()) == list(rebuilt.get(name) or ()), name
    # Not all histories are empty.
    assert max(len(row["all"] or ()) for row in rows) > 20
    assert max(len(row["clicks"] or ()) for row in rows) > 1
    assert max(len(row["brands"] or ()) for row in rows) > 10
    assert all("live" in row["brands"] for row in rows)
