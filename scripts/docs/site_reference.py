"""A hook of MkDocs: reference pages of the commands, and of the rooms and doors of the packages."""

from collections.abc import Iterator

import command_pages
import site_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_PACKAGES = ("tfrecords", "tfrec", "serving")


def on_config(config: MkDocsConfig) -> None:
    """Lists the generated pages in the navigation."""

    def pages_of(folder: str) -> list[dict[str, str]] | None:
        if folder == "commands":
            return [{f"tfrec {name}": f"commands/{name}.md"} for name in command_pages.COMMANDS]
        package = folder.removeprefix("reference/")
        return [{name: f"reference/{name}.md"} for name in _faces(package)]

    config.nav = site_pages.expand_navigation(config.nav, pages_of)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds a page for each command, room and door."""
    for name, page in command_pages.command_pages():
        files.append(File.generated(config, f"commands/{name}.md", content=page))
    for package in _PACKAGES:
        for name in _faces(package):
            page = f"# `{name}`\n\n::: {name}\n"
            files.append(File.generated(config, f"reference/{name}.md", content=page))


def _faces(package: str) -> Iterator[str]:
    """Yields the public modules: a package, if it exports names, its rooms and its doors."""
    if "__all__" in (site_pages.ROOT / package / "__init__.py").read_text(encoding="utf-8"):
        yield package
    for path in sorted((site_pages.ROOT / package).iterdir()):
        is_room = (path / "__init__.py").is_file()
        if is_room or (path.suffix == ".py" and not path.stem.startswith("_")):
            yield f"{package}.{path.stem}"
