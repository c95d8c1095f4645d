"""The folder of everything that is fetched: models, prompts evaluated earlier, data of measurements."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "AGENTKIT_CACHE_DIR"


def cache_dir() -> Path:
    """Return the folder of everything that agentkit fetches: AGENTKIT_CACHE_DIR, or the user's cache."""
    import platformdirs

    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("agentkit"))
