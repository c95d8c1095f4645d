"""Tokens of each source: counted in token shards, or estimated from the characters of a data run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelstack.data.pipeline.report import MANIFEST_FILE
from modelstack.data.shards import INDEX_FILE, Shards
from modelstack.errors import UserError
from modelstack.files import read_json_object

SOURCE_FIELD = "source"
"""Field of a data run's records that holds the source."""
MAX_MANIFEST_BYTES = 1 << 28
"""Maximum bytes of a manifest, which lists every file; a million files take 100 MB."""


@dataclass(frozen=True, slots=True)
class SourceTokens:
    """Sources with their tokens and, for data runs, the folders to train from."""

    tokens: Mapping[str, int]
    text: tuple[Path, ...] = ()
    """Folders of documents kept by data runs; empty for token shards."""
    is_estimate: bool = False
    """Whether tokens are estimated as characters divided by characters per token."""


def tokens_of(folders: Iterable[Path], characters_per_token: float | None = None) -> SourceTokens:
    """Return the tokens of each source, summed over the folders; a source may occur in several.

    Args:
        folders: Folders of token shards, or folders of finished data runs; not a mixture.
        characters_per_token: Average characters per token; required for data runs, refused for token shards.

    Raises:
        UserError: A folder is of neither kind or unfinished, the kinds are mixed, or `characters_per_token` is
            missing or not applicable.
    """
    shards, runs = [], []
    for folder in folders:
        if (folder / INDEX_FILE).is_file():
            shards.append(folder)
        elif (folder / MANIFEST_FILE).is_file():
            runs.append(folder)
        else:
            raise UserError(
                f"{folder} holds neither {INDEX_FILE} of token shards nor {MANIFEST_FILE} of a finished data run"
            )
    if shards and runs:
        raise UserError(f"{shards[0]} holds token shards, {runs[0]} a data run; name folders of one kind")
    counts: Counter[str] = Counter()
    if shards:
        if characters_per_token is not None:
            raise UserError(
                f"--characters-per-token is for data runs: the tokens of {shards[0]} are counted, leave it out"
            )
        for folder in shards:
            counts.update(_counted(Shards(folder)))
        return SourceTokens(dict(sorted(counts.items())))
    if characters_per_token is None:
        raise UserError(
            f"{runs[0]} holds a data run, which counts characters: give --characters-per-token, for example 4 "
            f"(`modelstack tokenizer report` prints bytes per token, nearly the same for English)"
        )
    text: list[Path] = []
    for folder in runs:
        manifest = read_json_object(folder / MANIFEST_FILE, MAX_MANIFEST_BYTES)
        counts.update(_characters(manifest, folder))
        text += _kept(manifest, folder)
    tokens = {name: round(n / characters_per_token) for name, n in sorted(counts.items())}
    return SourceTokens(tokens, tuple(text), is_estimate=True)


def _counted(shards: Shards) -> dict[str, int]:
    tokens = np.zeros(len(shards.sources), np.int64)
    np.add.at(tokens, shards.source_of, shards.lengths)
    return dict(zip(shards.sources, tokens.tolist(), strict=True))


def _characters(manifest: Mapping[str, Any], folder: Path) -> dict[str, int]:
    by = manifest.get("chars_by")
    counts = by.get("source") if isinstance(by, dict) else None
    if not isinstance(counts, dict) or not all(type(n) is int and n >= 0 for n in counts.values()):
        raise UserError(f"{folder / MANIFEST_FILE} has no characters by source; run `modelstack data run` again")
    return counts


def _kept(manifest: Mapping[str, Any], folder: Path) -> list[Path]:
    files = manifest.get("files")
    if not isinstance(files, dict) or not files:
        raise UserError(f"{folder / MANIFEST_FILE} names no file; finish the run with `modelstack data run`")
    return sorted({(folder / name).parent for name in files})
