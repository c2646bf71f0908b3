"""The simulation's own copy of the package, intact or with one line broken.

It is loaded while the standard library is the simulation's, so that what its
modules take from there when they are loaded, as a ``default_factory`` or a
lock of a module, is simulated as well. The package that everybody else uses
stays as it is; so do files and byte code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from tests.simulation.scheduler import World
from tests.simulation.stdlib import patched

PACKAGE = 'pyramid_dynamodb_session'


@dataclasses.dataclass(frozen=True)
class Breakage:
    """``new`` instead of ``old``, which ``module`` has exactly once.

    ``module`` is a dotted name below the package.
    """

    name: str
    module: str
    old: str
    new: str

    def __str__(self) -> str:
        return self.name


class BrokenLoader(importlib.machinery.SourceFileLoader):
    """Compiles a module with one line changed, and caches nothing."""

    breakage: Breakage

    def get_code(self, fullname: str) -> Any:
        breakage, path = self.breakage, self.get_filename(fullname)
        source = self.get_data(path).decode()
        count = source.count(breakage.old)
        if count != 1:
            raise LookupError(
                f'{breakage}: {path} has {breakage.old!r} {count} times'
            )
        source = source.replace(breakage.old, breakage.new)
        return compile(source, path, 'exec', dont_inherit=True)


class BreakingFinder(importlib.abc.MetaPathFinder):
    """Finds the module that is to be broken."""

    def __init__(self, breakage: Breakage) -> None:
        self._breakage = breakage
        self._name = f'{PACKAGE}.{breakage.module}'

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != self._name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        assert spec is not None
        assert spec.origin is not None
        loader = BrokenLoader(fullname, spec.origin)
        loader.breakage = self._breakage
        return importlib.util.spec_from_file_location(
            fullname,
            spec.origin,
            loader=loader,
            submodule_search_locations=spec.submodule_search_locations,
        )


Modules = dict[str, ModuleType]


def take_out() -> Modules:
    """Have the interpreter forget the package; what it knew of it."""
    return {
        name: sys.modules.pop(name)
        for name in list(sys.modules)
        if name == PACKAGE or name.startswith(f'{PACKAGE}.')
    }


def load(breakage: Breakage | None = None) -> Modules:
    """The modules of a new copy of the package."""
    # what it needs from others is loaded as it is
    importlib.import_module(PACKAGE)
    before = take_out()
    finder = None if breakage is None else BreakingFinder(breakage)
    if finder is not None:
        sys.meta_path.insert(0, finder)
    try:
        with patched(World('loading')):
            importlib.import_module(PACKAGE)
            if breakage is not None:
                importlib.import_module(f'{PACKAGE}.{breakage.module}')
        return take_out()
    finally:
        if finder is not None:
            sys.meta_path.remove(finder)
        sys.modules.update(before)


class Copies:
    """The copy that is in use, and those that would be restored."""

    def __init__(self) -> None:
        self._intact: Modules | None = None
        self._broken: Modules | None = None

    @contextlib.contextmanager
    def broken(self, breakage: Breakage) -> Iterator[None]:
        """Simulate a package with this breakage, until the end."""
        self._broken = load(breakage)
        try:
            yield
        finally:
            self._broken = None

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Have whoever imports the package get the copy, until the end."""
        if self._broken is None and self._intact is None:
            self._intact = load()
        modules = self._broken or self._intact
        assert modules is not None
        before = take_out()
        sys.modules.update(modules)
        try:
            yield
        finally:
            modules.update(take_out())
            sys.modules.update(before)


_copies = Copies()
broken = _copies.broken
in_place = _copies.in_place
