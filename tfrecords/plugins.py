"""Finds models, index kinds and log formats by name, in this package and in others.

    NAME            a built-in name, or else an entry point of an installed package
    MODULE:CLASS    a class of a module on the Python path or in the current directory

A package registers a class under a name with an entry point (pyproject.toml):

    [project.entry-points."tfrec.rankers"]
    dlrm = "our_package.models:DLRM"
"""

import ast
import functools
import hashlib
import importlib
import inspect
import linecache
import logging
import os
import pathlib
import sys
import sysconfig
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any, Generic, TypeVar

from tfrecords import terminal

Found = TypeVar("Found")
_logger = logging.getLogger(__name__)
# Operations that call Python functions, which only the process that made a graph has.
PYTHON_OPERATIONS = frozenset({"EagerPyFunc", "PyFunc", "PyFuncStateless"})
_OWN_PACKAGES = ("tfrec", "tfrecords", "serving")
# File of a module -> the module's spec, and the content of the file.
_imported: dict[str, tuple[Any, bytes]] = {}


class Registry(Generic[Found]):
    """The names and classes that an option accepts.

    Args:
        kind: Kind of the named things, for messages.
        group: Group of the entry points.
        built_in: Built-in name -> module or MODULE:CLASS.
        expected: Description of an acceptable class, for messages.
        accept: Maps a found object to the result of `get`, or to None if it is not acceptable.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        built_in: Mapping[str, str],
        expected: str,
        accept: Callable[[Any], Found | None],
    ) -> None:
        self.group = group
        self._kind, self._built_in = kind, built_in
        self._expected, self._accept = expected, accept

    @property
    def names(self) -> tuple[str, ...]:
        """The built-in names, followed by names from installed packages."""
        installed = {entry.name for entry in metadata.entry_points(group=self.group)}
        return (*self._built_in, *sorted(installed - set(self._built_in)))

    def get(self, reference: str | type) -> Found:
        """Resolves a reference.

        Args:
            reference: A name, MODULE:CLASS, or the class itself.

        Raises:
            ValueError: There is no such name, module or class; or it is not as expected.
        """
        found = self._find(reference) if isinstance(reference, str) else reference
        accepted = self._accept(found)
        if accepted is None:
            is_module = inspect.ismodule(found)
            remedy = "Name its class as MODULE:CLASS." if is_module else "Correct the class."
            raise ValueError(
                f"{self._kind} {_shown(reference)!r}: expected {self._expected}, got {found!r}. "
                f"{remedy}"
            )
        return accepted

    def is_built_in(self, reference: str | type) -> bool:
        """Returns whether a reference is a built-in name; warns if a package also offers it."""
        if not isinstance(reference, str) or reference not in self._built_in:
            return False
        _warn_if_shadowed(self._kind, self.group, reference, self._built_in[reference])
        return True

    def _find(self, reference: str) -> Any:
        if ":" in reference:
            return self._from_module(reference)
        if self.is_built_in(reference):
            values = {self._built_in[reference]}
        else:
            installed = metadata.entry_points(group=self.group, name=reference)
            values = {entry.value for entry in installed}
        if not values:
            raise ValueError(
                f"Unknown {self._kind} {reference!r}; expected one of {', '.join(self.names)}, or "
                f"MODULE:CLASS for your own class."
                f"{terminal.suggestion_for(reference, self.names)}"
            )
        if len(values) > 1:
            raise ValueError(
                f"{self._kind} {reference!r}: expected one class of this name, got "
                f"{', '.join(sorted(values))}. Name the class as MODULE:CLASS."
            )
        value = values.pop()
        try:
            return metadata.EntryPoint(reference, value, self.group).load()
        except (Exception, SystemExit) as error:  # A module may raise anything.
            raise ValueError(
                f"{self._kind} {reference!r}: {value} cannot be loaded ({_described(error)}). "
                f"Repair the package that offers it in {self.group!r}."
            ) from error

    def _from_module(self, reference: str) -> Any:
        module_name, _, name = reference.partition(":")
        module = self._imported(reference, module_name)
        found: Any = module
        for part in name.split("."):
            known = [
                class_name for class_name, value in vars(found).items() if inspect.isclass(value)
            ]
            found = getattr(found, part, None)
            if found is None and module_name == "__main__":
                raise ValueError(
                    f"{self._kind} {reference!r} was defined in a notebook or a script, not in a "
                    "module. Define it here in the same way first, or move it to a module that "
                    "every process can import, and use it from there."
                )
            if found is None:
                raise ValueError(
                    f"{self._kind} {reference!r}: {module_name} ({_file(module)}) has no {name!r}; "
                    f"expected one of its classes: {terminal.format_list(known) or 'none'}."
                    f"{terminal.suggestion_for(part, known)}"
                )
        return found

    def _imported(self, reference: str, name: str) -> Any:
        # A console script has its own folder on the path, not the current one.
        here = os.getcwd()
        if here not in sys.path:
            sys.path.append(here)
        importlib.invalidate_caches()
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise ValueError(
                    f"{self._kind} {reference!r}: {name} needs the module {error.name!r}, which is "
                    "not installed. Install it."
                ) from error
            near = [path.stem for path in pathlib.Path(here).glob("*.py")]
            raise ValueError(
                f"{self._kind} {reference!r}: no module {name!r} on the Python path or in the "
                f"current directory {here}.{terminal.suggestion_for(name, near)} Run the command "
                f"in the folder of {name.partition('.')[0]}.py, or add it to PYTHONPATH."
            ) from error
        except (Exception, SystemExit) as error:  # A module may raise anything.
            raise ValueError(
                f"{self._kind} {reference!r}: {name!r} cannot be imported ({_described(error)}). "
                "Correct the module, or the name."
            ) from error

    def digest(self, reference: str) -> str | None:
        """Returns a digest of the source of a plugin; None for built-in ones, or without a source.

        The source is the file of the class or module; the files of its base classes; and the files
        that these import at their top, unless they belong to an installed package. The source of a
        class in a notebook is its cell, and the cells and files that its code refers to. A file
        counts as it was imported; a warning says so if it was edited since then.

        Raises:
            ValueError: See `get`.
        """
        if self.is_built_in(reference):
            return None
        sources = _sources(self._find(reference))
        if not sources:
            return None
        digest = hashlib.sha256()
        for source in sorted(sources.values()):
            digest.update(hashlib.sha256(source).digest())
        return digest.hexdigest()[:16]


class Plugin:
    """A base class of users' classes: their source is read when they are defined."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        module = sys.modules.get(cls.__module__)
        if module is not None and _is_of_user(module):
            _sources(cls)


