"""A model server in this process that speaks TensorFlow Serving's protocol.

Development and tests run it instead of TensorFlow Serving; clients cannot distinguish the two.
`python -m serving.model_server --help` lists its flags.

    with model_server.ModelServer({"ranker": "/bundle/ranker"}) as server:
        channel = grpc.insecure_channel(f"127.0.0.1:{server.port}")
"""

import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping

import grpc

from serving import model_config, saved_model
from serving.errors import ServerStartError
from serving.model_server import loading, server_metrics, server_options
from serving.model_server.grpc import grpc_server
from serving.model_server.models import servable_manager
from serving.model_server.rest import rest_api, rest_server

Options = server_options.ServerOptions

# For requests that end because the grace period is over.
_SECONDS_AFTER_GRACE = 1.0

# Errors of a configuration, whose message says what is wrong.
_CONFIG_ERRORS = (OSError, ValueError, saved_model.StatusError)

_logger = logging.getLogger(__name__)


class ModelServer:
    """Serves SavedModels over gRPC and optionally REST until it is stopped."""

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
            models: Base path of each model by name, or a whole configuration.
            port: gRPC port; 0 for any free one, None for only the UNIX socket of the options.
            rest_port: REST port; 0 for any free one, None for no REST.
            host: Address to bind.
            poll_seconds: Time between two checks of the base paths; None checks only at the
                start and in `manager.poll`.
            options: All other options; None for the defaults.
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
        self._poll_seconds = poll_seconds
        self._options = options or Options()
        self._grpc: grpc.Server | None = None
        self._rest: rest_server.RestServer | None = None
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self.metrics = server_metrics.ServerMetrics()
        self.manager = servable_manager.ServableManager(
            functools.partial(loading.load, self._options, self.metrics),
            self._options.max_num_load_retries,
            self._options.load_retry_seconds,
            self._options.allow_version_labels_for_unavailable_models,
        )

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
        except (RuntimeError, *_CONFIG_ERRORS) as error:
            self.stop(grace_seconds=0)
            raise ServerStartError(str(error)) from error
        if self._grpc is not None:
            self._grpc.start()
        if self._rest is not None:
            self._rest.start()
        self._start_polling()
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
        for thread in self._threads:
            thread.join(left())
        return self.manager.close(left())

    def __enter__(self) -> "ModelServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _bind(self) -> None:
        options = self._options
        host = f"[{self.host}]" if ":" in self.host else self.host
        address = f"{host}:{self.port}" if self.port is not None else None
        self._grpc, self.port = grpc_server.build(self.manager, address, options, self.metrics)
        if self.rest_port is None:
            return
        try:
            self._rest = rest_server.RestServer(
                rest_api.RestApi(self.manager, options, self.metrics),
                self.host,
                self.rest_port,
                options,
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
                options.model_config_file_poll_wait_seconds,
                "poll-config",
                lambda: self.manager.reload(model_config.read(options.model_config_file)),
            )

    def _repeat(self, seconds: float, name: str, action: Callable[[], None]) -> None:
        def loop() -> None:
            problem: str | None = None
            while not self._stopping.wait(seconds):
                try:
                    action()
                    problem = None
                except _CONFIG_ERRORS as error:
                    if str(error) != problem:
                        _logger.error("%s fails, and is tried every %g s: %s", name, seconds, error)
                    problem = str(error)
                except Exception:
                    _logger.exception("%s failed; the next try is in %g s", name, seconds)

        thread = threading.Thread(target=loop, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)
