"""The steps from a log to a release bundle, each done once.

    WORKDIR/synthetic/   the synthetic log, if one is used
    WORKDIR/data/        the converted data set
    WORKDIR/data_card.html   its contents and problems
    WORKDIR/ranker/      the ranker
    WORKDIR/retrieval/   the two-tower model, distilled from the ranker
    WORKDIR/evaluation/  metrics of both on the test split, and a page with figures
    WORKDIR/bundle/      release bundles, the base directory of the model server

The data set can also be in another directory, see `Pipeline.use`.

A step records its inputs in WORKDIR/steps/NAME.json. In the next run, a finished step with the same
inputs is skipped, a killed step resumes from its checkpoints, and a step with other inputs starts
over. One process at a time runs steps in a work directory.
"""

import contextlib
import dataclasses
import functools
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pydantic
import tensorflow as tf

from serving import manifest, releases
from serving.export import evaluated_index, gate, release_export, step_lines
from serving.export.steps import PRODUCTS, Steps
from serving.index import IndexConfig
from tfrec import calibration, evaluation, ranking, reports, retrieval, training
from tfrec.config import (
    CANDIDATE_PARTS,
    ConvertConfig,
    EvaluationConfig,
    RankerConfig,
    RetrievalConfig,
    check_kind,
)
from tfrec.heads import HEADS
from tfrecords import card, convert, files, reader, synthetic
from tfrecords.schema import load_schema

