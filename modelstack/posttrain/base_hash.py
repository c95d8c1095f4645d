"""Hash that identifies the base of a training, a GGUF file or a checkpoint folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

from modelstack.errors import UserError
from modelstack.files import sha256_of
from modelstack.posttrain.weights_by_name import nearest_path_hint

_HASHED = ("config.json", "tokenizer.json", "tokenizer_config.json", "*.safetensors")
"""Files that determine the output of a checkpoint folder."""


def base_sha256(path: Path) -> str:
    """Return the hash that identifies a base.

    Raises:
        UserError: The file or folder is missing, or the folder holds no weights.
    """
    if path.is_file():
        return sha256_of(path)
    if not path.is_dir():
        raise UserError(
            f"base {str(path)!r} is missing: name a GGUF file or a checkpoint folder{nearest_path_hint(path)}"
        )
    files = sorted(file for pattern in _HASHED for file in path.glob(pattern))
    if not any(file.suffix == ".safetensors" for file in files):
        raise UserError(
            f"base {str(path)!r} holds no .safetensors file: a checkpoint folder stores its weights there"
        )
    lines = "".join(f"{sha256_of(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def require_same_base(expected: str, found: str) -> None:
    """Refuse a base that an adapter was not trained on.

    Raises:
        UserError: The hashes differ.
    """
    if expected != found:
        raise UserError(
            f"the base has SHA-256 {found[:16]}..., the expected one is {expected[:16]}...: an adapter only fits "
            f"the weights it was trained on. Name that base, or train a new adapter on this one"
        )
