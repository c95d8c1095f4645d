"""The default embedding model of this room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentkit.errors import UserError

if TYPE_CHECKING:
    from modelstack.inference.minilm import TextEmbedder


def minilm() -> TextEmbedder:
    """Return all-MiniLM-L6-v2, loaded once in a process: English sentences and short passages, without torch.

    Raises:
        UserError: The model (`agentkit models pull minilm`) or a package of the extra `embeddings` is missing.
    """
    try:
        from modelstack.errors import UserError as ModelstackUserError
        from modelstack.inference.minilm import minilm as loaded
    except ModuleNotFoundError as error:
        from mcp_servers.missing_modules import how_to_install

        raise UserError(f"minilm(): {how_to_install(error, prefer=['embeddings']) or error}") from error
    try:
        return loaded()
    except ModelstackUserError as error:
        raise UserError(str(error)) from error
