"""Builds the gRPC server: its services, its threads and its port."""

import os
from concurrent import futures

import grpc

from serving.model_server import server_metrics, server_options
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
        options: Threads, the UNIX socket and the services.
        metrics: Metrics of the requests.

    Returns:
        The server and its port; 0: no port.

    Raises:
        OSError: The port or the socket cannot be bound.
    """
    # One more thread than running requests: it refuses further ones.
    pool = futures.ThreadPoolExecutor(options.grpc_max_threads + 1, thread_name_prefix="grpc")
    limit = ("grpc.max_receive_message_length", options.max_request_bytes)
    server = grpc.server(pool, options=(*_OPTIONS, limit, *options.grpc_channel_arguments))
    server.add_generic_rpc_handlers(grpc_services.handlers(manager, options, metrics))
    if options.enable_grpc_healthcheck_service:
        server.add_generic_rpc_handlers((grpc_health.handler(),))
    port = _bind(server, address) if address is not None else 0
    if options.grpc_socket_path:
        _bind(server, f"unix:{os.path.abspath(options.grpc_socket_path)}")
    return server, port


def _bind(server: grpc.Server, address: str) -> int:
    try:
        return server.add_insecure_port(address)
    except RuntimeError as error:
        question = "is the port in use?"
        if address.startswith("unix:"):
            question = "does the directory of --grpc_socket_path exist, and is it writable?"
        raise OSError(f"Cannot bind gRPC to {address}; {question} ({error})") from error
