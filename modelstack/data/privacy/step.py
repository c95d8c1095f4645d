"""Step `privacy`: replaces private data in documents."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from modelstack.data.documents import Document, Step
from modelstack.data.privacy.addresses import IpScope
from modelstack.data.privacy.findings import KINDS, Kind
from modelstack.data.privacy.redaction import Style, redact

REASON = "too_much_private_data"


class Privacy(BaseModel, frozen=True, extra="forbid"):
    """Replaces private data by placeholders and counts it by kind in `metadata["private"]`.

    FineWeb replaces e-mail and public IP addresses as its last step (Penedo et al. 2024, arXiv 2406.17557). Dolma
    masks up to five findings and drops pages with more (Soldaini et al. 2024, arXiv 2402.00159, section 5.3:
    `max_findings = 5`). The Stack replaces e-mail addresses, IP addresses and keys (Li et al. 2023, arXiv
    2305.06161, section 4).

    Reason: `too_much_private_data`.
    """

    kind: Literal["privacy"] = "privacy"
    kinds: tuple[Kind, ...] = KINDS
    """Kinds of private data that are replaced."""
    style: Style = "example"
    """Placeholders: realistic reserved addresses and numbers, or tags such as <EMAIL>."""
    ip_scope: IpScope = "global"
    """IP addresses that count as private: globally reachable ones, also reserved ones, or any."""
    max_findings: int | None = Field(default=None, ge=0)
    """Maximum findings of a kept document; None: no limit."""

    def build(self) -> Step:
        """Return the step."""

        def step(document: Document) -> str | None:
            redacted = redact(document.text, style=self.style, kinds=self.kinds, ip_scope=self.ip_scope)
            document.metadata["private"] = redacted.counts
            if self.max_findings is not None and sum(redacted.counts.values()) > self.max_findings:
                return REASON
            if redacted.counts:
                document.text = redacted.text
            return None

        return step
