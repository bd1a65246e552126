"""The wheel, installed and used outside the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest
import scripts_in_forks
from repository import ROOT

import tfrec
from serving.cli import entry

pytestmark = pytest.mark.process
PACKAGES = ("serving", "tfrec", "tfrecords")
# Imports every sub-package, and looks up every public name.
IMPORT_FACES = """
import importlib, pkgutil, sys
names = list(sys.argv[1:])
for package in sys.argv[1:]:
    path = importlib.import_module(package).__path__
    names += [f"{package}.{child.name}" for child in pkgutil.iter_modules(path)]
for name in names:
    # Runs the command line; needs the extra beam.
    if name in ("tfrec.__main__", "tfrecords.beam"):
        continue
    module = importlib.import_module(name)
    for public in getattr(module, "__all__", ()):
        try:
            getattr(module, public)
        except ModuleNotFoundError as error:
            if error.name != "redis":  # An extra that the tests may lack.
                raise
    print(name, module.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of its sources."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir=dist", cwd=source)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A directory with the wheel installed; its dependencies are those of this environment."""
    target = tmp_path_factory.mktemp("installed")
    _run(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
        f"--target={target}", str(wheel),
        cwd=target,
    )  # fmt: skip
    return target


@pytest.fixture(scope="module")
def run(installed):
    """Runs a Python program with the installed wheel; returns what it prints."""
    runner = scripts_in_forks.Runner(PYTHONPATH=str(installed))

    def run(program, *flags, status=0):
        done = runner.run(program, *flags)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    yield run
    runner.process.kill()
    runner.process.wait()


def _run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_wheel_holds_the_packages_their_data_and_the_license(wheel):
    held = _run(sys.executable, str(ROOT / ".ci" / "wheel.py"), str(wheel)).stdout
    assert held.startswith(str(wheel))
    assert wheel.name == f"tfrec-{tfrec.__version__}-py3-none-any.whl"


@pytest.mark.parametrize(
    "lost", ["LICENSE", "tfrec/py.typed", "serving/service/console/static/index.html"]
)
def test_a_wheel_that_lacks_a_file_is_refused(wheel, tmp_path, lost):
    poor = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(poor, "w") as copy:
        for name in whole.namelist():
            if not name.endswith(lost):
                copy.writestr(name, whole.read(name))
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "wheel.py"), str(poor)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert f"{lost} is missing" in done.stderr
    assert done.stderr.count("\n") == 1


def test_every_face_is_imported_from_the_wheel(run, installed, tmp_path):
    (tmp_path / "import_faces.py").write_text(IMPORT_FACES)
    lines = run(tmp_path / "import_faces.py", *PACKAGES).splitlines()
    files = dict(line.split(" ", 1) for line in lines)
    assert {"tfrec.config", "tfrecords.reader", "serving.cli", "serving.export"} <= set(files)
    outside = {name: file for name, file in files.items() if not file.startswith(str(installed))}
    assert not outside


def test_the_program_prints_its_version_and_its_commands(run, installed, tmp_path):
    program = installed / "bin" / "tfrec"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    for command in ([str(program)], [sys.executable, "-m", "tfrec"]):
        version = _run(*command, "--version", cwd=tmp_path, env=environment).stdout
        assert version == f"tfrec {tfrec.__version__}\n"
    shown = run(program, "--help")
    assert set(entry.MODULES) <= set(shown.split())
    assert run(program) == shown


def test_the_model_server_prints_help(run, installed):
    # absl's own help has exit status 1.
    shown = run(installed / "serving" / "model_server" / "__main__.py", "--help", status=1)
    assert f"{installed}/serving/model_server" in shown
    assert "--model_config_file" in shown


def test_a_log_is_generated_and_converted_by_the_wheel(run, installed, tmp_path):
    shown = run(
        installed / "bin" / "tfrec", "convert", "--use_synthetic", "--n_samples=1000",
        f"--workdir={tmp_path / 'work'}",
    )  # fmt: skip
    assert "1,000 rows = 1,000 written" in shown
    assert (tmp_path / "work" / "data" / "dataset.json").is_file()
