"""Messages of TensorFlow Serving's configuration files that its Python package lacks.

Reference: TensorFlow Serving, `config/monitoring_config.proto`.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

_FILE = """
name: "serving/model_server/config_messages.proto" package: "tensorflow.serving" syntax: "proto3"
message_type {
  name: "PrometheusConfig"
  field { name: "enable" number: 1 type: TYPE_BOOL label: LABEL_OPTIONAL }
  field { name: "path" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
}
message_type {
  name: "MonitoringConfig"
  field {
    name: "prometheus_config" number: 1 type: TYPE_MESSAGE label: LABEL_OPTIONAL
    type_name: ".tensorflow.serving.PrometheusConfig"
  }
}
"""
# A separate pool: a process may also load TensorFlow Serving's own messages of these names.
_POOL = descriptor_pool.DescriptorPool()
_POOL.AddSerializedFile(
    text_format.Parse(_FILE, descriptor_pb2.FileDescriptorProto()).SerializeToString()
)


MonitoringConfig: Any = message_factory.GetMessageClass(
    _POOL.FindMessageTypeByName("tensorflow.serving.MonitoringConfig")
)
