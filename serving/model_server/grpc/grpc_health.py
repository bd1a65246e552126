"""The standard gRPC health check, `Check` alone, without its package.

Its messages have one field each, so well-known wrappers of the same wire form replace them.

References: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

import grpc
from google.protobuf import wrappers_pb2

_SERVICE = "grpc.health.v1.Health"
_SERVING = 1
_KNOWN = ("", "ModelService", "PredictionService")


def handler() -> grpc.GenericRpcHandler:
    """Returns the handler to add to a gRPC server: a server that answers is serving."""
    check = grpc.unary_unary_rpc_method_handler(
        _check,
        request_deserializer=wrappers_pb2.StringValue.FromString,
        response_serializer=wrappers_pb2.Int32Value.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(_SERVICE, {"Check": check})


def _check(
    request: wrappers_pb2.StringValue, context: grpc.ServicerContext
) -> wrappers_pb2.Int32Value:
    if request.value not in _KNOWN:
        context.abort(grpc.StatusCode.NOT_FOUND, "service name unknown")
    return wrappers_pb2.Int32Value(value=_SERVING)
