"""The standard gRPC health check, without its package.

Its messages have one field each, so the well-known wrappers of the same wire form stand for them.

References: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

import grpc
from google.protobuf import wrappers_pb2

_SERVICE = "grpc.health.v1.Health"
_SERVING = 1
_KNOWN = ("", "ModelService", "PredictionService")


def handler() -> grpc.GenericRpcHandler:
    """Returns the handler of `Check`; a server that answers it serves all its models."""
    return grpc.method_handlers_generic_handler(
        _SERVICE,
        {
            "Check": grpc.unary_unary_rpc_method_handler(
                _check,
                request_deserializer=wrappers_pb2.StringValue.FromString,
                response_serializer=wrappers_pb2.Int32Value.SerializeToString,
            )
        },
    )


def _check(
    request: wrappers_pb2.StringValue, context: grpc.ServicerContext
) -> wrappers_pb2.Int32Value:
    if request.value not in _KNOWN:
        context.abort(grpc.StatusCode.NOT_FOUND, "service name unknown")
    return wrappers_pb2.Int32Value(value=_SERVING)
