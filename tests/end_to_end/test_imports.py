"""The effects of imports on a process; `make check` tests which module may import which."""

import collections
import os
import re
import subprocess
import sys

import pytest
from repository import ROOT

pytestmark = pytest.mark.process


def run(code, **environment):
    """Runs Python in a process that inherits no setting of Keras or TensorFlow's logging."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("TF_USE_LEGACY_KERAS", "TF_CPP_MIN_LOG_LEVEL")
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_events_schemas_formats_options_requests_and_rules_need_no_tensorflow():
    result = run(
        "import sys; from serving import impressions, users;"
        "print([name for name in ('tensorflow', 'faiss', 'grpc') if name in sys.modules]);"
        "from tfrecords import columns, formats, pages, schema, splits;"
        "import tfrecords.schema_inference, tfrec.config, serving.config;"
        "from serving import index, requests, rules;"
        "print('tensorflow' in sys.modules)"
    )
    assert result.stdout == "[]\nFalse\n", result.stderr


def test_the_model_server_sets_the_process_up_before_numpy_and_tensorflow_are_imported():
    result = run(
        "import sys, serving.model_server; from serving import process;"
        # Importing tfrecords lets TensorFlow start quietly and without Keras.
        "print([name for name in ('numpy', 'tensorflow', 'tfrecords') if name in sys.modules])"
    )
    assert result.stdout.strip() == "['tfrecords']", result.stderr


@pytest.fixture(scope="module")
def imported(tiny_base):
    """A process that imports tfrec and then every sub-package; before, a fork of it prints."""
    return run(
        f"""
import importlib, importlib.abc, os, pkgutil, sys
class Missing(importlib.abc.MetaPathFinder):
    names = {{"apache_beam", "dask", "optuna", "pymilvus", "redis"}}
    refused = []
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            self.refused.append(name)
            raise ModuleNotFoundError(f"no {{name}}", name=name)
sys.meta_path.insert(0, Missing())
import tfrec, tfrecords
heavy = ("tensorflow", "pandas", "serving", "tfrecords.frames")
light = [name for name in heavy if name in sys.modules]
# Importing TensorFlow takes most of the time, so the two processes share it.
import tensorflow as tf
if not os.fork():
    Missing.names.add("pandas")
    from serving import client, operations, service
    with client.LocalClient({str(tiny_base)!r}) as connected:
        answer = connected.recommend(k=3)
    print(len(answer.ads), answer.degraded, Missing.refused)
    training = ("tfrec.", "tensorflow_recommenders", "keras.", "tf_keras.")
    print([m for m in sys.modules if m.startswith(training)])
    try:
        answer.to_pandas()
    except ModuleNotFoundError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
print(light)
# The calls of Python are loaded on first use.
from tfrec import config
from serving import workflow
from tfrecords import frames
print(tfrec.RankerConfig is config.RankerConfig)
print(tfrec.train is workflow.train, tfrecords.from_arrow is frames.from_arrow)
print(hasattr(tfrec, "no"), hasattr(tfrecords, "no"))
print(tf.keras.Model.__module__.split(".")[0], tf.reduce_sum(tf.ones([2])).numpy())
import serving
for package in (tfrecords, tfrec, serving):
    for found in pkgutil.iter_modules(package.__path__, f"{{package.__name__}}."):
        if found.ispkg and found.name != "tfrec.tuning":
            importlib.import_module(found.name)
print("all")
"""
    )


def test_what_serves_loads_neither_training_code_nor_keras_pandas_and_pymilvus(imported):
    assert imported.stdout.splitlines()[:3] == ["3 None []", "[]", "no pandas"], imported.stderr


def test_importing_tfrec_selects_keras_2_and_prints_nothing_and_no_face_needs_an_extra(imported):
    shown = imported.stdout.splitlines()[3:]
    expected = ["[]", "True", "True True", "False False", "tf_keras 2.0", "all"]
    assert shown == expected, imported.stderr
    assert imported.stderr == ""


def test_tensorflow_imported_before_tfrec_is_fine_until_keras_is_used():
    # Importing TensorFlow takes most of the time, so the two processes share it.
    result = run(
        """
import os
import tensorflow as tf
if not os.fork():
    import tfrec
    print(tf.keras.Model.__module__.split(".")[0], flush=True)
    os._exit(0)
os.wait()
tf.keras.Model
import tfrec
"""
    )
    assert result.stdout.strip() == "tf_keras", result.stderr
    assert_keras_3_is_refused(result)


def test_setting_keras_3_is_refused_with_the_remedy():
    assert_keras_3_is_refused(run("import tfrec", TF_USE_LEGACY_KERAS="0"))


def assert_keras_3_is_refused(result):
    assert result.returncode == 1
    assert "ImportError: tfrec needs Keras 2 (tf_keras) behind tf.keras" in result.stderr
    assert "Import tfrec before TensorFlow, or set TF_USE_LEGACY_KERAS=1" in result.stderr


def test_class_names_are_unique_in_the_project():
    found = collections.Counter()
    for folder in ("tfrecords", "tfrec", "serving", "scripts", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            found.update(re.findall(r"^ *class (\w+)[(:]", path.read_text(), re.MULTILINE))
    assert [name for name, count in found.items() if count > 1] == []
