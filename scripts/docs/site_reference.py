"""Reference pages of the site: the commands, and the rooms and doors of the packages."""

import pathlib
from collections.abc import Iterator

import command_pages

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_PACKAGES = ("tfrecords", "tfrec", "serving")


def entries(folder: str) -> list[dict[str, str]]:
    """Returns the entries of the navigation, title and page, of a folder of the reference."""
    if folder == "commands":
        return [{f"tfrec {name}": f"commands/{name}.md"} for name in command_pages.COMMANDS]
    return [{name: f"reference/{name}.md"} for name in _faces(folder.removeprefix("reference/"))]


def pages() -> Iterator[tuple[str, str]]:
    """Yields the path and the text, in Markdown, of each page."""
    for name, text in command_pages.command_pages():
        yield f"commands/{name}.md", text
    for name in (name for package in _PACKAGES for name in _faces(package)):
        yield f"reference/{name}.md", f"# `{name}`\n\n::: {name}\n"


def _faces(package: str) -> Iterator[str]:
    """Yields the public modules: a package, if it exports names, its rooms and its doors."""
    if "__all__" in (_ROOT / package / "__init__.py").read_text(encoding="utf-8"):
        yield package
    for path in sorted((_ROOT / package).iterdir()):
        is_room = (path / "__init__.py").is_file()
        if is_room or (path.suffix == ".py" and not path.stem.startswith("_")):
            yield f"{package}.{path.stem}"
