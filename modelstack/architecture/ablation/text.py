"""Training and held-out bytes, from files the user names or from Python's standard library.

Letters: T bytes of a sequence.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modelstack.errors import UserError
from modelstack.tokenizer.documents import find_files, is_held_out, sample_documents

HELD_OUT_SHARE = 0.1
MAX_BYTES = 8 * 2**20
"""Maximum bytes of the sample. A run at this budget reads less than a megabyte; a larger sample only takes longer.
"""
MIN_BYTES = 2**14


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """Training and held-out bytes of different documents."""

    training: np.ndarray
    held_out: np.ndarray
    source: str
    fingerprint: str
    """SHA-256 of both parts."""

    def batch(self, seed: int, step: int, n_rows: int, length: int) -> Tensor:
        """Return training bytes [n_rows, T]; they depend only on the seed and the step."""
        return _windows(self.training, np.random.default_rng((seed, step)), n_rows, length)

    def held_out_batch(self, n_rows: int, length: int) -> Tensor:
        """Return held-out bytes [n_rows, T], the same in every call."""
        return _windows(self.held_out, np.random.default_rng(0), n_rows, length)


def read_text(paths: Sequence[Path]) -> Text:
    """Read documents and hold out a tenth of them, selected by their hash.

    Args:
        paths: Files or folders as for `modelstack tokenizer train`; empty: Python's standard library.

    Raises:
        UserError: A path does not exist or is not text, or there is too little text.
    """
    if paths:
        files = find_files(paths)
        training, held_out = (
            [d.text for d in sample_documents(files, int(MAX_BYTES * share), held_out=side, share=HELD_OUT_SHARE)]
            for side, share in ((False, 1 - HELD_OUT_SHARE), (True, HELD_OUT_SHARE))
        )
    else:
        library = _python_library()
        held_out = [text for text in library if is_held_out(text, HELD_OUT_SHARE)]
        training = [text for text in library if not is_held_out(text, HELD_OUT_SHARE)]
    parts = [_bytes_of(training), _bytes_of(held_out)]
    if min(map(len, parts)) < MIN_BYTES:
        raise UserError(
            f"the text has {len(parts[0])} training bytes and {len(parts[1])} held-out bytes; "
            f"at least {MIN_BYTES} of each are required. Add documents; a tenth of them is held out"
        )
    arrays = [np.frombuffer(part, dtype=np.uint8) for part in parts]
    source = ", ".join(map(str, paths)) or "the Python library's source"
    return Text(arrays[0], arrays[1], source, hashlib.sha256(b"\0".join(parts)).hexdigest())


def _bytes_of(texts: Sequence[str]) -> bytes:
    return "\n\n".join(texts).encode("utf-8", errors="replace")


def _windows(data: np.ndarray, random: np.random.Generator, n_rows: int, length: int) -> Tensor:
    starts = random.integers(0, len(data) - length, n_rows)
    return torch.from_numpy(np.stack([data[s : s + length] for s in starts]).astype(np.int64))


def _python_library() -> list[str]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    return [path.read_text(encoding="utf-8", errors="replace") for path in sorted(folder.glob("*.py"))]
