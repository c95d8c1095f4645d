"""A server process that is soon ready: of `mcp` it runs what serving needs, and prepares types when they are used.

Nearly all of the time from a host's starting a server to its list of tools goes into importing `mcp`, and most of
that into parts that a server has no use for: the `__init__` of `mcp` and of `mcp.server` import the client, its
HTTP library and a second way to write servers, and each of some seven hundred message types is compiled into a
validator although a session uses a dozen. Here

- the two packages run their `__init__` when a name of theirs is first asked for, as they do otherwise at once;
  their modules are imported as ever;
- types that are made meanwhile compile at their first use (pydantic's `defer_build`);
- pydantic does not look through all installed packages for plugins;
- the garbage collector waits, since nothing that is imported is garbage.

Nothing else differs, and what is imported afterwards, or without this, is as it always was. It is for processes
that are nothing but a server.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import Loader
from types import ModuleType
from typing import Any

LATE_PACKAGES = ("mcp", "mcp.server")


@contextmanager
def quick_imports() -> Iterator[None]:
    """Let the imports in this block be quick ones."""
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        for name in LATE_PACKAGES:
            if name not in sys.modules:
                _run_late(name)
        with _types_compiled_late():
            yield
    finally:
        gc.freeze()  # what was imported stays, and is not looked through again
        if is_collecting:
            gc.enable()


def _run_late(name: str) -> None:
    """Make a package known whose `__init__` runs when a name is asked for that it does not have."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return  # not installed: the import proper says so
    package = importlib.util.module_from_spec(spec)
    package.__dict__["__getattr__"] = _LateInit(spec.loader, package)  # PEP 562
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)


class _LateInit:
    """A package's `__getattr__`: runs its `__init__`, once and by one thread, and looks again."""

    def __init__(self, loader: Loader, package: ModuleType) -> None:
        self._loader, self._package = loader, package
        self._lock = threading.RLock()
        self._has_begun = False

    def __call__(self, attribute: str) -> Any:
        # What the import system asks a package for begins with two underscores; `__all__` is for `import *`.
        if not attribute.startswith("__") or attribute == "__all__":
            with self._lock:
                self._run()
                if attribute in self._package.__dict__:
                    return self._package.__dict__[attribute]
        raise AttributeError(f"module {self._package.__name__!r} has no attribute {attribute!r}")

    def _run(self) -> None:
        if self._has_begun:  # by this thread, whose imports ask for what is still to come; or it is done
            return
        self._has_begun = True
        try:
            self._loader.exec_module(self._package)
        except BaseException:
            self._has_begun = False
            raise


@contextmanager
def _types_compiled_late() -> Iterator[None]:
    """Make pydantic's `defer_build` the default, which it has no other way to set for other people's types."""
    from pydantic import BaseModel, ConfigDict, TypeAdapter

    late = ConfigDict(defer_build=True)
    of_models, init = BaseModel.model_config, TypeAdapter.__init__

    def late_init(adapter: TypeAdapter[Any], type_: Any, *, config: ConfigDict | None = None, **more: Any) -> None:
        is_union = not isinstance(type_, type)  # a class has a config of its own
        init(adapter, type_, config=late if config is None and is_union else config, **more)

    BaseModel.model_config = {**of_models, **late}  # what every model inherits
    TypeAdapter.__init__ = late_init  # pyright: ignore[reportAttributeAccessIssue]  (other names of parameters)
    try:
        yield
    finally:
        BaseModel.model_config, TypeAdapter.__init__ = of_models, init
