"""Keeps the versions of all configured models loaded, and hands them out to requests.

The last version that serves is unloaded only after a new one is loaded, or when no version is
left on disk. All other unwanted versions are unloaded first, which takes less memory. A version
that fails to load is retried later, while the others serve.

References: TensorFlow Serving, `core/availability_preserving_policy.cc` and `model_servers/
    server_core.cc`.
"""

import contextlib
import dataclasses
import logging
import threading
import time
import typing
from collections.abc import Callable, Collection, Iterator, Mapping

import grpc
from tensorflow_serving.apis import get_model_status_pb2, model_pb2

from serving import model_config, process, saved_model
from serving.model_server.models import config_checks, servable

_logger = logging.getLogger(__name__)

State: typing.TypeAlias = get_model_status_pb2.ModelVersionStatus
Loader = Callable[[str, int, str], servable.Servable]


@dataclasses.dataclass
class ModelVersion:
    """A version of a model in the server.

    Attributes:
        state: One of `ModelVersionStatus.State`; an unloaded version stays listed as END.
        model: The loaded version; None while it is not AVAILABLE.
        error: Error of the last failed load.
        attempts: Number of failed loads.
        retry_at: Time of the next load on the monotonic clock, in seconds.
        users: Number of requests that run on the version.
        gave_up: Whether the version failed too often to be retried.
    """

    state: int = State.START
    model: servable.Servable | None = None
    error: saved_model.StatusError | None = None
    attempts: int = 0
    retry_at: float = 0.0
    users: int = 0
    gave_up: bool = False

    def serves(self) -> bool:
        """Returns whether requests may use the version."""
        return self.model is not None and self.state == State.AVAILABLE

    def to_proto(self, number: int) -> get_model_status_pb2.ModelVersionStatus:
        """Returns the status for GetModelStatus; a version that is retried has no error."""
        error = self.error if self.state == State.END else None
        return get_model_status_pb2.ModelVersionStatus(
            version=number, state=self.state, status=error.to_proto() if error else {}
        )


