"""The distribution that brings these packages, and the command that installs one of its extras.

It stands here because this package is below all others. Its name differs from the names of the packages:
`agentkit` and `modelstack` belong to other projects on the Python package index.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

NAME = "agentkit-modelstack"


def install_command(*extras: str) -> str:
    """Return the command that installs extras, or the base install without any.

    In a checkout it installs the checkout; elsewhere it names the distribution.
    """
    wanted = f"[{','.join(extras)}]" if extras else ""
    root = _checkout()
    if root is None:
        return f'pip install "{NAME}{wanted}"'
    return f'pip install -e "{"." if _is_current(root) else root}{wanted}"'


@cache
def _checkout() -> Path | None:
    """Return the folder of the checkout that this package is imported from; None: it is installed."""
    root = Path(__file__).resolve().parents[1]
    file = root / "pyproject.toml"
    # A package installed into a project's folder (`pip install --target`) has that project's file beside it.
    is_ours = file.is_file() and f'name = "{NAME}"' in file.read_text(encoding="utf-8")
    return root if is_ours else None


def _is_current(folder: Path) -> bool:
    try:
        return Path.cwd() == folder
    except OSError:  # the current folder was deleted
        return False
