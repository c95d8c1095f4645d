"""Recipe of tool-calling data: number of tokens, shares of sorts and sources, evaluations to avoid."""

from __future__ import annotations

import hashlib
from typing import Self

from pydantic import BaseModel, Field, model_validator

from modelstack.data.tools.api_making import API_SORTS
from modelstack.data.tools.making import SORTS

DEFAULT_SHARES = {
    "single": 0.20, "parallel": 0.105, "multi": 0.135,
    "beyond": 0.05, "tool_removed": 0.04, "far": 0.015, "small_talk": 0.006,
    "clarify": 0.03, "answer": 0.04, "follow_up": 0.02,
    "api_single": 0.145, "api_parallel": 0.045, "api_multi": 0.032, "api_removed": 0.025, "api_far": 0.008,
}  # fmt: skip
"""Shares of the tokens by sort; the rest is for `sources`.

Abstaining is correct in about 16 % of the examples, most of which are near-misses.
"""
DEFAULT_API_SHARES = {
    "seal-tools": 0.45, "mcp-toucan": 0.25, "mcp-mcpm": 0.14, "apizoo": 0.04, "mcp-docker-registry": 0.04,
    "mcp-github": 0.03, "openapi-openai": 0.02, "openapi-restgpt(tmdb,spotify)": 0.03,
}  # fmt: skip
"""Probability of drawing a tool of each source.

Sources whose descriptions are resource paths (Google's, Twilio's) are excluded; they do not read like requests.
"""


class ToolDataRecipe(BaseModel, frozen=True, extra="forbid"):
    """Configuration of a training set and a validation set."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the run; its folder is runs/NAME unless --out names another."""
    seed: int = 0
    """Seed of everything random in the run."""
    tokens: int = Field(default=1_500_000, gt=0)
    """Tokens of the training set, prompt and target, with one-line signatures; estimated from characters."""
    validation_examples: int = Field(default=300, ge=0)
    """Number of generated validation examples, from other seeds and from real tools not used for training."""
    characters_per_token: float = Field(default=3.72, gt=1)
    """Measured with SmolLM2's tokenizer on such a set; affects only the estimate of `tokens`."""
    schemas: tuple[str, ...] = ()
    """Files of real tool schemas, JSONL or zstd; empty: no sort `api_*`."""
    files: tuple[str, ...] = ()
    """Files of examples."""
    validation_files: tuple[str, ...] = ()
    """Files of examples for the validation set; at most `validation_examples` are used."""
    evaluations: tuple[str, ...] = ()
    """Files and folders of evaluation sets that no example may repeat; `~` is the home folder."""
    shares: dict[str, float] = DEFAULT_SHARES
    """Shares of the tokens by sort of generated example."""
    api_shares: dict[str, float] = DEFAULT_API_SHARES
    """Probabilities of the sources from which tools of the sorts `api_*` are drawn."""
    sources: dict[str, float] = {}
    """Shares of the tokens by source of the files' examples."""
    schemas_from: tuple[str, ...] = ("seal-tools",)
    """Sources in `files` whose tools also serve as schemas."""
    max_tools: int = Field(default=5, ge=1)
    """Maximum tools shown in an example from files; further distractors are removed."""

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        unknown = set(self.shares) - set(SORTS) - set(API_SORTS)
        if unknown:
            raise ValueError(
                f"shares names unknown sorts {sorted(unknown)}; known: {sorted([*SORTS, *API_SORTS])}"
            )
        total = sum(self.shares.values()) + sum(self.sources.values())
        if not 0 < total <= 1.0001:
            raise ValueError(f"shares and sources add up to {total:.3f}; they may add up to at most 1")
        if self.sources and not self.files:
            raise ValueError("sources have shares, but no files of examples are named")
        needs_schemas = [sort for sort in API_SORTS if self.shares.get(sort)]
        if needs_schemas and not (self.schemas or (self.files and self.schemas_from)):
            raise ValueError(f"{', '.join(needs_schemas)} need schemas; name a file, or give them no share")
        return self

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the recipe with all its defaults."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
