"""A finding about an endpoint, and how several samples become one.

A model may do a thing once by chance, so a probe whose outcome depends on the model asks several times. Only what
held every time holds; the count is always told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["holds", "fails", "ignored", "refused", "unknown"]
"""Outcome of a probe. "ignored": the request was accepted, and the field had no effect. "refused": the server
answered with an error. "unknown": the probe could not decide."""

WORDS: Mapping[Verdict, str] = {
    "holds": "holds",
    "fails": "does not hold",
    "ignored": "ignored",
    "refused": "refused",
    "unknown": "cannot tell",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Outcome of a probe."""

    id: str
    title: str
    verdict: Verdict
    detail: str
    n_held: int | None = None
    """Number of samples that held; None if one request decides."""
    n_asked: int | None = None
    """Number of samples."""
    figures: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """JSON-able values that were read, such as the context window."""

    @property
    def holds(self) -> bool:
        """Whether the verdict is "holds"."""
        return self.verdict == "holds"


@dataclass(frozen=True, slots=True)
class Sample:
    """Outcome of one of several requests."""

    verdict: Verdict
    detail: str = ""


def counted(id: str, title: str, samples: Sequence[Sample], *, detail: str = "") -> Finding:
    """Return the finding of several samples; `detail` is added if all of them hold.

    If some hold and others do not, the guarantee does not hold, unless the others could not be judged.
    """
    if not samples:
        return Finding(id, title, "unknown", "no reply could be judged")
    others = [sample for sample in samples if sample.verdict != "holds"]
    n_held = len(samples) - len(others)
    count = f"held {n_held} of {len(samples)}"
    if not others:
        text = f"{count}: {detail}" if detail else count
        return Finding(id, title, "holds", text, n_held, len(samples))
    decided = [sample for sample in others if sample.verdict != "unknown"] or others
    counts = Counter(sample.verdict for sample in decided)
    usual = max(decided, key=lambda sample: counts[sample.verdict])
    verdict, reason = usual.verdict, usual.detail
    if n_held and verdict != "unknown":
        verdict = "fails"
    if verdict == "refused" and n_held == 0:  # a refusal needs no count: nothing was repeated
        return Finding(id, title, verdict, reason, 0, len(samples))
    return Finding(id, title, verdict, f"{count}: {reason}" if reason else count, n_held, len(samples))
