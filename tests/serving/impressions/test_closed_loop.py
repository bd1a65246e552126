"""The closed loop: answers over REST, their log, feedback, conversion, and training on it."""

import dataclasses
import json
import random

import logs
import numpy as np
import pyarrow.parquet as pq
import pytest
import serving_fixtures

from serving import client, impressions
from tfrec import ranking
from tfrecords import schema

pytestmark = pytest.mark.trains


@pytest.fixture(scope="module")
def shown(tiny_bundle, ranker_address, tmp_path_factory):
    """The log of 300 answers of five ads, 30 % of the positions explored, and the answers."""
    directory = tmp_path_factory.mktemp("impressions")
    log = impressions.ImpressionLog(directory)
    service = serving_fixtures.make_orchestrator(tiny_bundle, ranker_address)
    service.impressions = log
    rng, answers = random.Random(3), []
    with (
        serving_fixtures.serve_app(service) as url,
        client.Client(url, timeout_seconds=60) as asked,
    ):
        for number in range(300):
            answers.append(
                asked.recommend(
                    user={"country": rng.choice(["CH", "DE"]), "age": rng.randint(20, 60)},
                    k=5,
                    request_id=str(number),
                    rules={"exploration": {"share": 0.3}},
                )
            )
        state = asked.bundle()["impression_log"]
        assert (state["dropped_answers"], state["problem"]) == (0, None)
    log.close()
    return directory, answers


def test_a_ranker_can_be_trained_on_logged_answers(shown, ranker_config, tmp_path):
    directory, answers = shown
    rng = random.Random(4)
    # Ads of category c1 are clicked.
    clicked = {
        (answer.request_id, ad.ad_id)
        for answer in answers
        for ad in answer.ads
        if rng.random() < (0.8 if ad.fields["category"] == "c1" else 0.1)
    }
    events = tmp_path / "events.jsonl"
    events.write_text(
        "".join(
            json.dumps({"request_id": request_id, "ad_id": ad_id, "click": 1}) + "\n"
            for request_id, ad_id in sorted(clicked)
        )
    )
    output = tmp_path / "shown.parquet"
    log_files = sorted(directory.glob(impressions.FILE_PATTERN))
    joined = impressions.join_feedback(log_files, [events], output)
    assert (joined.rows, joined.requests, joined.matched) == (1500, 300, joined.events)
    assert joined.totals == {"click": len(clicked)}

    # The log agrees with the answers.
    rows = pq.read_table(output).to_pylist()
    logged = {(row["_request_id"], row["_position"]): row for row in rows}
    for answer in answers:
        for ad in answer.ads:
            row = logged[answer.request_id, ad.rank - 1]
            assert (row["_ad_id"], row["_propensity"]) == (ad.ad_id, ad.propensity)
            assert row["_click"] == ((answer.request_id, ad.ad_id) in clicked)

    data_set = logs.converted_table(
        output, tmp_path / "data", schema.schema_from_json(joined.schema), validation_fraction=0.2
    )
    assert sum(data_set.label_count(s, "click") for s in ("train", "validation", "test")) == 1500
    assert data_set.schema.position == "_position"
    config = dataclasses.replace(ranker_config, num_blocks=0, epochs=2)
    ranking.train_ranker(data_set, config, tmp_path / "ranker")
    model, _, _ = ranking.load_ranker(data_set, tmp_path / "ranker")
    held_out = ranking.predict_split(model, data_set, "validation")
    scores, labels = held_out.logits["click"], held_out.labels["click"]
    # The preference is learned: clicked ads score higher than the others.
    assert np.mean(scores[labels == 1]) > np.mean(scores[labels == 0]) + 0.5
