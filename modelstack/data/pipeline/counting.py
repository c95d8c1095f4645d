"""Counts of a task: documents in and out, reasons, lengths, licences, and samples for the report.

Counts of tasks add up to those of a run in any order. Samples are the documents with the smallest id hashes, so
they do not depend on the order or distribution of tasks either.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from modelstack.data.documents import Broken, Document

N_SAMPLES = 3
"""Samples per reason, and of kept documents."""
SAMPLE_CHARS = 400
KEPT, DROPPED = "kept", "dropped"
READ = "read"
"""Name of the pseudo-step that drops broken records."""
BY = ("source", "license", "language")


class Counts:
    """Counts of one or several tasks."""

    def __init__(self, saved: Mapping[str, Any] | None = None) -> None:
        """Start at zero, or from the output of `to_json`."""
        saved = saved or {}
        self.n_in: int = saved.get("n_in", 0)
        self.n_out: int = saved.get("n_out", 0)
        self.chars_in: int = saved.get("chars_in", 0)
        """Characters of incoming texts; bytes for pages not yet extracted."""
        self.chars_out: int = saved.get("chars_out", 0)
        self.dropped: dict[str, Counter[str]] = {
            step: Counter(reasons) for step, reasons in saved.get("dropped", {}).items()
        }
        """Number of dropped documents by step and reason."""
        self.lengths: dict[str, Counter[int]] = {
            what: Counter({int(power): n for power, n in counts.items()})
            for what, counts in saved.get("lengths", {}).items()
        }
        """Number of kept and of dropped texts by length, as the power of two below the number of characters."""
        self.by: dict[str, Counter[str]] = {name: Counter(saved.get("by", {}).get(name, {})) for name in BY}
        """Characters of kept documents by source, licence and language."""
        self.samples: dict[str, list[list[str]]] = {
            key: list(kept) for key, kept in saved.get("samples", {}).items()
        }
        """Samples by `step: reason` or "kept": hash, id, beginning of the text."""

    def enter(self, document: Document) -> None:
        """Count an incoming document."""
        self.n_in += 1
        self.chars_in += len(document.text) or len(document.content)

    def enter_broken(self, record: Broken) -> None:
        """Count a record that could not be read."""
        self.n_in += 1
        self._drop(READ, record.reason, record.id, record.detail, 0)

    def drop(self, document: Document, step: str, reason: str, detail: str = "") -> None:
        """Count a dropped document."""
        self._drop(step, reason, document.id, detail or document.text, len(document.text))

    def keep(self, document: Document) -> None:
        """Count a document passed to the next phase."""
        n = len(document.text)
        self.n_out += 1
        self.chars_out += n
        self._length(KEPT, n)
        self.by["source"][document.source or "unknown"] += n
        self.by["license"][document.license or "unknown"] += n
        self.by["language"][str(document.metadata.get("language", "unknown"))] += n
        self._sample(KEPT, document.id, document.text)

    def add(self, other: Counts) -> None:
        """Add the counts of another task."""
        self.n_in += other.n_in
        self.n_out += other.n_out
        self.chars_in += other.chars_in
        self.chars_out += other.chars_out
        for step, reasons in other.dropped.items():
            self.dropped.setdefault(step, Counter()).update(reasons)
        for what, counts in other.lengths.items():
            self.lengths.setdefault(what, Counter()).update(counts)
        for name, counter in other.by.items():
            self.by[name].update(counter)
        for key, kept in other.samples.items():
            self.samples[key] = sorted([*self.samples.get(key, []), *kept])[:N_SAMPLES]

    def to_json(self) -> dict[str, Any]:
        """Return all counts as JSON values; equal counts give equal JSON."""
        return {
            "n_in": self.n_in,
            "n_out": self.n_out,
            "chars_in": self.chars_in,
            "chars_out": self.chars_out,
            "dropped": {step: dict(sorted(reasons.items())) for step, reasons in sorted(self.dropped.items())},
            "lengths": {
                what: {str(power): n for power, n in sorted(counts.items())}
                for what, counts in sorted(self.lengths.items())
            },
            "by": {name: dict(sorted(counter.items())) for name, counter in self.by.items()},
            "samples": dict(sorted(self.samples.items())),
        }

    def _drop(self, step: str, reason: str, id: str, text: str, n_chars: int) -> None:
        self.dropped.setdefault(step, Counter())[reason] += 1
        self._length(DROPPED, n_chars)
        self._sample(f"{step}: {reason}", id, text)

    def _length(self, what: str, n_chars: int) -> None:
        self.lengths.setdefault(what, Counter())[max(0, n_chars.bit_length() - 1)] += 1

    def _sample(self, key: str, id: str, text: str) -> None:
        kept = self.samples.setdefault(key, [])
        rank = hashlib.blake2b(id.encode("utf-8", "backslashreplace"), digest_size=8).hexdigest()
        if len(kept) < N_SAMPLES or rank < kept[-1][0]:
            kept.append([rank, id, text[:SAMPLE_CHARS]])
            kept.sort()
            del kept[N_SAMPLES:]
