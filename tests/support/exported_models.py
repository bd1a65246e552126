"""Exported releases of models that were trained, or built on a log with histories and rates."""

import dataclasses
import json

import history_logs
import pytest
import shared
from loud_models import loud

from serving import export, index
from tfrec import calibration, ranking, retrieval
from tfrecords import reader

FLAT = index.IndexConfig(kind="Flat")


@pytest.fixture(scope="session")
def exported_base(data_set, trained, tmp_path_factory):
    """Base directory with the release of `trained`, its figures in the manifest. Read only."""

    def build(empty):
        two_tower, _ = retrieval.load_two_tower(data_set, trained / "retrieval")
        model, calibrators, described = ranking.load_ranker(data_set, trained / "ranker")
        taught = json.loads((trained / "retrieval" / "retrieval.json").read_text())["distillation"]
        metrics = {
            "validation": described["validation"],
            "utility_share": taught["utility_share"],
        }
        export.export_release(empty, data_set, two_tower, model, calibrators, FLAT, metrics)

    return shared.directory(tmp_path_factory, "exported", build)


@pytest.fixture(scope="session")
def event_data_set(tmp_path_factory):
    """A data set with histories and two rates."""
    schema = history_logs.schema_of()
    schema = dataclasses.replace(
        schema, fields=(*schema.fields, *history_logs.schema_with_rates().rates[:2])
    )

    def build(empty):
        history_logs.converted(history_logs.log(), schema, empty / "data")

    return reader.DataSet(shared.directory(tmp_path_factory, "events", build) / "data")


@pytest.fixture(scope="session")
def event_models(event_data_set, retrieval_config, ranker_config):
    """Untrained towers, the same in every worker, whose embeddings differ, and a ranker."""
    catalog = event_data_set.catalog()
    two_tower = loud(retrieval.build_two_tower(event_data_set, retrieval_config, catalog))
    one_block = dataclasses.replace(ranker_config, num_blocks=1)
    return two_tower, ranking.build_ranker(event_data_set, one_block)


@pytest.fixture(scope="session")
def event_base(event_data_set, event_models, tmp_path_factory):
    """Base directory with the release of `event_models`. Read only."""

    def build(empty):
        calibrators = calibration.Calibrators()
        export.export_release(empty, event_data_set, *event_models, calibrators, FLAT, {})

    return shared.directory(tmp_path_factory, "event_release", build)
