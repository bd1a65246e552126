"""Plugins by name, entry point or MODULE:CLASS, and the errors of wrong references."""

import collections
import functools
import importlib
import itertools
import linecache
import pathlib
import py_compile
import sys
import types

import pytest

from tfrecords import plugins


class Base(plugins.Plugin):
    pass


class Own(Base):
    class Inner(Base):
        pass


REGISTRY = plugins.Registry(
    "thing",
    "tfrec.things",
    {"own": f"{__name__}:Own", "ordered": "collections:OrderedDict"},
    "a subclass of Base",
    plugins.subclass_of(Base),
)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Installs a package with entry points; returns a function that installs more."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name, lines):
        directory = tmp_path / f"{name}-1.0.dist-info"
        directory.mkdir()
        (directory / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (directory / "entry_points.txt").write_text("\n".join(["[tfrec.things]", *lines]) + "\n")

    gone = ["gone = collections:Nothing", "broken = raising:X", "module = collections"]
    install("one", [f"installed = {__name__}:Own", *gone])
    return install


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current directory; modules imported from it are forgotten."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        del sys.modules[name]


def edit(file, source):
    """Edits a module; it and the others of its folder are imported again."""
    file.write_text(source)
    for name, module in list(sys.modules.items()):
        if pathlib.Path(getattr(module, "__file__", None) or "/").is_relative_to(file.parent):
            del sys.modules[name]


def test_built_in_names_references_and_classes_are_found():
    assert REGISTRY.get("own") is Own
    assert REGISTRY.get(f"{__name__}:Own.Inner") is Own.Inner
    assert REGISTRY.get(Own) is Own


def test_names_of_installed_packages_are_found(packages):
    assert REGISTRY.names == ("own", "ordered", "broken", "gone", "installed", "module")
    assert REGISTRY.get("installed") is Own


def test_a_name_of_two_packages_is_refused(packages):
    packages("two", ["installed = collections:Counter"])
    with pytest.raises(ValueError, match=r"'installed': expected one class .*:Counter, .*:Own\."):
        REGISTRY.get("installed")


def test_a_built_in_name_wins_with_a_warning_about_the_package(packages, caplog):
    plugins._warn_if_shadowed.cache_clear()
    packages("same", [f"own = {__name__}:Own"])
    assert REGISTRY.get("own") is Own
    assert not caplog.messages
    packages("shadowed", ["own = collections:Counter"])
    plugins._warn_if_shadowed.cache_clear()  # as in another process
    assert REGISTRY.get("own") is Own
    assert REGISTRY.is_built_in("own")
    assert caplog.messages == [
        "The thing 'own' of the package shadowed is not used: there is a built-in one of this "
        "name. Name it as collections:Counter, or rename it in the package."
    ]
    assert not REGISTRY.is_built_in("installed")


def test_a_module_of_the_current_directory_is_found_and_its_source_is_identified(here):
    (here / "mine_to_find.py").write_text(f"from {__name__} import Base\nclass Mine(Base): pass\n")
    found = REGISTRY.get("mine_to_find:Mine")
    assert issubclass(found, Base)
    assert plugins.reference_to(found) == "mine_to_find:Mine"
    first = REGISTRY.digest("mine_to_find:Mine")
    edit(here / "mine_to_find.py", f"from {__name__} import Base\nclass Mine(Base): SIGN = 1\n")
    assert REGISTRY.digest("mine_to_find:Mine") not in (first, None)
    assert REGISTRY.digest("own") is None


def test_an_error_is_placed_in_the_innermost_code_of_a_user(here):
    (here / "placed.py").write_text("import json\n\n\ndef load():\n    json.loads('')\n")
    sys.path.append(str(here))
    with pytest.raises(ValueError, match="Expecting value") as caught:
        importlib.import_module("placed").load()
    assert plugins.place_of(caught.value) == f"{here / 'placed.py'}, line 5"


def test_an_error_of_this_package_has_no_place():
    with pytest.raises(ValueError, match="Unknown thing") as caught:
        REGISTRY.get("none")
    inside = caught.value.with_traceback(caught.value.__traceback__.tb_next)
    assert plugins.place_of(inside) is None


def test_a_source_is_that_of_base_classes_and_imported_files_too(here):
    (here / "mine_helper.py").write_text("SIGN = 1\n")
    (here / "mine_base.py").write_text(f"from {__name__} import Base\nclass Mine(Base): pass\n")
    (here / "mine_top.py").write_text(
        "import json, mine_helper\nfrom mine_base import Mine\nclass Top(Mine): pass\n"
    )
    digests = [REGISTRY.digest("mine_top:Top")]
    edit(here / "mine_helper.py", "SIGN = -1\n")
    digests.append(REGISTRY.digest("mine_top:Top"))
    edit(here / "mine_base.py", f"from {__name__} import Base\nclass Mine(Base): SIGN = 1\n")
    digests.append(REGISTRY.digest("mine_top:Top"))
    (here / "unrelated.py").write_text("")
    assert REGISTRY.digest("mine_top:Top") == digests[2]
    assert len(set(digests)) == 3


def test_the_source_of_a_class_or_module_of_an_installed_package_is_identified(packages, here):
    source = here.parent / "offered.py"
    source.write_text(f"from {__name__} import Base\nclass Mine(Base): pass\n")
    packages("two", ["its_class = offered:Mine", "its_module = offered"])
    digests = {name: REGISTRY.digest(name) for name in ("its_class", "its_module")}
    assert digests["its_class"] == digests["its_module"] == REGISTRY.digest("offered:Mine")
    assert digests["its_class"] is not None
    edit(source, f"from {__name__} import Base\nclass Mine(Base): SIGN = 1\n")
    assert all(REGISTRY.digest(name) not in (before, None) for name, before in digests.items())


def test_a_source_does_not_depend_on_what_else_is_imported(here):
    (here / "proj").mkdir()
    (here / "proj" / "__init__.py").write_text("")
    (here / "proj" / "parts.py").write_text("SIGN = 1\n")
    (here / "proj" / "others.py").write_text("")
    (here / "mine_of_proj.py").write_text(
        f"import proj.parts\nfrom {__name__} import Base\nclass Mine(Base): pass\n"
    )
    digest = REGISTRY.digest("mine_of_proj:Mine")
    importlib.import_module("proj.others")
    assert REGISTRY.digest("mine_of_proj:Mine") == digest
    edit(here / "proj" / "parts.py", "SIGN = -1\n")
    del sys.modules["mine_of_proj"]
    assert REGISTRY.digest("mine_of_proj:Mine") != digest


def test_a_source_may_import_a_compiled_module(here):
    (here / "mine_helper.py").write_text("SIGN = 1\n")
    py_compile.compile(str(here / "mine_helper.py"), str(here / "mine_helper.pyc"))
    (here / "mine_helper.py").unlink()
    (here / "mine_of_compiled.py").write_text(
        f"import mine_helper\nfrom {__name__} import Base\nclass Mine(Base): pass\n"
    )
    assert REGISTRY.digest("mine_of_compiled:Mine") is not None


@pytest.mark.parametrize("edited", ["mine_kept", "mine_helper"])
def test_a_source_is_that_of_the_imported_code_until_it_is_reloaded(here, edited, caplog):
    (here / "mine_helper.py").write_text("SIGN = 1\n")
    (here / "mine_kept.py").write_text(
        f"import mine_helper\nfrom {__name__} import Base\nclass Mine(Base): pass\n"
    )
    sys.path.append(str(here))
    importlib.import_module("mine_kept")
    (here / f"{edited}.py").write_text((here / f"{edited}.py").read_text() + "# The next idea.\n")
    first = REGISTRY.digest("mine_kept:Mine")
    assert REGISTRY.digest("mine_kept:Mine") == first
    assert caplog.messages == [
        f"{here / edited}.py was edited after it was imported, and this process uses it as it was. "
        "To use the edited file, start another process, or reload the module with "
        "importlib.reload."
    ]
    importlib.reload(sys.modules[edited])
    assert REGISTRY.digest("mine_kept:Mine") not in (first, None)
    assert len(caplog.messages) == 1


@pytest.fixture
def notebook(monkeypatch):
    """Returns a function that runs a cell of a notebook, under another name each time."""
    cells = types.ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", cells)
    numbers = itertools.count()

    def run(source):
        name = f"/tmp/cell-{next(numbers)}"
        lines = source.splitlines(keepends=True)
        monkeypatch.setitem(linecache.cache, name, (len(source), None, lines, name))
        exec(compile(source, name, "exec"), vars(cells))
        return REGISTRY.digest("notebook:Mine") if hasattr(cells, "Mine") else None

    return run


def test_the_source_of_a_class_in_a_notebook_is_its_cell_and_what_it_names(
    here, notebook, monkeypatch
):
    monkeypatch.syspath_prepend(here)
    (here / "mine_helper.py").write_text("SIGN = 1\n")
    (here / "unrelated.py").write_text("")
    notebook("import importlib, mine_helper")
    notebook("def half(x):\n    return x / 2")
    notebook("class First:\n    def first(self):\n        return half(1)")
    mine = "class Mine(First):\n    def rate(self):\n        return mine_helper.SIGN * {}"
    first = notebook(mine.format(0.1))
    assert first is not None
    assert notebook("import unrelated; other = 1") == first
    assert notebook(mine.format(0.1)) == first
    changed = [notebook(mine.format(0.2)), notebook("def half(x):\n    return x / 3")]
    (here / "mine_helper.py").write_text("SIGN = -1\n")
    changed.append(notebook("importlib.reload(mine_helper)"))
    assert len({first, *changed}) == 4


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("onw", r"Unknown thing 'onw'; expected one of own, ordered, .* Did you mean 'own'\?"),
        ("ordered", r"thing 'ordered': expected a subclass of Base, got <class '.*OrderedDict'>"),
        (
            "module",
            r"thing 'module': expected a subclass of Base, got <module 'collections' .*>\. Name "
            r"its class as MODULE:CLASS\.",
        ),
        (collections.Counter, r"'collections:Counter': expected a subclass of Base"),
        ("gone", r"'gone': collections:Nothing cannot be loaded .* Repair the package"),
        ("broken", r"'broken': raising:X cannot be .*\(ZeroDivisionError: .*raising.py, line 2\)"),
        ("broken", r"Repair the package that offers it in 'tfrec.things'"),
        ("raising:X", r"'raising' cannot be imported \(ZeroDivisionError: .*raising.py, line 2\)"),
        ("ending:X", r"'ending' cannot be imported \(SystemExit: 0; .*ending.py, line 1\)"),
        ("mien:Mine", r"no module 'mien' .* Did you mean 'mine'\? Run the command in the folder"),
        ("mine:Mien", r"mine \(.*mine.py\) has no 'Mien'; expected .*Mine\. Did you mean 'Mine'\?"),
        ("mine.more:X", r"no module 'mine.more'"),
        ("needy:X", r"needy needs the module 'not_installed', which is not installed"),
        (":X", r"':X': '' cannot be imported"),
        ("__main__:NoSuch", r"'__main__:NoSuch' was defined in a notebook or a script"),
    ],
)
def test_wrong_references_are_explained(packages, here, reference, said):
    (here / "mine.py").write_text("class Mine: pass\n")
    (here / "needy.py").write_text("import not_installed\n")
    (here / "ending.py").write_text("raise SystemExit(0)\n")
    (here.parent / "raising.py").write_text("\n1 / 0\n")
    with pytest.raises(ValueError, match=said):
        REGISTRY.get(reference)


def test_a_value_that_is_not_a_class_is_refused():
    with pytest.raises(ValueError, match=r"expected a class, or MODULE:CLASS, got functools.parti"):
        plugins.reference_to(functools.partial(Own))


def test_a_class_inside_a_function_is_refused():
    class Local(Base):
        pass

    with pytest.raises(ValueError, match=r"Local is defined inside a function; expected a class"):
        plugins.reference_to(Local)
