"""Requirements of some tests that the extra `test` does not install."""

import importlib.util
import os
import shutil

import pytest

NO_BEAM = "no apache-beam: make .venv/.installed-engines"
NEEDS_BEAM = pytest.mark.skipif(importlib.util.find_spec("apache_beam") is None, reason=NO_BEAM)

NO_REDIS = "no redis-py: make .venv/.installed-engines"

KUSTOMIZE = shutil.which("kustomize")
NEEDS_KUSTOMIZE = pytest.mark.skipif(
    KUSTOMIZE is None,
    reason="no kustomize: apt-get install kustomize, or see https://kustomize.io",
)

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
NEEDS_BROWSER = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium: apt-get install --no-install-recommends chromium"
)

VALKEY = next(filter(None, map(shutil.which, ("valkey-server", "redis-server"))), None)
NEEDS_VALKEY = pytest.mark.skipif(
    VALKEY is None or importlib.util.find_spec("redis") is None,
    reason="no valkey-server or no redis-py: apt-get install valkey-server, and make "
    ".venv/.installed-engines",
)

NEEDS_MILVUS = pytest.mark.skipif(
    importlib.util.find_spec("milvus_lite") is None,
    reason="no milvus-lite: make .venv/.installed-engines",
)
MILVUS_SERVER = os.environ.get("TFREC_TEST_MILVUS_URI")
