"""Builds the gRPC server: its services, its threads and its port."""

from concurrent import futures

import grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving.embedded import grpc_health, prediction_service, servable_manager

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Or a second server would share the port, and take half of the requests.
    ("grpc.so_reuseport", 0),
)


def build(
    manager: servable_manager.ServableManager,
    address: str,
    num_threads: int,
    as_content: bool,
    health: bool,
) -> tuple[grpc.Server, int]:
    """Binds a server that `start` has yet to be called on.

    Args:
        manager: the models.
        address: host and port; port 0 is any free one.
        num_threads: how many requests run at once.
        as_content: whether replies carry `tensor_content`.
        health: whether the health check is answered.

    Returns:
        The server and its port.

    Raises:
        OSError: if the port cannot be bound.
    """
    pool = futures.ThreadPoolExecutor(num_threads, thread_name_prefix="grpc")
    server = grpc.server(pool, options=_OPTIONS)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        prediction_service.PredictionService(manager, as_content), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(
        prediction_service.ModelService(manager), server
    )
    if health:
        server.add_generic_rpc_handlers((grpc_health.handler(),))
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"Cannot bind gRPC to {address}; is the port in use? ({error})") from error
    return server, port
