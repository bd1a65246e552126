"""The modules that the pages of docs/howto show."""

import re

from repository import ROOT

_PAGES = ROOT / "docs" / "howto"


def source(page):
    """Returns the Python block of a page, and its file's name if the first line is `# NAME.py`."""
    (only,) = _sources(page)
    return only


def write(page, folder):
    """Writes the modules of a page into a folder."""
    for block, name in _sources(page):
        (folder / name).write_text(block)


def _sources(page):
    text = (_PAGES / f"{page}.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        name = re.match(r"# (\w+\.py)\n", block)
        yield block, name and name[1]