def reference_to(found: str | type) -> str:
    """Returns MODULE:CLASS of a class; a reference is returned unchanged.

    Raises:
        ValueError: It is not a class; or the class is defined inside a function, so no other
            process can find it.
    """
    if isinstance(found, str):
        return found
    if not inspect.isclass(found):
        raise ValueError(f"expected a class, or MODULE:CLASS, got {found!r}.")
    if "<locals>" in found.__qualname__:
        raise ValueError(
            f"{found.__qualname__} is defined inside a function; expected a class at the top level "
            "of a module, because a trained model is loaded by its name. Move it there."
        )
    return _shown(found)


def place_of(error: BaseException) -> str | None:
    """Returns the file and line of a user's module that raised an error; None if none did."""
    place = None
    script = getattr(sys.modules["__main__"], "__file__", None)
    for frame, line in traceback.walk_tb(error.__traceback__):
        name, file = frame.f_globals.get("__name__"), frame.f_code.co_filename
        module = sys.modules.get(name or "")
        # A script and what lies beside it are no plugins; AutoGraph's code is in another file.
        is_script = script and pathlib.Path(script).parent in pathlib.Path(file).parents
        if not is_script and module is not None and _is_of_user(module):
            place = f"{file}, line {line}" if file == _file(module) else place
    return place


def subclass_of(base: type[Found]) -> Callable[[Any], type[Found] | None]:
    """Returns an `accept` of `Registry`: subclasses of a base class, and the class itself."""
    return lambda found: found if inspect.isclass(found) and issubclass(found, base) else None


def _shown(reference: str | type) -> str:
    if isinstance(reference, str):
        return reference
    return f"{reference.__module__}:{reference.__qualname__}"


