"""The modules that the pages of docs/howto show."""

import re

from repository import ROOT

_PAGES = ROOT / "docs" / "howto"


def source(page):
    """Returns the Python block of a page, and its file's name if the first line is `# NAME.py`."""
    text = (_PAGES / f"{page}.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    name = re.match(r"# (\w+\.py)\n", block)
    return block, name and name[1]


def write(page, folder):
    """Writes the module of a page into a folder."""
    block, name = source(page)
    (folder / name).write_text(block)
