"""A model server in this process that speaks TensorFlow Serving's protocol.

It is what development and tests run instead of TensorFlow Serving; clients cannot tell the two
apart. `python -m serving.model_server --help` lists its flags.

    with model_server.ModelServer({"ranker": "/bundle/ranker"}) as server:
        channel = grpc.insecure_channel(f"127.0.0.1:{server.port}")
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType

import grpc

from serving import saved_model
from serving.errors import ServerStartError
from serving.model_server import model_loader, server_options
from serving.model_server.grpc import grpc_health, grpc_server
from serving.model_server.metrics import serving_metrics
from serving.model_server.models import model_config, servable_manager
from serving.model_server.rest import rest_api, rest_server

Options = server_options.ServerOptions

# For what ends because its time is over.
_SECONDS_AFTER_GRACE = 1.0

_logger = logging.getLogger(__name__)


class ModelServer:
    """Serves SavedModels by gRPC and, on demand, REST, until it is stopped."""

    def __init__(
        self,
        models: Mapping[str, str | os.PathLike[str]] | model_config.ModelServerConfig,
        *,
        port: int | None = 0,
        rest_port: int | None = None,
        host: str = "127.0.0.1",
        poll_seconds: float | None = 1.0,
        options: Options | None = None,
    ) -> None:
        """Prepares a server; nothing is bound or loaded before `start`.

        Args:
            models: the base path of each model by name, or a whole configuration.
            port: the gRPC port; 0 for any free one, None for the UNIX socket of the options
                alone.
            rest_port: the REST port; 0 for any free one, None for no REST.
            host: the address to bind.
            poll_seconds: how often the base paths are looked at; None for never but at the start
                and by `poll`.
            options: everything else.
        """
        if isinstance(models, model_config.ModelServerConfig):
            self._config = models
        else:
            self._config = model_config.config_from_base_paths(
                {name: os.path.abspath(path) for name, path in models.items()}
            )
        self.port = port
        self.rest_port = rest_port
        self.host = host
        self._poll_seconds = poll_seconds
        self._options = options or Options()
        self._grpc: grpc.Server | None = None
        self._rest: rest_server.RestServer | None = None
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self.metrics = serving_metrics.ServingMetrics()
        self._health = grpc_health.HealthService()
        self._loader = model_loader.ModelLoader(self._options, self.metrics)
        self.manager = servable_manager.ServableManager(
            self._loader.load,
            self._options.max_num_load_retries,
            self._options.load_retry_seconds,
            self._options.allow_version_labels_for_unavailable_models,
        )

    def start(self) -> "ModelServer":
        """Binds the ports, loads the models and starts answering.

        Returns:
            The server.

        Raises:
            ServerStartError: if a port is taken, the configuration is wrong or a model cannot be
                loaded. Nothing is left running.
        """
        try:
            self._bind()
            self.manager.reload(self._config)
        except (OSError, RuntimeError, saved_model.StatusError) as error:
            self.stop(grace_seconds=0)
            raise ServerStartError(str(error)) from error
        if self._grpc is not None:
            self._grpc.start()
        if self._rest is not None:
            self._rest.start()
        self._start_polling()
        return self

    def stop(self, grace_seconds: float = 5.0) -> bool:
        """Stops taking requests, lets running ones end, and unloads the models.

        Args:
            grace_seconds: after this time, requests that still run are answered by an error.
                What they run goes on: TensorFlow ends no operation, and a model in use keeps its
                session.

        Returns:
            Whether all requests and loads ended, at the latest a second after the grace time.
        """
        deadline = time.monotonic() + grace_seconds + _SECONDS_AFTER_GRACE

        def left() -> float:
            return max(deadline - time.monotonic(), 0.0)

        self._stopping.set()
        self._health.close()
        stopped = self._grpc.stop(grace_seconds) if self._grpc is not None else None
        if self._rest is not None:
            self._rest.stop(grace_seconds)
        if stopped is not None:
            stopped.wait(left())
        for thread in self._threads:
            thread.join(left())
        ended = self.manager.close(left())
        if ended:
            self._loader.close()
        return ended

    def poll(self) -> None:
        """Looks at the base paths now; returns when what changed is loaded and unloaded."""
        self.manager.poll()

    def available_versions(self) -> dict[str, list[int]]:
        """Returns the versions that serve, by model, in ascending order."""
        return self.manager.available_versions()

    def __enter__(self) -> "ModelServer":
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _bind(self) -> None:
        options = self._options
        host = f"[{self.host}]" if ":" in self.host else self.host
        address = f"{host}:{self.port}" if self.port is not None else None
        self._grpc, self.port = grpc_server.build(
            self.manager, address, options, self.metrics, self._health
        )
        if self.rest_port is None:
            return
        try:
            self._rest = rest_server.RestServer(
                rest_api.RestApi(self.manager, options, self.metrics),
                self.host,
                self.rest_port,
                options.rest_api_num_threads,
                options.rest_api_timeout_seconds,
            )
        except OSError as error:
            raise OSError(
                f"Cannot bind REST to {host}:{self.rest_port}; is the port in use? ({error})"
            ) from error
        self.rest_port = self._rest.port

    def _start_polling(self) -> None:
        options = self._options
        if self._poll_seconds is not None:
            self._repeat(self._poll_seconds, "poll-models", self.manager.poll)
        if options.model_config_file and options.model_config_file_poll_wait_seconds > 0:
            self._repeat(
                options.model_config_file_poll_wait_seconds, "poll-config", self._reload_file
            )

    def _reload_file(self) -> None:
        self.manager.reload(model_config.read_config(str(self._options.model_config_file)))

    def _repeat(self, seconds: float, name: str, action: Callable[[], None]) -> None:
        def loop() -> None:
            while not self._stopping.wait(seconds):
                try:
                    action()
                except Exception:
                    _logger.exception("%s failed; it is tried again in %s s", name, seconds)

        thread = threading.Thread(target=loop, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)