def _sources(found: Any) -> dict[str, bytes]:
    """Returns the source of a class or module: name of a file or cell -> content.

    Other imports of the process do not change the result.
    """
    sources: dict[str, bytes] = {}
    if inspect.ismodule(found):
        _add_file(found, sources)
    for base in inspect.getmro(found) if inspect.isclass(found) else ():
        module = sys.modules.get(base.__module__)
        if module is None:
            continue
        if not hasattr(module, "__file__"):
            _add_cells(base, sources)
        elif base is found or _is_of_user(module):
            _add_file(module, sources)
    return sources


def _add_file(module: types.ModuleType, sources: dict[str, bytes]) -> None:
    """Adds the file of a module, and of the user's modules that it imports at its top."""
    file = getattr(module, "__file__", None)
    if file is None or file in sources or not os.path.isfile(file):
        return
    sources[file] = _imported_source(module, file)
    if b"\0" in sources[file]:
        return  # A compiled module.
    for name in _imported_names(ast.parse(sources[file], file), module.__package__ or ""):
        used = sys.modules.get(name)
        if used is not None and _is_of_user(used):
            _add_file(used, sources)


def _imported_source(module: types.ModuleType, file: str) -> bytes:
    """Returns the file of a module as it was first read since the module was imported."""
    now, spec = pathlib.Path(file).read_bytes(), module.__spec__
    # A reload replaces the spec, and keeps the module.
    known_spec, before = _imported.get(file, (None, None))
    if before is None or known_spec is not spec:
        _imported[file] = spec, now
        return now
    if now != before:
        _warn_of_edited(file, now)
    return before


def _imported_names(tree: ast.AST, package: str) -> Iterator[str]:
    """Yields the names of the modules that code imports outside of functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            origin = ".".join(filter(None, (above, node.module)))
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _imported_names(node, package)


def _add_cells(found: Any, sources: dict[str, bytes]) -> None:
    """Adds the notebook cells that define a class or function and the names in its code."""
    parts = vars(found).values() if inspect.isclass(found) else [found]
    for function in filter(inspect.isfunction, (getattr(p, "__func__", p) for p in parts)):
        cell = function.__code__.co_filename
        lines = "".join(linecache.getlines(cell)).encode()
        if not lines or cell in sources:
            continue
        sources[cell] = lines
        for name in _names_in(function.__code__):
            used = function.__globals__.get(name)
            module = used if inspect.ismodule(used) else inspect.getmodule(used)
            if module is not None and _is_of_user(module):
                _add_file(module, sources)
            elif inspect.isclass(used) or inspect.isfunction(used):
                _add_cells(used, sources)


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def _is_of_user(module: types.ModuleType) -> bool:
    """Returns whether a module is in a file that was not installed."""
    file = getattr(module, "__file__", None)
    if file is None or module.__name__.partition(".")[0] in _OWN_PACKAGES:
        return False
    path = pathlib.Path(file)
    if not {"site-packages", "dist-packages"}.isdisjoint(path.parts):
        return False
    return not any(path.is_relative_to(sysconfig.get_path(n)) for n in ("stdlib", "platstdlib"))


@functools.cache  # Reading the entry points of 200 packages takes 10 ms.
def _warn_if_shadowed(kind: str, group: str, name: str, built_in: str) -> None:
    for entry in metadata.entry_points(group=group, name=name):
        if entry.value != built_in:
            _logger.warning(
                "The %s %r of the package %s is not used: there is a built-in one of this name. "
                "Name it as %s, or rename it in the package.",
                kind,
                name,
                entry.dist.name if entry.dist else "an installed package",
                entry.value,
            )


@functools.cache  # Once for each edit.
def _warn_of_edited(file: str, content: bytes) -> None:
    _logger.warning(
        "%s was edited after it was imported, and this process uses it as it was. To use the "
        "edited file, start another process, or reload the module with importlib.reload.",
        file,
    )


def _described(error: BaseException) -> str:
    """Returns the error that the import of a module raised, with its file and line."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and "importlib" not in frame.filename
    ]
    place = f"; {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def _file(module: types.ModuleType) -> str:
    return getattr(module, "__file__", None) or "without a file"
