"""Which package may import which, and what an import does to the process."""

import ast
import os
import subprocess
import sys

import pytest
from repository import ROOT

PACKAGES = ("tfrecords", "tfrec", "serving", "scripts")
# What each package may import of the four, itself included.
ALLOWED = {
    "tfrecords": {"tfrecords"},
    "tfrec": {"tfrecords", "tfrec"},
    "serving": {"serving"},
    "serving/model_server.py": {"serving", "tfrecords"},
    "serving/export.py": {"tfrecords", "tfrec", "serving"},
    "scripts": {"tfrecords", "tfrec", "serving", "scripts"},
}


def imported_packages(path):
    """The top-level names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module.split(".")[0])
    return names


FILES = sorted(
    str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")
)


@pytest.mark.parametrize("name", FILES)
def test_imports_point_from_scripts_to_serving_to_tfrec_to_tfrecords(name):
    allowed = ALLOWED.get(name, ALLOWED[name.split("/")[0]])
    forbidden = imported_packages(ROOT / name) & set(PACKAGES) - allowed
    assert not forbidden, f"{name} imports {sorted(forbidden)}"


def test_the_four_packages_are_found():
    assert {name.split("/")[0] for name in FILES} == set(PACKAGES)


@pytest.mark.parametrize("name", ["tfrecords", "serving", "scripts"])
def test_package_files_are_empty_but_for_the_keras_guard(name):
    path = ROOT / name / "__init__.py"
    assert not path.exists() or not path.read_text()


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


def test_the_schema_needs_no_tensorflow():
    result = run(
        "import sys; from tfrecords import schema; from tfrecords.formats import criteo;"
        "print('tensorflow' in sys.modules)"
    )
    assert result.stdout.strip() == "False", result.stderr


def test_the_client_imports_no_tensorflow():
    result = run(
        "import sys; from serving import async_client, client;"
        "print([m for m in ('tensorflow', 'tensorflow_serving', 'keras') if m in sys.modules])"
    )
    assert result.stdout.strip() == "[]", result.stderr


def test_importing_tfrec_selects_keras_2_and_prints_nothing():
    result = run(
        "import tfrec, tensorflow as tf; from tfrec import ranker, retrieval;"
        "print(tf.keras.Model.__module__.split('.')[0], tf.reduce_sum(tf.ones([2])).numpy())"
    )
    assert result.stdout.strip() == "tf_keras 2.0", result.stderr
    assert result.stderr == ""


def test_tensorflow_imported_before_tfrec_is_fine_until_keras_is_used():
    result = run("import tensorflow as tf, tfrec; print(tf.keras.Model.__module__.split('.')[0])")
    assert result.stdout.strip() == "tf_keras", result.stderr


@pytest.mark.parametrize(
    ("code", "environment"),
    [
        ("import tensorflow as tf; tf.keras.Model; import tfrec", {}),
        ("import tfrec", {"TF_USE_LEGACY_KERAS": "0"}),
    ],
    ids=["Keras 3 in use", "Keras 3 asked for"],
)
def test_keras_3_is_refused_with_the_remedy(code, environment):
    result = run(code, **environment)
    assert result.returncode == 1
    assert "ImportError: tfrec needs Keras 2 (tf_keras) behind tf.keras" in result.stderr
    assert "Import tfrec before TensorFlow, or set TF_USE_LEGACY_KERAS=1" in result.stderr
