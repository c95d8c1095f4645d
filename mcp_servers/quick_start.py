"""Fast start of a server process: imports only the parts of `mcp` that serving needs, and builds types lazily.

Nearly all of the time from a host's start of a server to its list of tools goes into importing `mcp`, and most of
that into parts that a server does not use. The `__init__` of `mcp` and of `mcp.server` import the client, its HTTP
library and a second way to write servers. Each of some seven hundred message types is compiled into a validator
although a session uses a dozen. Inside `quick_imports`:

- the two packages run their `__init__` when one of their names is first requested, instead of at import; their
  modules are imported as usual;
- types that are made meanwhile compile at their first use (pydantic's `defer_build`);
- pydantic does not search all installed packages for plugins;
- garbage collection is off, since none of the imported objects is garbage.

Imports afterwards, or without this context, behave as usual. It is meant for processes that only run a server.
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
    """Make the imports in this block fast."""
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
        gc.freeze()  # exclude the imported objects from later collections
        if is_collecting:
            gc.enable()


def _run_late(name: str) -> None:
    """Register a package whose `__init__` runs when a missing name is requested."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return  # not installed: the import itself reports it
    package = importlib.util.module_from_spec(spec)
    package.__dict__["__getattr__"] = _LateInit(spec.loader, package)  # PEP 562
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)


class _LateInit:
    """Module `__getattr__` of a package: runs its `__init__` once, in one thread, and looks the name up again."""

    def __init__(self, loader: Loader, package: ModuleType) -> None:
        self._loader, self._package = loader, package
        self._lock = threading.RLock()
        self._has_begun = False

    def __call__(self, attribute: str) -> Any:
        # The import system requests names with two underscores; `__all__` is for `import *`.
        if not attribute.startswith("__") or attribute == "__all__":
            with self._lock:
                self._run()
                if attribute in self._package.__dict__:
                    return self._package.__dict__[attribute]
        raise AttributeError(f"module {self._package.__name__!r} has no attribute {attribute!r}")

    def _run(self) -> None:
        if self._has_begun:  # done, or in progress on this thread, whose imports request names not yet defined
            return
        self._has_begun = True
        try:
            self._loader.exec_module(self._package)
        except BaseException:
            self._has_begun = False
            raise


@contextmanager
def _types_compiled_late() -> Iterator[None]:
    """Make `defer_build` pydantic's default, which it cannot otherwise set for types of other packages."""
    from pydantic import BaseModel, ConfigDict, TypeAdapter

    late = ConfigDict(defer_build=True)
    of_models, init = BaseModel.model_config, TypeAdapter.__init__

    def late_init(adapter: TypeAdapter[Any], type_: Any, *, config: ConfigDict | None = None, **more: Any) -> None:
        is_union = not isinstance(type_, type)  # a class has a config of its own
        init(adapter, type_, config=late if config is None and is_union else config, **more)

    BaseModel.model_config = {**of_models, **late}  # inherited by every model
    TypeAdapter.__init__ = late_init  # pyright: ignore[reportAttributeAccessIssue]  (other names of parameters)
    try:
        yield
    finally:
        BaseModel.model_config, TypeAdapter.__init__ = of_models, init
