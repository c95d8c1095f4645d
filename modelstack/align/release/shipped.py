"""Facts and recorded figures of the adapters in the package, by the name of their model.

`shipped/NAME/about.toml` has the facts, `shipped/NAME/results.json` the figures that the commands in it measured.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).with_name("shipped")
ABOUT_FILE, RESULTS_FILE = "about.toml", "results.json"


def shipped_releases() -> tuple[str, ...]:
    """Return the names of models whose adapter has facts in the package."""
    return tuple(sorted(file.parent.name for file in _FOLDER.glob(f"*/{ABOUT_FILE}")))


def shipped_about(name: str) -> Path | None:
    """Return the facts of a model's adapter; None: the package has none."""
    return _FOLDER / name / ABOUT_FILE if name in shipped_releases() else None


def shipped_results(name: str) -> Path | None:
    """Return the recorded figures of a model's adapter; None: the package has none."""
    file = _FOLDER / name / RESULTS_FILE
    return file if name in shipped_releases() and file.is_file() else None
