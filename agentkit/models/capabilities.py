"""Lookup of a model's capabilities by provider and name.

The table is `agentkit.models.capability_table`. A model that is not in it has no entry: the caller keeps its
defaults, nothing is guessed from a similar name. A dated or numbered version of a listed model has the listed
model's capabilities.
"""

from __future__ import annotations

import re
from functools import lru_cache

from agentkit.models.capability_table import CLAUDE_ON_VERTEX, MODELS, OPEN_MODELS, ModelCapabilities

__all__ = ("ModelCapabilities", "capabilities_of")

_SAME_PROVIDER = {
    "azure.ai.openai": "openai",
    "gcp.gemini": "google",
    "gcp.gen_ai": "google",
    "gcp.vertex_ai": "google",
}
"""Providers that serve another provider's models under the same names."""
_VERSION = re.compile(r"[-@](\d{3,4}|\d{8}|\d{4}-\d{2}-\d{2}|latest|preview(-\d{2}-\d{2,4})?)")
"""Suffix of a version: a date, a number, or an alias of one of them. One or two digits are a part of the name."""
_LONGEST_NAME = 200


@lru_cache(maxsize=256)
def capabilities_of(provider: str, name: str) -> ModelCapabilities | None:
    """Return the capabilities of a model; None if it is not known.

    Args:
        provider: Provider as in `Model.provider`.
        name: The model's name, with or without the date of its version. Open models are known under their usual
            names at every provider, also with the name of their organisation in front.
    """
    name = name.lower()
    if len(name) > _LONGEST_NAME:
        return None
    provider = _SAME_PROVIDER.get(provider, provider)
    tables = [MODELS.get(provider, {}), OPEN_MODELS]
    if provider == "google":
        name = name.removeprefix("models/")
        tables.insert(1, CLAUDE_ON_VERTEX)
    for table in tables:
        bare = name.rpartition("/")[2].partition(":")[0] if table is OPEN_MODELS else name
        if (known := _listed(table, bare)) is not None:
            return known
    return None


def _listed(table: dict[str, ModelCapabilities], name: str) -> ModelCapabilities | None:
    if name in table:
        return table[name]
    names = [listed for listed in table if name.startswith(listed) and _VERSION.fullmatch(name, len(listed))]
    return table[max(names, key=len)] if names else None
