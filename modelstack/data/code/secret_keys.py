"""The step of a run that takes keys, tokens and passwords out of source files."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from modelstack.data.documents import Document, Step
from modelstack.data.privacy.findings import Kind
from modelstack.data.privacy.redaction import Style, redact

REASON = "many_secrets"


class Secrets(BaseModel, frozen=True, extra="forbid"):
    """Keys, and what else is asked for, replaced by tags, counted by kind in `metadata["secrets"]`.

    bigcode replaces keys by <KEY>, e-mail addresses by <EMAIL> (StarCoder, Li et al. 2023, arXiv 2305.06161,
    section 4); detectors are those of `modelstack.data.privacy`.
    """

    kind: Literal["secrets"] = "secrets"
    kinds: tuple[Kind, ...] = ("key",)
    style: Style = "tag"
    max_findings: int | None = Field(default=None, ge=0)
    """A file with more is dropped; None: whatever it holds is replaced."""

    def build(self) -> Step:
        """Return the step."""

        def step(document: Document) -> str | None:
            redacted = redact(document.text, style=self.style, kinds=self.kinds)
            document.metadata["secrets"] = redacted.counts
            if self.max_findings is not None and sum(redacted.counts.values()) > self.max_findings:
                return REASON
            if redacted.counts:
                document.text = redacted.text
            return None

        return step
