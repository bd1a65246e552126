"""Models, index kinds and log formats by name, of this package and of others.

    NAME            one of ours, or an entry point of an installed package
    MODULE:CLASS    a class of a module on the Python path or in the current directory

A package offers a class under a name by an entry point (pyproject.toml):

    [project.entry-points."tfrec.rankers"]
    dlrm = "our_package.models:DLRM"
"""

import hashlib
import importlib
import inspect
import linecache
import os
import pathlib
import sys
import sysconfig
import types
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, Generic, TypeVar

from tfrecords import terminal

Found = TypeVar("Found")
_OWN_PACKAGES = ("tfrec", "tfrecords", "serving")


class Registry(Generic[Found]):
    """What can be named in one place.

    Args:
        what: What is named, for messages.
        group: Group of the entry points.
        own: Name -> module or MODULE:CLASS of ours.
        expected: What must be found, for messages.
        accept: Maps what is found to what `get` returns, or to None if it is not as expected.
    """

    def __init__(
        self,
        what: str,
        group: str,
        own: Mapping[str, str],
        expected: str,
        accept: Callable[[Any], Found | None],
    ) -> None:
        self.group = group
        self._what, self._own = what, own
        self._expected, self._accept = expected, accept

    @property
    def names(self) -> tuple[str, ...]:
        """Our names, then those of installed packages."""
        others = {entry.name for entry in metadata.entry_points(group=self.group)}
        return (*self._own, *sorted(others - set(self._own)))

    def get(self, reference: str | type) -> Found:
        """Returns what a reference stands for.

        Args:
            reference: A name, MODULE:CLASS, or the class itself.

        Raises:
            ValueError: There is no such name, module or class; or it is not as expected.
        """
        found = self._find(reference) if isinstance(reference, str) else reference
        accepted = self._accept(found)
        if accepted is None:
            raise ValueError(
                f"{self._what} {_shown(reference)!r}: expected {self._expected}, got {found!r}."
            )
        return accepted

    def _find(self, reference: str) -> Any:
        if ":" in reference:
            return self._of_module(reference)
        installed = metadata.entry_points(group=self.group, name=reference)
        values = {entry.value for entry in installed}
        if reference in self._own:
            values.add(self._own[reference])
        if not values:
            raise ValueError(
                f"Unknown {self._what} {reference!r}; expected one of {', '.join(self.names)}, or "
                f"MODULE:CLASS for a class of your own."
                f"{terminal.suggestion_for(reference, self.names)}"
            )
        if len(values) > 1:
            raise ValueError(
                f"{self._what} {reference!r}: expected one class of this name, got "
                f"{', '.join(sorted(values))}. Name the class as MODULE:CLASS."
            )
        try:
            return metadata.EntryPoint(reference, values.pop(), self.group).load()
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"{self._what} {reference!r} cannot be loaded ({error}). Repair the package that "
                f"offers it in {self.group!r}."
            ) from error

    def _of_module(self, reference: str) -> Any:
        module_name, _, name = reference.partition(":")
        module = self._imported(reference, module_name)
        found: Any = module
        for part in name.split("."):
            known = [own for own, value in vars(found).items() if inspect.isclass(value)]
            found = getattr(found, part, None)
            if found is None and module_name == "__main__":
                raise ValueError(
                    f"{self._what} {reference!r} was defined in a notebook or a script, not in a "
                    "module. Define it here in the same way first, or move it to a module, whose "
                    "name every process can find, and train again."
                )
            if found is None:
                raise ValueError(
                    f"{self._what} {reference!r}: {module_name} ({_file(module)}) has no {name!r}; "
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
                    f"{self._what} {reference!r}: {name} needs the module {error.name!r}, which is "
                    "not installed. Install it."
                ) from error
            near = [path.stem for path in pathlib.Path(here).glob("*.py")]
            raise ValueError(
                f"{self._what} {reference!r}: no module {name!r} on the Python path or in the "
                f"current directory {here}.{terminal.suggestion_for(name, near)} Run the command "
                f"in the folder of {name.partition('.')[0]}.py, or add it to PYTHONPATH."
            ) from error
        except (ImportError, ValueError, TypeError) as error:
            raise ValueError(
                f"{self._what} {reference!r}: {name!r} cannot be imported ({error}). Correct the "
                "module, or the name."
            ) from error

    def digest(self, reference: str) -> str | None:
        """Returns a digest of the source of MODULE:CLASS; None for a name, or without a source.

        The source is the file of the class, or its cell of a notebook; the files of its base
        classes; and the files that these import, unless they belong to an installed package.

        Raises:
            ValueError: See `get`.
        """
        if ":" not in reference:
            return None
        found = self._find(reference)
        sources = _sources(found) if inspect.isclass(found) else {}
        if not sources:
            return None
        digest = hashlib.sha256()
        for source in sorted(sources.values()):
            digest.update(hashlib.sha256(source).digest())
        return digest.hexdigest()[:16]


def reference_to(found: str | type) -> str:
    """Returns MODULE:CLASS of a class; a reference is returned as it is.

    Raises:
        ValueError: It is no class; or the class is defined inside a function, so no other process
            can find it.
    """
    if isinstance(found, str):
        return found
    if not inspect.isclass(found):
        raise ValueError(f"expected a class, or MODULE:CLASS, got {found!r}.")
    if "<locals>" in found.__qualname__:
        raise ValueError(
            f"{found.__qualname__} is defined inside a function; expected a class at the top of a "
            "module, by whose name a trained model is loaded again. Move it there."
        )
    return _shown(found)


def subclass_of(base: type[Found]) -> Callable[[Any], type[Found] | None]:
    """Returns an `accept` of `Registry`: subclasses of a base class, and the class itself."""
    return lambda found: found if inspect.isclass(found) and issubclass(found, base) else None


def _shown(reference: str | type) -> str:
    if isinstance(reference, str):
        return reference
    return f"{reference.__module__}:{reference.__qualname__}"


def _sources(kind: type) -> dict[str, bytes]:
    """Returns what a class is made of: name of a file or cell -> content."""
    defining = [sys.modules[base.__module__] for base in kind.__mro__]
    modules = [defining[0], *(module for module in defining[1:] if _is_of_user(module))]
    sources, seen = {}, {id(module) for module in modules}
    for module in modules:
        file = getattr(module, "__file__", None)
        if file is not None and os.path.isfile(file):
            sources[file] = pathlib.Path(file).read_bytes()
        for value in list(vars(module).values()):
            name = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
            used = sys.modules.get(name) if isinstance(name, str) else None
            if used is not None and id(used) not in seen and _is_of_user(used):
                seen.add(id(used))
                modules.append(used)
    return sources or _cells(kind)


def _cells(kind: type) -> dict[str, bytes]:
    """Returns the cells of a notebook that define the methods of a class."""
    names = {own.__code__.co_filename for own in vars(kind).values() if inspect.isfunction(own)}
    cells = {name: "".join(linecache.getlines(name)).encode() for name in names}
    return {name: source for name, source in cells.items() if source}


def _is_of_user(module: types.ModuleType) -> bool:
    """Returns whether a module is in a file that was not installed."""
    file = getattr(module, "__file__", None)
    if file is None or module.__name__.partition(".")[0] in _OWN_PACKAGES:
        return False
    paths = sysconfig.get_paths()
    installed = (paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    return not any(pathlib.Path(file).is_relative_to(path) for path in installed)


def _file(module: Any) -> str:
    return getattr(module, "__file__", None) or "without a file"
