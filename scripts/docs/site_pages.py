"""A hook of MkDocs that adds pages from outside docs/, and makes links work on the site.

README, CONTRIBUTING, CHANGELOG, the examples and the tutorial become pages. A link to another file
of the repository leads to a page with its source, and a link to a folder leads to a list of its
pages. A page that would load something from another host is refused.
"""

import json
import pathlib
import posixpath
import re
from collections.abc import Callable, Iterator
from typing import Any

import site_reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Path in the repository: page of the site.
_MOVED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "docs/tutorial.ipynb": "tutorial.md",
}
_FOLDERS = {"docs/adr": "Decisions", "docs/experiments": "Experiments", "docs/howto": "How-to"}
_FENCE = re.compile(r"^(`{3,}).*?^\1$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)")
# Python-Markdown needs an empty line between a paragraph and a list.
_TIGHT_LIST = re.compile(r"^(?P<line>(?![-*] |\d+\. | |#|\|)[^\n]+)\n(?=[-*] |1\. )", re.MULTILINE)
_LOADED = re.compile(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")


def on_config(config: MkDocsConfig) -> None:
    """Replaces entries FOLDER/* of the navigation by the pages of the folder."""
    config.nav = _expanded(config.nav)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds the pages that are not in docs/, the reference, and the pages that links lead to."""
    for path in (*_MOVED, *_examples()):
        text = (ROOT / path).read_text(encoding="utf-8")
        if path.endswith(".ipynb"):
            text = _notebook_as_markdown(text)
        files.append(File.generated(config, _page_of(path), content=text))
    for folder, title in _FOLDERS.items():
        files.append(File.generated(config, _page_of(folder), content=_contents(folder, title)))
    for page, text in site_reference.pages():
        files.append(File.generated(config, page, content=text))
    for file in list(files.documentation_pages()):
        for path in _linked(file, file.content_string).values():
            page = _page_of(path)
            if page.startswith("source/") and page not in files.src_uris:
                files.append(File.generated(config, page, content=_source(path)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Makes links to files of the repository links to their pages."""
    here = posixpath.dirname(page.file.src_uri)
    linked = _linked(page.file, markdown)

    def as_site(match: re.Match[str]) -> str:
        path = linked.get(match["path"])
        if path is None:
            return match[0]
        return f"]({posixpath.relpath(_page_of(path), here or '.')}{match['anchor'] or ''})"

    def as_page(text: str) -> str:
        return _TIGHT_LIST.sub("\\g<line>\n\n", _LINK.sub(as_site, text))

    return _outside_code(markdown, as_page)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> None:
    """Refuses a page that loads something from another host.

    Raises:
        PluginError: The page has a script, a style, an image or a frame from elsewhere.
    """
    loaded = _LOADED.search(output)
    if loaded and 'rel="canonical"' not in loaded[0]:
        raise PluginError(f"{page.file.src_uri} loads {loaded[0]}; the site must work offline.")


def _expanded(nav: Any) -> Any:
    """Expands nested lists, dictionaries and paths."""
    if isinstance(nav, dict):
        return {title: _expanded(part) for title, part in nav.items()}
    if isinstance(nav, list):
        expanded = [_expanded(part) for part in nav]
        return [item for part in expanded for item in (part if isinstance(part, list) else [part])]
    return _entries(nav.removesuffix("/*")) if nav.endswith("/*") else nav


def _entries(folder: str) -> list[Any]:
    if folder == "examples":
        return _examples()
    if f"docs/{folder}" in _FOLDERS:
        pages = (page.name for page in _pages_in(f"docs/{folder}"))
        return [f"{folder}/{name}" for name in ("index.md", *pages)]
    return site_reference.entries(folder)


def _examples() -> list[str]:
    pages = sorted((ROOT / "examples").rglob("README.md"))
    return [page.relative_to(ROOT).as_posix() for page in pages]


def _page_of(path: str) -> str:
    """Returns the page of the site for a path in the repository."""
    if path in _MOVED:
        return _MOVED[path]
    if path in _FOLDERS:
        return f"{path.removeprefix('docs/')}/index.md"
    if (ROOT / path / "README.md").is_file():
        return f"{path}/README.md"
    if path.startswith("examples/") and path.endswith("README.md"):
        return path
    return path.removeprefix("docs/") if path.startswith("docs/") else f"source/{path}.md"


def _path_of(file: File) -> str:
    """Returns the path in the repository of a page of the site."""
    moved = {page: path for path, page in _MOVED.items()}
    if file.src_uri in moved:
        return moved[file.src_uri]
    return file.src_uri if file.src_uri.startswith("examples/") else f"docs/{file.src_uri}"


def _linked(file: File, markdown: str) -> dict[str, str]:
    """Returns the links of a page that lead to files of the repository: target, path."""
    folder = posixpath.dirname(_path_of(file))
    targets = {match["path"] for match in _LINK.finditer(_FENCE.sub("", markdown))}
    paths = {target: posixpath.normpath(posixpath.join(folder, target)) for target in targets}
    return {
        target: path
        for target, path in paths.items()
        if not path.startswith("..") and (ROOT / path).exists()
    }


def _outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """Changes the text between fenced code blocks."""

    def parts() -> Iterator[str]:
        end = 0
        for fence in _FENCE.finditer(markdown):
            yield change(markdown[end : fence.start()])
            yield fence[0]
            end = fence.end()
        yield change(markdown[end:])

    return "".join(parts())


def _pages_in(folder: str) -> list[pathlib.Path]:
    return sorted((ROOT / folder).glob("*.md"))


def _contents(folder: str, title: str) -> str:
    """Returns a page that lists the pages of a folder."""
    lines = [f"# {title}", ""]
    for page in _pages_in(folder):
        heading = page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        lines.append(f"- [{heading}]({page.name})")
    return "\n".join(lines)


def _source(path: str) -> str:
    """Returns a page with the text of a file."""
    text = (ROOT / path).read_text(encoding="utf-8").rstrip()
    language = pathlib.PurePath(path).suffix.removeprefix(".") or "text"
    return (
        f"---\nsearch:\n  exclude: true\nhide: [toc]\n---\n# `{path}`\n\n"
        f"````{language}\n{text}\n````\n"
    )


def _notebook_as_markdown(text: str) -> str:
    """Returns a notebook's cells with their printed and drawn outputs."""
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            if output["output_type"] == "stream":
                parts.append(f"```text\n{''.join(output['text']).rstrip()}\n```")
            elif "image/png" in output.get("data", {}):
                image = "".join(output["data"]["image/png"]).replace("\n", "")
                parts.append(f"![Figure of the cell above](data:image/png;base64,{image})")
    return "\n\n".join(parts)
