"""Tools for operators: checks of releases and running servers, and a local service."""

from serving.operations.capacity import (
    Machine,
    MeasuredConstants,
    cost_drivers,
    size_deployment,
)
from serving.operations.findings import (
    DoctorFinding,
    any_failed,
    finding_as_text,
    finding_of,
    findings_as_json,
    summary,
)
from serving.operations.impression_findings import compare_impressions
from serving.operations.local_service import (
    describe_answer,
    open_service,
)
from serving.operations.model_server_findings import ModelServerCheck
from serving.operations.release_check import check_release, check_updates
from serving.operations.row_findings import (
    compare_over_grpc,
    compare_over_rest,
    read_logged_requests,
)
from serving.operations.service_findings import ServiceCheck

__all__ = [
    "DoctorFinding",
    "Machine",
    "MeasuredConstants",
    "ModelServerCheck",
    "ServiceCheck",
    "any_failed",
    "check_release",
    "check_updates",
    "compare_impressions",
    "compare_over_grpc",
    "compare_over_rest",
    "cost_drivers",
    "describe_answer",
    "finding_as_text",
    "finding_of",
    "findings_as_json",
    "open_service",
    "read_logged_requests",
    "size_deployment",
    "summary",
]
