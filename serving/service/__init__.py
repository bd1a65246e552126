"""The REST service around the orchestrator: HTTP server, release changes, processes."""

from serving.service.http_server import check_tls
from serving.service.service_process import (
    ServiceSettings,
    announce,
    check_first_release,
    load_stable_release,
    prepare_logs,
    say,
    serve_release,
    serve_until_signal,
)
from serving.service.workers import Workers

__all__ = [
    "ServiceSettings",
    "Workers",
    "announce",
    "check_first_release",
    "check_tls",
    "load_stable_release",
    "prepare_logs",
    "say",
    "serve_release",
    "serve_until_signal",
]
