"""Agents by name: `MODULE:NAME`, `FILE.py:NAME`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from agentkit.agent import Agent
from agentkit.errors import UserError


def named_agent(name: str) -> Agent[Any, Any]:
    """Import the agent of a name; a function of this name is called and returns it.

    Modules are found as by `python -m`, in the current directory too. Importing runs the module's code.

    Raises:
        UserError: the name has another form, the module or the name in it is missing, or it is no agent.
    """
    found = named_object(name)
    if callable(found) and not isinstance(found, Agent):
        found = found()
    if not isinstance(found, Agent):
        raise UserError(f"{name!r} is {type(found).__name__}, not an Agent or a function that returns one.")
    return found  # pyright: ignore[reportUnknownVariableType]


def named_object(name: str) -> Any:
    """Import what a name of the form of `named_agent` stands for.

    Raises:
        UserError: the name has another form, or the module or the name in it is missing.
    """
    module_name, colon, attribute = name.rpartition(":")
    if not colon or not module_name or not attribute.isidentifier():
        raise UserError(f"{name!r} names no agent: write MODULE:NAME or FILE.py:NAME, for example app.py:agent.")
    module = _of_file(Path(module_name)) if module_name.endswith(".py") else _of_module(module_name)
    names: dict[str, Any] = vars(module)
    if attribute not in names:
        known = ", ".join(key for key, value in names.items() if isinstance(value, Agent)) or "none"
        raise UserError(f"{module_name} has no {attribute!r}; agents in it: {known}.")
    return names[attribute]


def _of_module(name: str) -> ModuleType:
    _look_for_modules_in(os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UserError(f"there is no module {name!r}; a file is named FILE.py:NAME.") from error
        raise


def _of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"there is no file {str(path)!r}.")
    path = path.resolve()
    if (loaded := sys.modules.get(path.stem)) is not None:
        if getattr(loaded, "__file__", None) == str(path):
            return loaded
        raise UserError(f"{path.name} has the name of the module {path.stem!r}, which is in use: rename the file.")
    # For what the file imports: modules beside it, and packages of the current directory.
    _look_for_modules_in(os.getcwd())
    _look_for_modules_in(str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # of a .py file
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses and pickles look it up; modules beside it import it
    spec.loader.exec_module(module)
    return module


def _look_for_modules_in(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)
