"""Files in the package for a model of the catalog: an adapter that `modelstack` trained, its prior, its card.

A folder `adapters/ID` holds `adapter.gguf` (what llama.cpp loads on top of the base), `prior.json` (fitted weights
of the decision between tools), `stage.json` (recipe, data, lineage, hashes) and `README.md` (the card).
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

ADAPTER_FILE, PRIOR_FILE, STAGE_FILE = "adapter.gguf", "prior.json", "stage.json"
SHOWN_DIGITS = 12
"""Digits of a hash that tell adapters apart in a trace."""
ALWAYS_ABSTAINING = frozenset({"smollm2-135m"})
"""Models whose adapter saw `[]` offered in every training prompt. The other adapters were trained on both: with
`abstain=true` they reply `[]` if no tool fits, without it they decline in words."""
_FOLDER = Path(__file__).parents[1] / "adapters"


def shipped_folder(model_id: str) -> Path | None:
    """Return the folder of a catalog model's adapter; None if the package has none."""
    folder = _FOLDER / model_id
    # Only direct subfolders: an id with a slash or dots must not lead elsewhere.
    if folder.parent != _FOLDER or not (folder / ADAPTER_FILE).is_file():
        return None
    return folder


def shipped_files() -> dict[str, tuple[Path, Path | None]]:
    """Return adapter and prior of each catalog model that has them; `modelstack serve` loads them by its id."""
    folders = sorted(file.parent for file in _FOLDER.glob(f"*/{ADAPTER_FILE}"))
    return {
        folder.name: (folder / ADAPTER_FILE, prior if (prior := folder / PRIOR_FILE).is_file() else None)
        for folder in folders
    }


@cache
def adapter_identity(file: Path) -> str:
    """Return name and abbreviated SHA-256 of an adapter: those of the stage in its folder, else of the file."""
    try:
        stage = json.loads((file.parent / STAGE_FILE).read_text(encoding="utf-8"))
        return f"{stage['stage']['name']} {stage['fingerprint'][:SHOWN_DIGITS]}"
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        with file.open("rb") as content:
            return f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()[:SHOWN_DIGITS]}"
    except OSError:  # loading the model reports it
        return file.name
