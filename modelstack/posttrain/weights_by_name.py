"""Weights by the name of a model in a catalog.

An installed package offers its catalog through the entry point group `modelstack.catalogs`, as agentkit does: a
function that returns the path of each model's file by name, whether the file is there or not. Adapters that a
package ships for such models are offered through `modelstack.adapters`: adapter and prior, or None, by name.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path

from mcp_servers.near_paths import nearest_path
from modelstack.errors import UserError

GROUP, ADAPTERS = "modelstack.catalogs", "modelstack.adapters"


def weights_path(given: str | Path) -> Path:
    """Return the path of weights that a recipe or an option names.

    Args:
        given: A path, or a model's name; an existing path has priority.

    Raises:
        UserError: The model's file was not fetched, or the name is neither a path nor known.
    """
    path = Path(given)
    name = str(given)
    # A name of a catalog has no folder and is no file's name.
    if path.exists() or path.name != name or path.suffix == ".gguf":
        return path
    known = catalog()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0)
        hint = f"; nearest model: {near[0]!r}. `agentkit models list` shows all" if near else ""
        hint = nearest_path_hint(path) + hint
        raise UserError(f"{name!r} is missing: it is neither a file or folder here nor a model by name{hint}")
    if not known[name].is_file():
        raise UserError(f"model {name!r} is not on this machine: `agentkit models pull {name}` fetches it")
    return known[name]


def nearest_path_hint(missing: Path) -> str:
    """Return the end of an error about missing weights: the nearest path, or nothing if no name is similar."""
    near = nearest_path(missing)
    return "" if near is None else f"; nearest path: {str(near)!r}"


def catalog() -> Mapping[str, Path]:
    """Return the path of each model's file by name, from all installed catalogs."""
    return {name: path for point in entry_points(group=GROUP) for name, path in point.load()().items()}


def shipped_adapter(name: str) -> tuple[Path, Path | None] | None:
    """Return the adapter that an installed package ships for a model, and its prior; None if there is none."""
    found = {key: files for point in entry_points(group=ADAPTERS) for key, files in point.load()().items()}
    return found.get(name)