_CHECKSUMS = {"data": "other data", "source": "other source code", "teacher": "another ranker"}


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """The steps of one work directory.

    Attributes:
        workdir: Work directory of all steps.
        progress: Whether to show progress bars and one line per step.
        strategy: Distribution strategy of the training, from `training.joined`; by default, one
            device.
    """

    workdir: pathlib.Path
    progress: bool = True
    strategy: tf.distribute.Strategy = dataclasses.field(default_factory=tf.distribute.get_strategy)

    def path(self, step: str) -> pathlib.Path:
        """Returns the output directory of a step."""
        return self._steps.path(step)

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Locks the work directory for several steps; see `steps.locked`."""
        return self._steps.locked()

    def synthesize(
        self, n_samples: int, config: synthetic.AnyConfig | None = None
    ) -> convert.Source:
        """Writes a synthetic log of `n_samples` impressions.

        Args:
            n_samples: Number of impressions.
            config: Configuration of the world; None: the default bilinear world.
        """
        config = config or synthetic.WorldConfig()
        inputs = {"n_samples": n_samples, **dataclasses.asdict(config)}
        directory = self.path("synthetic")

        def write() -> None:
            synthetic.write_log(directory, n_samples, config)

        title = f"writing a synthetic log of {n_samples:,} impressions"
        self._steps.once("synthetic", title, inputs, write)
        log = synthetic.SyntheticLog(directory)
        return convert.Source(log.log, load_schema(log.schema), log.format, ads_path=log.ads)

    def convert(
        self,
        source: convert.Source,
        config: ConvertConfig,
        workers: int | None = None,
    ) -> reader.DataSet:
        """Converts a log."""
        inputs = {
            **convert.inputs_of(source, source.open()),
            **dataclasses.asdict(config),
        }
        if source.files.log[0] != synthetic.SyntheticLog(self.path("synthetic")).log:
            self._steps.print_step("synthetic", f"using a log of format {source.format}")
        data_set = self._intact_data_set()
        if data_set is not None:
            self._forget_unless_converted(data_set)

        def run() -> dict[str, Any]:
            self._card_page.unlink(missing_ok=True)
            convert.convert(
                source,
                self.path("data"),
                **dataclasses.asdict(config),
                workers=workers,
                progress=self.progress,
            )
            return {"checksum": reader.DataSet(self.path("data")).checksum}

        redone = self._steps.once("data", f"converting {source}", inputs, run)
        if data_set is None or redone:
            data_set = self.data_set()
        self._steps.print(step_lines.summary(data_set))
        if self._card_page.is_file():
            self._steps.print(f"      data card: {self._card_page}")
        else:
            self._write_card(data_set)
        return data_set

    def use(self, data_set: reader.DataSet) -> None:
        """Uses a data set, which may be in another directory, for this work directory."""
        directory = data_set.directory.resolve()
        if directory != self.path("data").resolve():
            inputs = {"directory": str(directory)}
            self._steps.write_note("data", {"inputs": inputs, "finished": True, "seconds": 0.0})
            self._steps.print_step("data", f"using the data set {directory}")
        else:
            self._forget_unless_converted(data_set)

    def train_ranker(
        self,
        data_set: reader.DataSet,
        config: RankerConfig,
        callbacks: Sequence[tf.keras.callbacks.Callback] = (),
    ) -> pathlib.Path | None:
        """Trains stage two; returns None if the data set has nothing to train it on."""
        directory = self.path("ranker")
        reason = ranking.without_ranker(data_set)
        if reason is not None:
            self._steps.print_step("ranker", f"no ranker: {reason}")
            return None
        self._trained(
            "ranker",
            "training the ranker, stage 2",
            {
                "data": data_set.training_checksum,
                **dataclasses.asdict(config),
                "source": ranking.RANKERS.digest(config.ranker),
            },
            lambda: ranking.train_ranker(
                data_set, config, directory, self.progress, callbacks, self.strategy
            ),
            check=None
            if ranking.RANKERS.is_built_in(config.ranker)
            else lambda: ranking.build_ranker(data_set, config),
        )
        return directory

    def train_retrieval(
        self,
        data_set: reader.DataSet,
        config: RetrievalConfig,
        callbacks: Sequence[tf.keras.callbacks.Callback] = (),
    ) -> pathlib.Path:
        """Trains the two-tower model on clicks, then on the ranker's scores if there is one."""
        directory = self.path("retrieval")
        teacher = self._teacher(data_set)
        if teacher is None and ranking.without_ranker(data_set) is None:
            why = (
                f"all heads of the ranker in {self.path('ranker')} are weak"
                if self._has_ranker(data_set)
                else f"there is no trained ranker for this data set in {self.path('ranker')}. To "
                "learn from the ranker instead, run tfrec train_ranker first"
            )
            self._steps.print_wrapped(f"the two-tower model learns from clicks alone: {why}")
        click_inputs = {
            "data": data_set.training_checksum,
            **dataclasses.asdict(config),
            "source": retrieval.RETRIEVAL_MODELS.digest(config.retrieval_model),
        }
        teacher_input = None if teacher is None else self._steps.training_checksum("ranker")
        inputs = {**click_inputs, "teacher": teacher_input}
        before = self._steps.inputs("retrieval")
        # With a teacher, towers learn clicks for fewer epochs, too few to go on without it.
        is_enough = teacher is not None or before.get("teacher") is None
        same_clicks = is_enough and {**before, "teacher": None} == {**click_inputs, "teacher": None}
        is_chief = training.is_chief(self.strategy)
        if is_chief and same_clicks and before.get("teacher") != inputs["teacher"]:
            with self.locked():
                retrieval.forget_teacher(directory)
        self._trained(
            "retrieval",
            "training the two-tower model, stage 1",
            inputs,
            lambda: retrieval.train_two_tower(
                data_set,
                config,
                directory,
                self.progress,
                callbacks,
                teacher,
                self.strategy,
            ),
            check=None
            if retrieval.RETRIEVAL_MODELS.is_built_in(config.retrieval_model)
            else lambda: retrieval.build_two_tower(data_set, config, data_set.catalog()),
            keep=same_clicks,
        )
        return directory

    def print_label_summary(self, data_set: reader.DataSet) -> None:
        """Prints the number of positive rows of each label, and what to expect from them."""
        for line in step_lines.expectations(data_set):
            self._steps.print_wrapped(line)

    def evaluate(
        self,
        data_set: reader.DataSet,
        config: EvaluationConfig | None = None,
        index_config: IndexConfig | None = None,
        filters: dict[str, Any] | None = None,
    ) -> evaluation.EvaluationReport:
        """Measures both stages and the whole system on the test split.

        Args:
            data_set: The converted log.
            config: Resamples and segments; None: the last evaluation's, or the defaults.
            index_config: Configuration of the index, which is built unless it is published.
            filters: Filters to measure, as in a request, or None.

        Raises:
            ValueError: An option is invalid, or the stages cannot be loaded.
            InvalidRequestError: The filters are invalid.
        """
        config = config or self._steps.config("evaluation", "config", EvaluationConfig)
        use_published = self._is_published(data_set, index_config)
        index_config = index_config or self._steps.config("evaluation", "index", IndexConfig)
        check_kind(config, EvaluationConfig)
        evaluation.check_segments(config.segment_fields, data_set.schema)
        checked_filters = evaluated_index.checked_filters(filters, data_set)
        path = self.path("evaluation") / "metrics.json"
        page = path.with_name("report.html")
        truth = self.truth_of(data_set)

        def measure() -> None:
            models = self.models(data_set)
            base = self.path("bundle") if use_published else None
            index = evaluated_index.opener(base, data_set, models, index_config, checked_filters)
            report = evaluation.evaluate(data_set, models, truth, config, index)
            path.parent.mkdir(parents=True, exist_ok=True)
            page.unlink(missing_ok=True)
            files.write_json(path, report.to_json())

        inputs = {
            **self._models_inputs(data_set),
            "config": dataclasses.asdict(config),
            **_index_inputs(index_config),
            "filters": filters,
        }
        note = self._steps.note("evaluation")
        try:
            self._steps.once(
                "evaluation", "evaluating on the test split", inputs, measure, keep=True
            )
        except ValueError:  # An option is at fault: the last evaluation and its options stay.
            self._steps.write_note("evaluation", note)
            raise
        try:
            report = evaluation.EvaluationReport.model_validate_json(path.read_bytes())
        except pydantic.ValidationError as error:
            raise ValueError(
                f"{path}: expected the report of an evaluation, got JSON with "
                f"{error.error_count()} errors. Delete the file, and run again."
            ) from error
        if not page.is_file():
            files.write(page, reports.render_report(report, data_set.schema.name))
        return report

    def export(
        self,
        data_set: reader.DataSet,
        report: evaluation.EvaluationReport,
        config: IndexConfig | None = None,
        force: bool = False,
        candidate_parts: int | None = None,
    ) -> int:
        """Publishes both stages as the next release bundle, if the export gate allows it.

        Returns the version of the release.

        Args:
            data_set: The data set that both were trained on.
            report: Evaluation of both, for the manifest.
            config: Configuration of the index; None: the last export's, or the defaults.
            force: Whether to publish a release that the gate refuses.
            candidate_parts: See `export_release`; None: as in the last export, or the default.

        Raises:
            PublishError: The gate refuses the release; nothing is published.
            ValueError: The source of a text encoder has changed since the conversion.
        """
        base = self.path("bundle")
        config = config or self._steps.config("bundle", "index", IndexConfig)
        if candidate_parts is None:
            candidate_parts = self._steps.inputs("bundle").get("candidate_parts", CANDIDATE_PARTS)
        inputs = {
            **self._models_inputs(data_set),
            **_index_inputs(config),
            "candidate_parts": candidate_parts,
        }

        def publish() -> dict[str, Any]:
            self._check_encoders(data_set)
            models = self.models(data_set)
            judged = gate.check(base, data_set, models, self.workdir, force)
            for kind in ("refusals", "notes"):
                for line in judged["gate"][kind]:
                    self._steps.print_wrapped(f"{'forced: ' if kind == 'refusals' else ''}{line}")
            release = release_export.export_release(
                base,
                data_set,
                models.two_tower,
                models.ranker,
                models.calibrators,
                config,
                {**report.summary(), **judged},
                candidate_parts,
                models.judged,
            )
            return {"version": release.version}

        # Earlier releases stay, since a version is never used twice.
        self._steps.once("bundle", "exporting a release bundle", inputs, publish, keep=True)
        # Releases from other work directories may have been published here since.
        version, stable = self._steps.note("bundle")["version"], releases.stable(base)
        stays = "" if version == stable else f"; {stable} stays stable, see tfrec release"
        self._steps.print(f"release {version} in {base}{stays}")
        for line in step_lines.published_heads(manifest.read(base, version)):
            self._steps.print_wrapped(line)
        return version

    def models(self, data_set: reader.DataSet) -> evaluation.Models:
        """Loads the trained stages.

        Raises:
            FileNotFoundError: A stage was not trained.
            ValueError: A stage was trained on another data set, or cannot be loaded.
        """
        two_tower, _ = retrieval.load_two_tower(data_set, self.path("retrieval"))
        self._check_data("retrieval", data_set)
        if ranking.without_ranker(data_set) is not None:
            return evaluation.Models(two_tower)
        model, calibrators, judged = self._ranker(data_set)
        self._check_data("ranker", data_set)
        teacher = self._steps.inputs("retrieval").get("teacher")
        if teacher not in (None, self._steps.training_checksum("ranker")):
            self._steps.print_wrapped(
                "the two-tower model was distilled from another ranker: run tfrec train_retrieval"
            )
        # The schema's weights may have changed since the training.
        two_tower.set_default_weights(judged.weights)
        return evaluation.Models(two_tower, model, calibrators, judged)

    def data_set(self) -> reader.DataSet:
        """Opens the converted data set."""
        elsewhere = self._steps.inputs("data").get("directory")
        return reader.DataSet(elsewhere or self.path("data"))

    def log(self) -> str | None:
        """Returns the first file of the converted log, or None."""
        converted = self._steps.inputs("data").get("files")
        return converted[0]["path"] if converted else None

    def seconds(self) -> dict[str, float]:
        """Returns the duration of each finished step."""
        notes = {step: self._steps.note(step) for step in PRODUCTS}
        return {step: note["seconds"] for step, note in notes.items() if note.get("finished")}

    def truth_of(self, data_set: reader.DataSet) -> pathlib.Path | None:
        """Returns the directory of the synthetic log that a data set was converted from."""
        log = pathlib.Path(data_set.description.source.path)
        return log.parent if synthetic.SyntheticLog(log.parent).world.is_file() else None

    def _ranker(
        self, data_set: reader.DataSet
    ) -> tuple[ranking.RankingModel, calibration.Calibrators, ranking.JudgedHeads]:
        model, calibrators, found = ranking.load_ranker(data_set, self.path("ranker"))
        return model, calibrators, ranking.judge_heads(data_set.schema, found)

    def _check_data(self, step: str, data_set: reader.DataSet) -> None:
        trained_on = self._steps.inputs(step).get("data")
        if trained_on not in (None, data_set.training_checksum):
            raise ValueError(
                f"{self.path(step)}: the model was trained on another data set than "
                f"{data_set.directory}, whose rows or labels differ. Train it again: tfrec "
                f"train_{step}."
            )

    def _check_encoders(self, data_set: reader.DataSet) -> None:
        converted = data_set.description.source.encoder_sources
        if convert.sources_of_encoders(data_set.schema).get("encoder_sources", {}) != converted:
            raise ValueError(
                f"{data_set.directory}: the source of a text encoder has changed since the log was "
                "converted, so that a release would not encode texts as the models know them. "
                "Restore it, or convert the log and train both stages again."
            )

    def _has_ranker(self, data_set: reader.DataSet) -> bool:
        """Returns whether the ranker of the work directory was trained on the data set."""
        trained = self._steps.inputs("ranker").get("data") == data_set.training_checksum
        return trained and (self.path("ranker") / PRODUCTS["ranker"]).is_file()

    def _teacher(self, data_set: reader.DataSet) -> retrieval.Teacher | None:
        """Returns the trained ranker as a teacher of the two-tower model.

        None if there is none, or if all of its heads with a weight are weak.
        """
        if not self._has_ranker(data_set):
            return None
        model, calibrators, judged = self._ranker(data_set)
        if all(head in judged.weak for head in model.heads if judged.weights[head]):
            return None
        keep_rate = data_set.schema.negative_keep_rate
        return retrieval.Teacher(
            # In the order of the manifest.
            {head: judged.weights[head] for head in HEADS if head in model.heads},
            functools.partial(ranking.served_scores, model, calibrators, keep_rate),
        )

    @property
    def _steps(self) -> Steps:
        return Steps(self.workdir, self.progress)

    @property
    def _card_page(self) -> pathlib.Path:
        return self.workdir / "data_card.html"

    def _write_card(self, data_set: reader.DataSet) -> None:
        """Writes the data card and prints its warnings, without those of the label summary."""
        built = card.build_card(data_set)
        files.write(self._card_page, card.render_html(built))
        said = "".join(step_lines.expectations(data_set))
        warnings = card.render_warnings(
            note for note in built.warnings if note.level == "warning" and note.text not in said
        )
        self._steps.print(f"{warnings}\n      data card: {self._card_page}".lstrip("\n"))

    def _is_published(self, data_set: reader.DataSet, config: IndexConfig | None) -> bool:
        """Returns whether the last export indexed these ads with a configuration.

        Without a configuration, returns whether the last export would build the same index again.
        """
        last = self._steps.inputs("bundle")
        if last.get("data") not in (None, data_set.checksum):
            return False
        published = {name: last[name] for name in ("index", "index_source") if name in last}
        if config is None and published:
            config = self._steps.config("bundle", "index", IndexConfig)
        return config is None or _index_inputs(config) == published

    def _models_inputs(self, data_set: reader.DataSet) -> dict[str, Any]:
        """Returns the inputs of a step that uses both stages."""
        used = ("retrieval", *(["ranker"] if ranking.without_ranker(data_set) is None else []))
        stages = {step: self._steps.training_checksum(step) for step in used}
        return {"data": data_set.checksum, **stages}

    def _forget_unless_converted(self, data_set: reader.DataSet) -> None:
        """Forgets the last conversion if another one, such as from Python, wrote the data set."""
        if self._steps.note("data").get("checksum") != data_set.checksum:
            self._steps.forget("data")

    def _intact_data_set(self) -> reader.DataSet | None:
        """Returns the data set, or None; removes a data set with a missing or altered file."""
        directory = self.path("data")
        if not (directory / PRODUCTS["data"]).is_file():
            return None
        try:
            data_set = self.data_set()
            data_set.verify()
        except (FileNotFoundError, ValueError) as error:
            self._steps.print(f"      removing the data set, which cannot be used: {error}")
            shutil.rmtree(directory)
            return None
        return data_set

    def _trained(
        self,
        step: str,
        title: str,
        inputs: dict[str, Any],
        work: Callable[[], None],
        check: Callable[[], object] | None,
        keep: bool = False,
    ) -> None:
        """Trains on all workers, unless the chief has finished the step with the same inputs."""
        if training.is_chief(self.strategy):
            # `check` builds a model of the user's class, so that a mistake in it does not replace
            # a finished training.
            note = self._steps.note(step)
            is_replaced = not keep and not self._steps.has_inputs(step, inputs)
            if check and note.get("finished") and is_replaced:
                check()

            def start() -> None:
                if note.get("finished") and not keep:
                    self._steps.print_wrapped(_replacement_line(note["inputs"], inputs))
                training.chief_value(self.strategy, True)
                work()

            if not self._steps.once(step, title, inputs, start, keep):
                training.chief_value(self.strategy, False)
        elif training.chief_value(self.strategy, None):
            work()
        # The other workers continue once the chief has written its files.
        training.gathered(self.strategy, "done")


def _replacement_line(before: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """Returns a line on how a training differs from the one that it replaces."""
    differences = [
        _CHECKSUMS.get(name, f"{name} {before.get(name)}")
        for name, value in inputs.items()
        if before.get(name) != value
    ]
    return f"replaces a training with {', '.join(differences) or 'the same options'}"


def _index_inputs(config: IndexConfig) -> dict[str, Any]:
    check_kind(config, IndexConfig)
    return {"index": dataclasses.asdict(config)}
