"""A model server in this process that speaks TensorFlow Serving's protocol.

Development and tests run it instead of TensorFlow Serving: answers and status codes are equal.
`python -m serving.model_server --help` lists its flags.

    with model_server.ModelServer({"ranker": "/bundle/ranker"}) as server:
        channel = grpc.insecure_channel(f"127.0.0.1:{server.port}")
"""

import logging
import os
import threading
import time
from collections.abc import Mapping

import grpc

from serving import model_config, saved_model
from serving.errors import ServerStartError
from serving.model_server import grpc_server, rest_server, servable, servable_manager

DEFAULT_THREADS = 4 * (os.cpu_count() or 1)
# For requests that end because the grace period is over.
_SECONDS_AFTER_GRACE = 1.0

_logger = logging.getLogger(__name__)


class ModelServer:
    """Serves SavedModels over gRPC and optionally REST until it is stopped."""

    def __init__(
        self,
        models: Mapping[str, str | os.PathLike[str]] | model_config.ModelServerConfig,
        *,
        port: int = 0,
        rest_port: int | None = None,
        host: str = "127.0.0.1",
        poll_seconds: float | None = 1.0,
        grpc_max_threads: int = DEFAULT_THREADS,
    ) -> None:
        """Prepares a server; nothing is bound or loaded before `start`.

        Args:
            models: Base path of each model by name, or a whole configuration.
            port: gRPC port; 0 for any free one.
            rest_port: REST port; 0 for any free one, None for no REST.
            host: Address to bind.
            poll_seconds: Time between two checks of the base paths; None checks only at the
                start and in `manager.poll`.
            grpc_max_threads: Maximum number of gRPC requests that run at once. Further ones are
                refused (RESOURCE_EXHAUSTED).
        """
        if isinstance(models, model_config.ModelServerConfig):
            self._config = models
        else:
            self._config = model_config.build(
                {name: os.path.abspath(path) for name, path in models.items()}
            )
        self.port = port
        self.rest_port = rest_port
        self.host = host
        self.manager = servable_manager.ServableManager(_load)
        self.free_threads = threading.Semaphore(grpc_max_threads)
        self._max_threads = grpc_max_threads
        self._poll_seconds = poll_seconds
        self._grpc: grpc.Server | None = None
        self._rest: rest_server.RestServer | None = None
        self._stopping = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="poll-models", daemon=True)

    def start(self) -> "ModelServer":
        """Binds the ports, loads the models and starts answering.

        Returns:
            The server.

        Raises:
            ServerStartError: A port is taken, the configuration is wrong or a model cannot be
                loaded. Nothing is left running.
        """
        try:
            self._bind()
            self.manager.reload(self._config)
        except (OSError, saved_model.StatusError) as error:
            self.stop(grace_seconds=0)
            raise ServerStartError(str(error)) from error
        if self._grpc is not None:
            self._grpc.start()
        if self._rest is not None:
            self._rest.start()
        if self._poll_seconds is not None:
            self._poller.start()
        return self

    def stop(self, grace_seconds: float = 5.0) -> bool:
        """Stops accepting requests, lets running ones end, and unloads the models.

        Args:
            grace_seconds: Time after which requests that still run are answered by an error.
                Their operations continue, because TensorFlow cannot interrupt them, and a model
                in use keeps its session.

        Returns:
            Whether all requests and loads ended within the grace period and one more second.
        """
        deadline = time.monotonic() + grace_seconds + _SECONDS_AFTER_GRACE

        def left() -> float:
            return max(deadline - time.monotonic(), 0.0)

        self._stopping.set()
        stopped = self._grpc.stop(grace_seconds) if self._grpc is not None else None
        if self._rest is not None:
            self._rest.stop(grace_seconds)
        if stopped is not None:
            stopped.wait(left())
        if self._poller.is_alive():
            self._poller.join(left())
        return self.manager.close(left())

    def __enter__(self) -> "ModelServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _bind(self) -> None:
        host = f"[{self.host}]" if ":" in self.host else self.host
        self._grpc, self.port = grpc_server.build(
            self.manager, f"{host}:{self.port}", self._max_threads, self.free_threads
        )
        if self.rest_port is None:
            return
        try:
            self._rest = rest_server.RestServer(self.manager, self.host, self.rest_port)
        except OSError as error:
            raise OSError(
                f"Cannot bind REST to {host}:{self.rest_port}; is the port in use? ({error})"
            ) from error
        self.rest_port = self._rest.port

    def _poll(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            try:
                self.manager.poll()
            except Exception:
                _logger.exception("The models were not updated; the next try follows.")


def _load(name: str, version: int, path: str) -> servable.Servable:
    model = servable.Servable(name, version, path, saved_model.session_config())
    try:
        model.warm_up()
    except Exception:
        model.close()
        raise
    return model
