"""Step `allowed_sources`: keeps documents of listed sources under listed licences.

Collections name their works and licences in their own words, seldom with SPDX identifiers. Both are therefore
compared as plain strings. Code has SPDX identifiers in its files; the step `license` handles it. The recipe states
why a source is excluded, and each dropped document records that reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import BaseModel, Field

from modelstack.data.documents import Document, Step
from modelstack.errors import UserError

NOT_LISTED = "source_not_listed"
NOT_ALLOWED = "license_not_allowed"
LEFT_OUT = "left_out"


class AllowedSources(BaseModel, frozen=True, extra="forbid"):
    """Keeps documents whose source is listed and whose licence is listed for that source.

    Reasons: `left_out_NAME` for a name in one of the two exclusion lists (`metadata["left_out"]` holds the
    explanation), `source_not_listed`, `license_not_allowed`.
    """

    kind: Literal["allowed_sources"] = "allowed_sources"
    licenses: dict[str, tuple[str, ...]] = Field(min_length=1)
    """Accepted licences by source, as `fnmatch` patterns; `*` matches anything (`CC-BY-4.0 (text: *)`)."""
    left_out_sources: dict[str, str] = {}
    """Reasons for excluding a source, by source.

    A listed reason separates a decision from a source never reviewed.
    """
    left_out_urls: dict[str, str] = {}
    """Reasons for excluding documents, by substring of the URL (case-sensitive)."""

    def build(self) -> Step:
        """Return the step.

        Raises:
            UserError: A source is both allowed and excluded, or a URL substring is empty and would match every
                URL.
        """
        both = sorted(self.licenses.keys() & self.left_out_sources.keys())
        if both:
            raise UserError(
                f"allowed_sources: {both[0]!r} is in both `licenses` and `left_out_sources`; remove it from one"
            )
        if "" in self.left_out_urls:
            raise UserError(
                "allowed_sources: '' in `left_out_urls` matches every URL; give a non-empty part of a URL"
            )

        def step(document: Document) -> str | None:
            left_out = self._left_out(document)
            if left_out is not None:
                name, why = left_out
                document.metadata[LEFT_OUT] = why
                return f"{LEFT_OUT}_{name}"
            allowed = self.licenses.get(document.source)
            if allowed is None:
                return NOT_LISTED
            return None if any(fnmatchcase(document.license, pattern) for pattern in allowed) else NOT_ALLOWED

        return step

    def _left_out(self, document: Document) -> tuple[str, str] | None:
        if document.source in self.left_out_sources:
            return document.source, self.left_out_sources[document.source]
        return _first_part(document.url, self.left_out_urls)


def _first_part(url: str, parts: Mapping[str, str]) -> tuple[str, str] | None:
    return next(((part, why) for part, why in parts.items() if part in url), None)
