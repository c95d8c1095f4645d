"""The three sizes of the embedded model, by name: `local:tiny`, `local:small` and `local:medium`.

A profile is a model of the catalog together with the adapter that the package ships for it, if there is one;
`local` is the default profile. `local:ID` is the same model without the adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

PROFILES: Mapping[str, str] = MappingProxyType(
    {"tiny": "smollm2-135m", "small": "qwen2.5-coder-0.5b", "medium": "qwen2.5-coder-1.5b"}
)
"""Catalog id of each profile's model, smallest first."""

DEFAULT_PROFILE = "medium"
"""The profile that `local` stands for: the smallest that gets four of five first-hour requests right."""

FALLBACK_PROFILE = "tiny"
"""Profile used if another profile's file cannot be fetched: the smallest file, in a single wheel."""


def profile_of(name: str) -> str | None:
    """Return the profile of a model's name (`local`, `local:small?abstain=false`); None if it names no profile."""
    place = name.partition("?")[0]
    if place == "local":
        return DEFAULT_PROFILE
    profile = place.removeprefix("local:")
    return profile if profile != place and profile in PROFILES else None
