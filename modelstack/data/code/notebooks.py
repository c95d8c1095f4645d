"""Conversion of a Jupyter notebook (nbformat 3 and 4) to a script: prose becomes comments, outputs are omitted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

_COMMENT = {"python": "#", "r": "#", "julia": "#", "scala": "//", "c++": "//", "javascript": "//", "rust": "//"}


@dataclass(frozen=True, slots=True)
class Script:
    """The cells of a notebook as one text, and the language of its kernel."""

    text: str
    language: str


def notebook_as_script(text: str) -> Script | None:
    """Return the cells of a notebook separated by blank lines; None if it is not a notebook or has no code."""
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(notebook, dict):
        return None
    language = _language(notebook)
    sign = _COMMENT.get(language, "#")
    pieces, has_code = [], False
    for cell in _cells(notebook):
        kind = cell.get("cell_type")
        source = _joined(cell.get("source", cell.get("input"))).rstrip()
        if not source:
            continue
        if kind == "code":
            has_code = True
            pieces.append(source)
        elif kind in ("markdown", "raw", "heading"):
            pieces.append("\n".join(f"{sign} {line}".rstrip() for line in source.split("\n")))
    return Script("\n\n".join(pieces) + "\n", language) if has_code else None


def _cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    cells = notebook.get("cells")
    if not isinstance(cells, list):
        sheets = notebook.get("worksheets")
        sheets = sheets if isinstance(sheets, list) else []
        cells = [cell for sheet in sheets if isinstance(sheet, dict) for cell in _list(sheet.get("cells"))]
    return [cell for cell in cells if isinstance(cell, dict)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _joined(source: Any) -> str:
    if isinstance(source, list):
        return "".join(line for line in source if isinstance(line, str))
    return source if isinstance(source, str) else ""


def _language(notebook: dict[str, Any]) -> str:
    metadata = notebook.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    for key, field in (("language_info", "name"), ("kernelspec", "language")):
        entry = metadata.get(key)
        if isinstance(entry, dict) and isinstance(entry.get(field), str):
            return entry[field].lower()
    return "python"