class ServableManager:
    """The models of one server; all methods may be called from any thread."""

    def __init__(
        self,
        load: Loader,
        max_load_retries: int = 5,
        load_retry_seconds: float = 60.0,
        allow_labels_for_unavailable: bool = False,
    ) -> None:
        """Creates a manager without models.

        Args:
            load: Loads a version, given model name, version number and directory.
            max_load_retries: Number of retries of a failed load.
            load_retry_seconds: Time between attempts to load a version.
            allow_labels_for_unavailable: Whether a new label may name a version that is not
                loaded.
        """
        self._load_servable = load
        self._max_load_retries = max_load_retries
        self._load_retry_seconds = load_retry_seconds
        self._allow_labels_for_unavailable = allow_labels_for_unavailable
        self._configs: dict[str, model_config.ModelConfig] = {}
        self._models: dict[str, dict[int, ModelVersion]] = {}
        self._labels: dict[tuple[str, str], int] = {}
        # Messages on the files of each model at the last poll.
        self._problems: dict[str, list[str]] = {}
        self._is_first = True
        # Loading takes seconds: `_updating` is held throughout, `_changed` only for lookups.
        self._updating = threading.RLock()
        self._changed = threading.Condition()

    def reload(self, config: model_config.ModelServerConfig) -> None:
        """Replaces the whole list of models and waits until each new model serves.

        Raises:
            StatusError: INVALID_ARGUMENT or FAILED_PRECONDITION if the configuration is refused,
                NOT_FOUND if a model has no version; in both cases nothing was changed.
                UNKNOWN if no version of a new model could be loaded.
        """
        with self._updating:
            if config.WhichOneof("config") is None:
                return
            config_checks.validate(config)
            configs = {model.name: model for model in config.model_config_list.config}
            labels = self._checked_labels(configs)
            new = configs.keys() - self._configs.keys()
            for name, model in sorted(configs.items()):
                if not config_checks.aspired_versions(model):
                    raise saved_model.not_found(
                        f"No versions of servable {name} found under base path {model.base_path}: "
                        "expected a directory named by an integer (such as 1/) that the version "
                        "policy admits"
                    )
            removed = self._configs.keys() - configs.keys()
            self._configs, self._labels = configs, labels
            for name in removed:
                self._apply(name, {})
            self.poll()
            noun, self._is_first = "servable" if self._is_first else "model", False
            self._check_available(new, noun)

    def poll(self) -> None:
        """Compares the disk with the loaded versions, then loads and unloads the differences."""
        with self._updating:
            for name, config in self._configs.items():
                try:
                    aspired = config_checks.aspired_versions(config)
                except saved_model.StatusError as error:
                    self._note_problems(name, [error.message])
                    continue
                self._note_problems(name, config_checks.missing_versions(config, aspired))
                self._apply(name, aspired)

    @contextlib.contextmanager
    def use(self, spec: model_pb2.ModelSpec) -> Iterator[servable.Servable]:
        """Yields the version that a request names, kept loaded until the block ends.

        Raises:
            StatusError: INVALID_ARGUMENT for a missing name or unknown label, NOT_FOUND if the
                version is not available.
        """
        with self._changed:
            version = self._resolve(spec)
            model = typing.cast(servable.Servable, version.model)
            version.users += 1
        try:
            yield model
        finally:
            with self._changed:
                version.users -= 1
                if not version.users:
                    self._changed.notify_all()

    def status(self, spec: model_pb2.ModelSpec) -> list[get_model_status_pb2.ModelVersionStatus]:
        """Returns the state of one version, or of all versions, the newest first.

        Raises:
            StatusError: NOT_FOUND if the model or version is unknown.
        """
        with self._changed:
            versions = self._models.get(spec.name, {})
            if spec.HasField("version"):
                number = spec.version.value
                if number not in versions:
                    raise saved_model.not_found(
                        f"Could not find version {number} of model {spec.name}"
                    )
                versions = {number: versions[number]}
            if not versions:
                raise saved_model.not_found(f"Could not find any versions of model {spec.name}")
            return [versions[key].to_proto(key) for key in sorted(versions, reverse=True)]

    def available_versions(self) -> dict[str, list[int]]:
        """Returns the versions that serve, by model, in ascending order."""
        with self._changed:
            return {
                name: sorted(key for key, value in versions.items() if value.serves())
                for name, versions in self._models.items()
            }

    def close(self, timeout_seconds: float | None = None) -> bool:
        """Unloads everything, each version after its last request.

        Args:
            timeout_seconds: Maximum wait for a running load and for requests; None for no limit.

        Returns:
            Whether all versions are unloaded. A version in use keeps its session.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        if not self._updating.acquire(timeout=-1 if timeout_seconds is None else timeout_seconds):
            return False
        try:
            self._configs = {}
            unloaded = True
            for name, versions in self._models.items():
                for number in versions:
                    unloaded = self._unload(name, number, deadline) and unloaded
            return unloaded
        finally:
            self._updating.release()

    def _resolve(self, spec: model_pb2.ModelSpec) -> ModelVersion:
        if not spec.name:
            raise saved_model.invalid_argument("ModelSpec has no name specified.")
        versions = self._models.get(spec.name, {})
        choice = spec.WhichOneof("version_choice")
        if choice is None:
            serving = [key for key, value in versions.items() if value.serves()]
            if serving:
                return versions[max(serving)]
            request_text = f"Latest({spec.name})"
        else:
            number = spec.version.value
            if choice == "version_label":
                if (spec.name, spec.version_label) not in self._labels:
                    raise saved_model.invalid_argument(
                        f"Unrecognized servable version label: {spec.version_label}"
                    )
                number = self._labels[spec.name, spec.version_label]
            if _serves(versions, number):
                return versions[number]
            request_text = f"Specific({spec.name}, {number})"
        raise saved_model.not_found(f"Servable not found for request: {request_text}")

    def _checked_labels(
        self, configs: dict[str, model_config.ModelConfig]
    ) -> dict[tuple[str, str], int]:
        labels = {}
        for name, config in configs.items():
            versions = self._models.get(name, {})
            for label, number in config.version_labels.items():
                current = self._labels.get((name, label), number)
                allowed = self._allow_labels_for_unavailable and current == number
                if not allowed and not _serves(versions, number):
                    raise saved_model.failed_precondition(
                        f"Request to assign label to version {number} of model {name}, "
                        "which is not currently available for inference"
                    )
                labels[name, label] = number
        return labels

    def _check_available(self, names: set[str], noun: str) -> None:
        failed = []
        for name in sorted(names):
            versions = self._models.get(name, {})
            if not any(value.serves() for value in versions.values()):
                failed += [
                    f"{{{{name: {name} version: {key}}} due to error: {value.error}}}, "
                    for key, value in sorted(versions.items())
                ]
        if failed:
            raise saved_model.StatusError(
                grpc.StatusCode.UNKNOWN,
                f"{len(failed)} {noun}(s) did not become available: {{{''.join(failed)}}}",
            )

    def _note_problems(self, name: str, problems: list[str]) -> None:
        """Logs the problems of a model's files that it did not have at the last poll."""
        before = self._problems.get(name, [])
        for problem in problems:
            if problem not in before:
                _logger.warning("%s", problem)
        self._problems[name] = problems

    def _apply(self, name: str, aspired: dict[int, str]) -> None:
        with self._changed:
            versions = self._models.setdefault(name, {})
        for number in sorted(aspired, reverse=True):
            for unwanted in _unwanted(versions, aspired):
                self._unload(name, unwanted)
            self._load(name, number, aspired[number])
        for unwanted in _unwanted(versions, aspired):
            self._unload(name, unwanted)

    def _load(self, name: str, number: int, path: str) -> None:
        version = self._models[name].get(number)
        if version is None or (version.state == State.END and not version.gave_up):
            version = ModelVersion()
            with self._changed:
                self._models[name][number] = version
        is_due = time.monotonic() >= version.retry_at
        if version.gave_up or version.state == State.AVAILABLE or not is_due:
            return
        with self._changed:
            version.state = State.LOADING
        try:
            model = self._load_servable(name, number, path)
        except Exception as error:
            status = saved_model.status_from_exception(error)
            _logger.error("Cannot load version %d of model %s: %s", number, name, status)
            with self._changed:
                version.error = status
                version.attempts += 1
                version.retry_at = time.monotonic() + self._load_retry_seconds
                if version.attempts > self._max_load_retries:
                    version.gave_up, version.state = True, State.END
            return
        with self._changed:
            version.model, version.error, version.state = model, None, State.AVAILABLE
        _logger.info("Loaded version %d of model %s", number, name)

    def _unload(self, name: str, number: int, deadline: float | None = None) -> bool:
        """Unloads a version after its last request; returns False if that ran past `deadline`."""
        version = self._models[name][number]
        with self._changed:
            version.gave_up = False
            if version.state == State.END or version.model is None:
                version.state = State.END
                return True
            version.state = State.UNLOADING
            seconds = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            if not self._changed.wait_for(lambda: not version.users, seconds):
                _logger.warning("Version %d of model %s still runs requests", number, name)
                return False
            model, version.model = version.model, None
        model.close()
        del model
        process.trim_heap()
        with self._changed:
            version.state = State.END
        _logger.info("Unloaded version %d of model %s", number, name)
        return True


def _serves(versions: Mapping[int, ModelVersion], number: int) -> bool:
    return number in versions and versions[number].serves()


def _unwanted(versions: Mapping[int, ModelVersion], aspired: Collection[int]) -> list[int]:
    """Returns the versions to unload now, the oldest first.

    These are all that are not aspired, except for one that serves while no aspired one does.
    """
    unaspired = sorted(versions.keys() - set(aspired))
    serving = [number for number in unaspired if versions[number].serves()]
    serves_aspired = any(_serves(versions, number) for number in aspired)
    kept = serving[-1:] if aspired and not serves_aspired else []
    return [number for number in unaspired if number not in kept]
