"""Keeps the versions of every model that the configuration asks for loaded, and hands them out.

The last version that serves is unloaded only after a new one is loaded, or when no version is
left on disk; all others that are not wanted are unloaded first, which takes less memory. A version
that fails to load is tried again later and disturbs nothing that serves.

References: TensorFlow Serving, `core/availability_preserving_policy.cc`, `model_servers/
    server_core.cc`.
"""

import contextlib
import logging
import os
import threading
import time
import typing
from collections.abc import Callable, Iterator

import grpc
from tensorflow_serving.apis import get_model_status_pb2, model_pb2

from serving import process, saved_model
from serving.model_server.models import model_config, model_versions, servable

_logger = logging.getLogger(__name__)

Loader = Callable[[str, int, str | os.PathLike[str]], servable.Servable]


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
            load: loads (name, version, directory), or raises.
            max_load_retries: how often a failed load is repeated.
            load_retry_seconds: the time between two tries.
            allow_labels_for_unavailable: whether a label that is new may name a version that is
                not loaded.
        """
        self._load_servable = load
        self._max_load_retries = max_load_retries
        self._load_retry_seconds = load_retry_seconds
        self._allow_labels_for_unavailable = allow_labels_for_unavailable
        self._configs: dict[str, model_config.ModelConfig] = {}
        self._models: dict[str, dict[int, model_versions.Version]] = {}
        self._labels: dict[tuple[str, str], int] = {}
        self._is_first = True
        # Loading takes seconds: `_updating` is held throughout, `_changed` only for look-ups.
        self._updating = threading.RLock()
        self._changed = threading.Condition()

    def reload(self, config: model_config.ModelServerConfig) -> None:
        """Replaces the whole list of models and waits until each new one serves.

        Raises:
            StatusError: INVALID_ARGUMENT or FAILED_PRECONDITION if the configuration is refused
                and nothing was changed; NOT_FOUND if a new model has no version; UNKNOWN if no
                version of a new model could be loaded; INVALID_ARGUMENT, when all is loaded, if
                requests are to be logged.
        """
        with self._updating:
            if config.WhichOneof("config") is None:
                return
            model_config.validate(config, self._configs)
            configs = {model.name: model for model in config.model_config_list.config}
            labels = self._checked_labels(configs)
            model_config.check_platforms(config)
            new = configs.keys() - self._configs.keys()
            for name in sorted(new):
                model_config.check_not_empty(configs[name])
            removed = self._configs.keys() - configs.keys()
            self._configs, self._labels = configs, labels
            for name in removed:
                self._apply(name, {})
            self.poll()
            what, self._is_first = "servable" if self._is_first else "model", False
            self._check_available(new, what)
            model_config.check_loggers(config)

    def poll(self) -> None:
        """Compares the disk with what is loaded, then loads and unloads what differs."""
        with self._updating:
            for name, config in self._configs.items():
                try:
                    aspired = model_config.aspired_versions(config)
                except saved_model.StatusError as error:
                    _logger.warning("%s", error.message)
                    continue
                self._apply(name, {version: os.fspath(path) for version, path in aspired.items()})

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
            StatusError: NOT_FOUND if the model or version was never seen.
        """
        with self._changed:
            versions = self._models.get(spec.name, {})
            if spec.HasField("version"):
                wanted = spec.version.value
                if wanted not in versions:
                    raise saved_model.not_found(
                        f"Could not find version {wanted} of model {spec.name}"
                    )
                versions = {wanted: versions[wanted]}
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
            timeout_seconds: how long to wait for a running load and for requests; None for as
                long as it takes.

        Returns:
            Whether all is unloaded. A version that is still used keeps its session.
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

    def _resolve(self, spec: model_pb2.ModelSpec) -> model_versions.Version:
        if not spec.name:
            raise saved_model.invalid_argument("ModelSpec has no name specified.")
        versions = self._models.get(spec.name, {})
        choice = spec.WhichOneof("version_choice")
        if choice is None:
            serving = [key for key, value in versions.items() if value.serves()]
            if serving:
                return versions[max(serving)]
            wanted = f"Latest({spec.name})"
        else:
            number = spec.version.value
            if choice == "version_label":
                if (spec.name, spec.version_label) not in self._labels:
                    raise saved_model.invalid_argument(
                        f"Unrecognized servable version label: {spec.version_label}"
                    )
                number = self._labels[spec.name, spec.version_label]
            if number in versions and versions[number].serves():
                return versions[number]
            wanted = f"Specific({spec.name}, {number})"
        raise saved_model.not_found(f"Servable not found for request: {wanted}")

    def _checked_labels(
        self, configs: dict[str, model_config.ModelConfig]
    ) -> dict[tuple[str, str], int]:
        labels = {}
        for name, config in configs.items():
            versions = self._models.get(name, {})
            for label, number in config.version_labels.items():
                current = self._labels.get((name, label), number)
                allowed = self._allow_labels_for_unavailable and current == number
                if not allowed and not (number in versions and versions[number].serves()):
                    raise saved_model.failed_precondition(
                        f"Request to assign label to version {number} of model {name}, "
                        "which is not currently available for inference"
                    )
                labels[name, label] = number
        return labels

    def _check_available(self, names: set[str], what: str) -> None:
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
                f"{len(failed)} {what}(s) did not become available: {{{''.join(failed)}}}",
            )

    def _apply(self, name: str, aspired: dict[int, str]) -> None:
        with self._changed:
            versions = self._models.setdefault(name, {})
        for number in sorted(aspired, reverse=True):
            for replaced in model_versions.replaced(versions, aspired):
                self._unload(name, replaced)
            self._load(name, number, aspired[number])
        for replaced in model_versions.replaced(versions, aspired):
            self._unload(name, replaced)

    def _load(self, name: str, number: int, path: str) -> None:
        version = self._models[name].get(number)
        if version is None or (version.state == model_versions.State.END and not version.gave_up):
            version = model_versions.Version()
            with self._changed:
                self._models[name][number] = version
        if not version.is_due():
            return
        with self._changed:
            version.state = model_versions.State.LOADING
        try:
            model = self._load_servable(name, number, path)
        except Exception as error:
            status = saved_model.status_from_exception(error)
            _logger.error("Cannot load version %d of model %s: %s", number, name, status)
            with self._changed:
                version.note_failure(status, self._max_load_retries, self._load_retry_seconds)
            return
        with self._changed:
            version.model, version.error, version.state = (
                model,
                None,
                model_versions.State.AVAILABLE,
            )
        _logger.info("Loaded version %d of model %s", number, name)

    def _unload(self, name: str, number: int, deadline: float | None = None) -> bool:
        """Unloads a version after its last request; returns False if that ran past `deadline`."""
        version = self._models[name][number]
        with self._changed:
            version.gave_up = False
            if version.state == model_versions.State.END or version.model is None:
                version.state = model_versions.State.END
                return True
            version.state = model_versions.State.UNLOADING
            seconds = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            if not self._changed.wait_for(lambda: not version.users, seconds):
                _logger.warning("Version %d of model %s still runs requests", number, name)
                return False
            model, version.model = version.model, None
        model.close()
        del model
        process.trim_heap()
        with self._changed:
            version.state = model_versions.State.END
        _logger.info("Unloaded version %d of model %s", number, name)
        return True
