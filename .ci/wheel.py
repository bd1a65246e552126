"""Checks the contents of a wheel: the packages as they are in the checkout, and the license.

python .ci/wheel.py dist/tfrec-0.2.0.dev0-py3-none-any.whl
"""

import pathlib
import sys
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("serving", "tfrec", "tfrecords")
# Files for images and clusters, which are used from a checkout.
LEFT_OUT = ROOT / "serving" / "deploy"


def main(path: str) -> None:
    with zipfile.ZipFile(path) as wheel:
        held = set(wheel.namelist())
    metadata = next(name for name in held if name.endswith(".dist-info/METADATA"))
    directory = metadata.rpartition("/")[0]
    wanted = {
        *_files(),
        *(f"{package}/py.typed" for package in PACKAGES),
        f"{directory}/entry_points.txt",
        f"{directory}/licenses/LICENSE",
    }
    surplus = {name for name in held - wanted if not name.startswith(f"{directory}/")}
    problems = [f"{name} is missing" for name in sorted(wanted - held)]
    problems += [f"{name} is not in the checkout" for name in sorted(surplus)]
    if problems:
        sys.exit("\n".join(f"error: {path}: {problem}" for problem in problems))
    print(f"{path}: {len(held)} files")


def _files() -> set[str]:
    """Returns the files of the packages, relative to the checkout."""
    return {
        file.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and LEFT_OUT not in file.parents
    }


if __name__ == "__main__":
    main(sys.argv[1])
