"""A model's vocabulary as plain data, for the grammar engines and the decode loop.

Control tokens are separate from text: `encode` never yields one, for any text. Only the chat renderer
(`modelstack.tokenizer.chat`) adds control tokens, so tool output cannot forge a turn.

Letters: V vocabulary size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelstack.errors import UserError

MAX_TOKENS = 1_000_000
MAX_TOKEN_CHARACTERS = 1_000


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """The V tokens of a model and the function that encodes content with them."""

    token_bytes: tuple[bytes, ...]
    """Bytes of each token, length V; for control tokens, the bytes of their names."""
    special_ids: frozenset[int]
    """Tokens that content must never produce: control, unknown, and user-defined ones that have a role."""
    end_ids: tuple[int, ...]
    """Tokens that end a generation; a renderer writes the first."""
    encode: Callable[[str], list[int]]
    """Encoder of content; the result contains no id of `special_ids`."""
    fingerprint: str = field(default="")
    """SHA-256 over token bytes, special and end ids: the tokenizer's part of every cache key."""
    bos_id: int | None = None
    """Token at the start of every text; None if the model was trained without one."""

    def __post_init__(self) -> None:
        """Compute the fingerprint if it is not given."""
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", self._hash())

    def __len__(self) -> int:
        """Return V."""
        return len(self.token_bytes)

    def decode(self, ids: list[int]) -> str:
        """Return the text of `ids`; bytes that are not UTF-8 become U+FFFD, control tokens their names."""
        return b"".join(self.token_bytes[i] for i in ids).decode("utf-8", errors="replace")

    def _hash(self) -> str:
        digest = hashlib.sha256()
        for token in self.token_bytes:
            digest.update(len(token).to_bytes(4, "little") + token)
        digest.update(repr((sorted(self.special_ids), self.end_ids)).encode())
        return digest.hexdigest()


def check_tokens(tokens: Any, path: Path) -> None:
    """Reject a vocabulary of implausible size.

    Raises:
        UserError: There are too many tokens, or one is too long or not a string.
    """
    if len(tokens) > MAX_TOKENS:
        raise UserError(f"{path} has {len(tokens):,} tokens; at most {MAX_TOKENS:,} are accepted")
    bad = next((t for t in tokens if not isinstance(t, str) or not 0 < len(t) <= MAX_TOKEN_CHARACTERS), None)
    if bad is not None:
        raise UserError(
            f"{path}: token {str(bad)[:40]!r} is empty or longer than {MAX_TOKEN_CHARACTERS} characters"
        )
