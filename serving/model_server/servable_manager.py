"""Keeps the versions of all configured models loaded, and hands them out to requests.

The last version that serves is unloaded only after a new one is loaded, or when no version is
left on disk. All other unwanted versions are unloaded first, which takes less memory. A version
that fails to load is tried once more, while the others serve.

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
from tensorflow_serving.apis import get_model_status_pb2, model_pb2, status_pb2

from serving import model_config, process, saved_model
from serving.model_server import servable, version_policy

_logger = logging.getLogger(__name__)

State: typing.TypeAlias = get_model_status_pb2.ModelVersionStatus
Loader = Callable[[str, int, str], servable.Servable]

_RETRY_SECONDS = 60.0


@dataclasses.dataclass
class ModelVersion:
    """A version of a model in the server; an unloaded one stays listed as END."""

    state: int = State.START
    # None while it is not AVAILABLE.
    model: servable.Servable | None = None
    # Of the last load, and the time of the second attempt, by `time.monotonic`.
    error: saved_model.StatusError | None = None
    retry_at: float = 0.0
    # Number of requests that run on the version.
    users: int = 0

    def serves(self) -> bool:
        """Returns whether requests may use the version."""
        return self.model is not None and self.state == State.AVAILABLE

    def to_proto(self, number: int) -> get_model_status_pb2.ModelVersionStatus:
        """Returns the status for GetModelStatus; a version that is retried has no error."""
        status = status_pb2.StatusProto()
        if self.error is not None and self.state == State.END:
            status.error_code = self.error.code.value[0]
            status.error_message = self.error.message
        return get_model_status_pb2.ModelVersionStatus(
            version=number, state=self.state, status=status
        )


class ServableManager:
    """The models of one server; all methods may be called from any thread."""

    def __init__(self, load: Loader, retry_seconds: float = _RETRY_SECONDS) -> None:
        """Creates a manager without models; `load` gets model name, version and directory."""
        self._load_servable = load
        self._retry_seconds = retry_seconds
        self._configs: dict[str, model_config.ModelConfig] = {}
        self._models: dict[str, dict[int, ModelVersion]] = {}
        # Base paths that could not be listed at the last poll.
        self._missing: set[str] = set()
        # Loading takes seconds: `_updating` is held throughout, `_changed` only for lookups.
        self._updating = threading.RLock()
        self._changed = threading.Condition()

    def reload(self, config: model_config.ModelServerConfig) -> None:
        """Replaces the list of models and waits until each new model with a version serves."""
        with self._updating:
            version_policy.validate(config)
            configs = {model.name: model for model in config.model_config_list.config}
            problems = [_problem(model) for model in configs.values()]
            if problems and all(problems):
                raise problems[0]  # type: ignore[misc]
            new = configs.keys() - self._configs.keys()
            removed = self._configs.keys() - configs.keys()
            self._configs = configs
            for name in removed:
                self._apply(name, {})
            self.poll()
            for name in sorted(new):
                self._check_available(name)

    def poll(self) -> None:
        """Compares the disk with the loaded versions, then loads and unloads the differences."""
        with self._updating:
            for name, config in self._configs.items():
                try:
                    aspired = version_policy.aspired_versions(config)
                except saved_model.StatusError as error:
                    if name not in self._missing:
                        _logger.warning("%s", error)
                    self._missing.add(name)
                    continue
                self._missing.discard(name)
                self._apply(name, aspired)

    @contextlib.contextmanager
    def use(self, spec: model_pb2.ModelSpec) -> Iterator[servable.Servable]:
        """Yields the version that a request names, kept loaded until the block ends."""
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
        """Returns the state of one version, or of all versions, the newest first."""
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

    def close(self, timeout_seconds: float) -> bool:
        """Unloads everything, each version after its last request; returns whether all were."""
        deadline = time.monotonic() + timeout_seconds
        if not self._updating.acquire(timeout=timeout_seconds):
            return False
        try:
            self._configs = {}
            unloaded = True
            for versions in self._models.values():
                for version in versions.values():
                    unloaded = self._unload(version, deadline) and unloaded
            return unloaded
        finally:
            self._updating.release()

    def _resolve(self, spec: model_pb2.ModelSpec) -> ModelVersion:
        if not spec.name:
            raise saved_model.invalid_argument("ModelSpec has no name specified.")
        versions = self._models.get(spec.name, {})
        choice = spec.WhichOneof("version_choice")
        if choice == "version_label":
            raise saved_model.invalid_argument(
                f"Unrecognized servable version label: {spec.version_label}"
            )
        if choice is None:
            serving = [key for key, value in versions.items() if value.serves()]
            if serving:
                return versions[max(serving)]
            raise saved_model.not_found(f"Servable not found for request: Latest({spec.name})")
        number = spec.version.value
        if not _serves(versions, number):
            raise saved_model.not_found(
                f"Servable not found for request: Specific({spec.name}, {number})"
            )
        return versions[number]

    def _check_available(self, name: str) -> None:
        versions = self._models.get(name)
        if versions and not any(version.serves() for version in versions.values()):
            failed = "; ".join(f"{key}: {version.error}" for key, version in versions.items())
            raise saved_model.StatusError(
                grpc.StatusCode.UNKNOWN, f"No version of {name} could be loaded: {failed}"
            )

    def _apply(self, name: str, aspired: dict[int, str]) -> None:
        with self._changed:
            versions = self._models.setdefault(name, {})
        for number in sorted(aspired, reverse=True):
            for unwanted in _unwanted(versions, aspired):
                self._unload(versions[unwanted])
            self._load(name, number, aspired[number])
        for unwanted in _unwanted(versions, aspired):
            self._unload(versions[unwanted])

    def _load(self, name: str, number: int, path: str) -> None:
        version = self._models[name].get(number)
        if version is None or (version.state == State.END and version.error is None):
            version = ModelVersion()
            with self._changed:
                self._models[name][number] = version
        is_done = version.state in (State.AVAILABLE, State.END)
        if is_done or time.monotonic() < version.retry_at:
            return
        with self._changed:
            version.state = State.LOADING
        try:
            model = self._load_servable(name, number, path)
        except Exception as error:
            status = saved_model.status_from_exception(error)
            _logger.error("Cannot load version %d of model %s: %s", number, name, status)
            with self._changed:
                if version.error is not None:
                    version.state = State.END
                version.error = status
                version.retry_at = time.monotonic() + self._retry_seconds
            return
        with self._changed:
            version.model, version.error, version.state = model, None, State.AVAILABLE
        _logger.info("Loaded version %d of model %s", number, name)

    def _unload(self, version: ModelVersion, deadline: float | None = None) -> bool:
        """Unloads a version after its last request; returns False if that ran past `deadline`."""
        with self._changed:
            version.error = None
            if version.model is None:
                version.state = State.END
                return True
            version.state = State.UNLOADING
            seconds = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            if not self._changed.wait_for(lambda: not version.users, seconds):
                return False
            model, version.model = version.model, None
        model.close()
        _logger.info("Unloaded version %d of model %s", model.version, model.name)
        del model
        process.trim_heap()
        with self._changed:
            version.state = State.END
        return True


def _problem(model: model_config.ModelConfig) -> saved_model.StatusError | None:
    """Returns why a model has no version to serve; None if it has one."""
    try:
        if version_policy.aspired_versions(model):
            return None
    except saved_model.StatusError as error:
        return error
    return saved_model.not_found(
        f"No versions of servable {model.name} found under base path {model.base_path}: expected a "
        "directory named by an integer, such as 1, that the version policy admits."
    )


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
