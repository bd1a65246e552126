"""Builds the gRPC server: its services, its threads and its port."""

import os
from concurrent import futures

import grpc

from serving import model_config
from serving.model_server import config_messages, server_metrics, server_options
from serving.model_server.grpc import grpc_health, grpc_services
from serving.model_server.models import servable_manager

_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    # Otherwise a second server would share the port and take half of the requests.
    ("grpc.so_reuseport", 0),
)


def build(
    manager: servable_manager.ServableManager,
    address: str | None,
    options: server_options.ServerOptions,
    metrics: server_metrics.ServerMetrics,
) -> tuple[grpc.Server, int]:
    """Binds a server and does not start it.

    Args:
        manager: The models.
        address: Host and port; port 0 is any free one. None for only the UNIX socket.
        options: Threads, credentials, the UNIX socket and the services.
        metrics: Metrics of the requests.

    Returns:
        The server and its port, 0 if there is none.

    Raises:
        OSError: The port or the socket cannot be bound, or `ssl_config_file` cannot be read.
        ValueError: `ssl_config_file` is not an SSLConfig.
    """
    # One thread more than requests, which refuses those beyond them.
    pool = futures.ThreadPoolExecutor(options.grpc_max_threads + 1, thread_name_prefix="grpc")
    limit = ("grpc.max_receive_message_length", options.max_request_bytes)
    server = grpc.server(pool, options=(*_OPTIONS, limit, *options.grpc_channel_arguments))
    server.add_generic_rpc_handlers(grpc_services.handlers(manager, options, metrics))
    if options.enable_grpc_healthcheck_service:
        server.add_generic_rpc_handlers((grpc_health.handler(),))
    credentials = _credentials(options.ssl_config_file) if options.ssl_config_file else None
    port = _bind(server, address, credentials) if address is not None else 0
    if options.grpc_socket_path:
        _bind(server, f"unix:{os.path.abspath(options.grpc_socket_path)}", credentials)
    return server, port


def _bind(server: grpc.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    try:
        if credentials is not None:
            return server.add_secure_port(address, credentials)
        return server.add_insecure_port(address)
    except RuntimeError as error:
        question = "is the port in use?"
        if address.startswith("unix:"):
            question = "does the directory of --grpc_socket_path exist, and is it writable?"
        elif credentials is not None:
            question = (
                "is the port in use, or is --ssl_config_file without a PEM key and its certificate?"
            )
        raise OSError(f"Cannot bind gRPC to {address}; {question} ({error})") from error


def _credentials(path: str) -> grpc.ServerCredentials:
    config = model_config.read_text(path, config_messages.SSLConfig())
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )
