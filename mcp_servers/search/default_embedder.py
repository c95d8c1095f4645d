"""The embedding model of `--embeddings`: all-MiniLM-L6-v2. The only door from the servers to modelstack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_servers.failures import StartError

if TYPE_CHECKING:
    from modelstack.inference.minilm import TextEmbedder


def minilm_files() -> str:
    """Return the folder of the model's files, which the confinement lets the server read.

    Raises:
        StartError: The model or a package that it needs is missing.
    """
    from mcp_servers.missing_modules import how_to_install

    try:
        from modelstack.inference.minilm import minilm_folder
    except ModuleNotFoundError as error:
        raise StartError(f"--embeddings: {how_to_install(error, prefer=['embeddings']) or error}") from error
    folder = minilm_folder()
    if folder is None:
        raise StartError(
            "--embeddings needs the model all-MiniLM-L6-v2: `agentkit models pull minilm` fetches it (91 MB)."
        )
    return str(folder)


def minilm_embedder() -> TextEmbedder:
    """Return the loaded model.

    Raises:
        StartError: It cannot be loaded.
    """
    from modelstack.inference.minilm import minilm

    try:
        return minilm()
    except ValueError as error:  # a UserError of modelstack
        raise StartError(f"--embeddings: {error}") from error
