"""From a data set to answers, in Python: the steps that `tfrec train` runs.

    stages = workflow.train(data_set, "workdir/shop")
    report = stages.evaluate()
    release = stages.export()
    with release.client() as client:
        answer = client.recommend(context={"country": "CH"})

The work directory is the same as for `export.Pipeline`: finished steps are skipped, a killed step
resumes, and the commands can continue with it.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from serving import client, export
from serving.config import OrchestratorConfig
from serving.index import IndexConfig
from tfrec import evaluation
from tfrec.config import EvaluationConfig, RankerConfig, RetrievalConfig, check_kind
from tfrec.ranking import RANKERS, without_ranker
from tfrec.ranking import check_trainable as check_ranker
from tfrec.retrieval import RETRIEVAL_MODELS, build_two_tower
from tfrec.training import check_callbacks, check_clicks
from tfrecords import reader


@dataclasses.dataclass(frozen=True)
class ExportedRelease:
    """A release of a base directory of bundles.

    Attributes:
        base: Base directory of the bundles.
        version: Release version.
    """

    base: pathlib.Path
    version: int

    def client(self, config: OrchestratorConfig | None = None) -> client.LocalClient:
        """Loads the release in this process.

        Args:
            config: Options of the orchestrator; None: the defaults.

        Raises:
            BundleError, RankerError: See `client.LocalClient`.
        """
        return client.LocalClient(self.base, version=self.version, config=config)


@dataclasses.dataclass(frozen=True)
class TrainedStages:
    """Both trained stages of a work directory.

    Attributes:
        steps: Pipeline of the work directory.
        data_set: The data set that they were trained on.
    """

    steps: export.Pipeline
    data_set: reader.DataSet

    @functools.cached_property
    def models(self) -> evaluation.Models:
        """The Keras models of both stages, and the ranker's calibrators."""
        return self.steps.models(self.data_set)

    def evaluate(
        self,
        config: EvaluationConfig | None = None,
        *,
        index: IndexConfig | None = None,
        filters: dict[str, Any] | None = None,
    ) -> evaluation.EvaluationReport:
        """Measures both stages and the whole system on the test split.

        Args:
            config: Resamples and segments; None: the last evaluation's, or the defaults.
            index: Configuration of the index; None: the last evaluation's, or the defaults.
            filters: Filters to measure, as in a request; None: no filters.
        """
        return self.steps.evaluate(self.data_set, config, index, filters)

    def export(
        self,
        report: evaluation.EvaluationReport | None = None,
        *,
        index: IndexConfig | None = None,
        force: bool = False,
        candidate_parts: int | None = None,
    ) -> ExportedRelease:
        """Publishes both stages as the next release, if the export gate allows it.

        Args:
            report: Evaluation for the manifest; None: the result of `evaluate`.
            index: Configuration of the index; None: the last export's, or the defaults.
            force: Whether to publish a release that the gate refuses.
            candidate_parts: Number of parts of a request's candidates that the ranker scores in
                parallel; None: as in the last export, or the default.

        Raises:
            ValueError: `report` is not an `EvaluationReport`.
            PublishError: The gate refuses the release; nothing is published.
        """
        if not isinstance(report, evaluation.EvaluationReport | None):
            raise ValueError(
                f"report: expected an evaluation.EvaluationReport or None, got "
                f"{type(report).__name__}. Give the configuration of an index as index=."
            )
        report = report or self.evaluate(index=index)
        version = self.steps.export(self.data_set, report, index, force, candidate_parts)
        return ExportedRelease(self.steps.path("bundle"), version)


def train(
    data_set: reader.DataSet,
    workdir: str | os.PathLike[str],
    *,
    retrieval: RetrievalConfig | None = None,
    ranking: RankerConfig | None = None,
    progress: bool = True,
    callbacks: Sequence[tf.keras.callbacks.Callback] = (),
) -> TrainedStages:
    """Trains both stages; a stage that was trained on the same data and options is loaded.

    The ranker is trained first, since it is distilled into the two-tower model. A log of clicks
    alone cannot train a ranker: stage two is skipped.

    Args:
        data_set: A converted log.
        workdir: Directory for models, evaluation and releases.
        retrieval: Options of the two-tower model; None: the defaults.
        ranking: Options of the ranker; None: the defaults.
        progress: Whether to show progress bars and one line per step.
        callbacks: Additional callbacks for each call of `Model.fit`: for the ranker, and then for
            the two-tower model, on clicks and in distillation. A loaded stage calls none of them.

    Raises:
        ValueError: The data set lacks training data of a stage, such as clicks; or a model or a
            callback is invalid.
        BlockingIOError: Another process is working in the directory.
    """
    retrieval_config, ranking_config = retrieval or RetrievalConfig(), ranking or RankerConfig()
    # Everything is checked before the first stage is trained.
    check_kind(retrieval_config, RetrievalConfig)
    check_kind(ranking_config, RankerConfig)
    RETRIEVAL_MODELS.get(retrieval_config.retrieval_model)
    RANKERS.get(ranking_config.ranker)
    if not isinstance(data_set, reader.DataSet):
        got = repr(data_set) if isinstance(data_set, str | os.PathLike) else type(data_set).__name__
        raise ValueError(
            "expected a DataSet, such as the result of tfrecords.from_pandas or reader.DataSet, "
            f"got {got}."
        )
    check_callbacks(callbacks)
    check_clicks(data_set)
    if without_ranker(data_set) is None:
        check_ranker(data_set)
    if not RETRIEVAL_MODELS.is_built_in(retrieval_config.retrieval_model):
        build_two_tower(data_set, retrieval_config, data_set.catalog())
    steps = export.Pipeline(pathlib.Path(workdir), progress)
    with steps.locked():
        steps.use(data_set)
        steps.print_label_summary(data_set)
        steps.train_ranker(data_set, ranking_config, callbacks)
        steps.train_retrieval(data_set, retrieval_config, callbacks)
    return TrainedStages(steps, data_set)


def open_stages(workdir: str | os.PathLike[str], progress: bool = True) -> TrainedStages:
    """Opens a work directory in which both stages were trained.

    Args:
        workdir: The directory.
        progress: Whether to show progress bars and one line per step.

    Raises:
        FileNotFoundError: There is no data set.
    """
    steps = export.Pipeline(pathlib.Path(workdir), progress)
    return TrainedStages(steps, steps.data_set())
