"""Place and size of the prompt cache.

The fixed part of a prompt (system text and tools) is evaluated once per machine: its KV state is kept beside the
models, and a new process starts from it. `modelstack.inference.state_store` describes the files.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from agentkit.errors import UserError
from agentkit.models.catalog.store import cache_dir

if TYPE_CHECKING:
    from modelstack.inference.state_store import StateStore

SIZE_VARIABLE = "AGENTKIT_PROMPT_CACHE_MB"
DEFAULT_MB = 1024
_MB = 1 << 20


def prompt_cache_folder() -> Path:
    """Return the folder of the stored states; only its user may read it, since states encode prompts."""
    return cache_dir() / "prompts"


def configured_bytes() -> int:
    """Return the maximum size of the cache in bytes: the environment's, else 1 GiB; 0 disables the cache.

    Raises:
        UserError: the environment's value is not a number.
    """
    text = os.environ.get(SIZE_VARIABLE, "").strip()
    if not text:
        return DEFAULT_MB * _MB
    if re.fullmatch(r"[0-9]{1,9}", text) is None:
        raise UserError(
            f"{SIZE_VARIABLE}={text!r} is not understood; give a whole number of megabytes, 0 for no cache."
        )
    return int(text) * _MB


def prompt_cache(max_bytes: int | None = None) -> StateStore | None:
    """Return the prompt cache; None if it is disabled.

    Raises:
        UserError: the environment's value is not a number.
    """
    from modelstack.inference.state_store import StateStore

    max_bytes = configured_bytes() if max_bytes is None else max_bytes
    return StateStore(prompt_cache_folder(), max_bytes) if max_bytes else None
