"""Messages of TensorFlow Serving's configuration files that its Python package does not carry.

They are declared here field by field; the text form of a message needs no more than that. The
profiler's messages, of which the wire form is used, have the fields that are used.

References: TensorFlow Serving, `config/monitoring_config.proto`, `config/ssl_config.proto` and
    `servables/tensorflow/session_bundle_config.proto`; TensorFlow,
    `tsl/profiler/protobuf/profiler_service.proto`.
"""

import os
import pathlib
from typing import Any, TypeVar

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message,
    message_factory,
    text_format,
    wrappers_pb2,
)

from serving import saved_model

_PACKAGE = "tensorflow.serving"
_WRAPPERS = ".google.protobuf."
_TYPES = {
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
}
# For each message its fields: name, number, type; a type with a dot or a capital is a message.
_MESSAGES = {
    "PrometheusConfig": (("enable", 1, "bool"), ("path", 2, "string")),
    "MonitoringConfig": (("prometheus_config", 1, "PrometheusConfig"),),
    "SSLConfig": (
        ("server_key", 1, "string"),
        ("server_cert", 2, "string"),
        ("custom_ca", 3, "string"),
        ("client_verify", 4, "bool"),
    ),
    "BatchingParameters": (
        ("max_batch_size", 1, _WRAPPERS + "Int64Value"),
        ("batch_timeout_micros", 2, _WRAPPERS + "Int64Value"),
        ("max_enqueued_batches", 3, _WRAPPERS + "Int64Value"),
        ("num_batch_threads", 4, _WRAPPERS + "Int64Value"),
        ("thread_pool_name", 5, _WRAPPERS + "StringValue"),
        ("allowed_batch_sizes", 6, "repeated int64"),
        ("pad_variable_length_inputs", 7, "bool"),
        ("enable_large_batch_splitting", 8, _WRAPPERS + "BoolValue"),
        ("max_execution_batch_size", 9, _WRAPPERS + "Int64Value"),
    ),
    "ProfileRequest": (
        ("duration_ms", 1, "int64"),
        ("repository_root", 5, "string"),
        ("session_id", 6, "string"),
        ("host_name", 7, "string"),
    ),
    "ProfileResponse": (("empty_trace", 7, "bool"),),
    "TerminateRequest": (("session_id", 1, "string"),),
}
_Message = TypeVar("_Message", bound=message.Message)


def read_text(path: str | os.PathLike[str], target: _Message) -> _Message:
    """Reads a message from a file in text form.

    Args:
        path: the file.
        target: an empty message, which is filled.

    Returns:
        `target`.

    Raises:
        StatusError: NOT_FOUND if there is no such file, INVALID_ARGUMENT if it is not such a
            message.
    """
    name = target.DESCRIPTOR.full_name
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        text_format.Parse(text, target)
    except OSError as error:
        raise saved_model.not_found(f"Cannot read a {name} from {path}: {error}") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise saved_model.invalid_argument(
            f"Invalid protobuf file: '{path}'. Error parsing text-format {name}: {error}"
        ) from error
    return target


def _declare() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(
        name="serving/model_server/config_messages.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    for name, fields in _MESSAGES.items():
        declared = file.message_type.add(name=name)
        for field, number, kind in fields:
            kind, repeated = kind.removeprefix("repeated "), kind.startswith("repeated ")
            added = declared.field.add(name=field, number=number)
            added.label = added.LABEL_REPEATED if repeated else added.LABEL_OPTIONAL
            if kind in _TYPES:
                added.type = _TYPES[kind]
            else:
                added.type = added.TYPE_MESSAGE
                added.type_name = kind if kind[0] == "." else f".{_PACKAGE}.{kind}"
    # A pool of its own: TensorFlow Serving's own messages of these names may be loaded beside it.
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _declare()


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


MonitoringConfig = _class("MonitoringConfig")
SSLConfig = _class("SSLConfig")
BatchingParameters = _class("BatchingParameters")
ProfileRequest = _class("ProfileRequest")
ProfileResponse = _class("ProfileResponse")
TerminateRequest = _class("TerminateRequest")
