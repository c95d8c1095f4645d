"""The step that lets in what may be passed on: sources by name, each under its licences, less what is left out.

Collections name their works and licences as they please, seldom in SPDX's terms, so both are compared as they are
written; code, whose licences are SPDX's and stand in the files, has the step `license`. Why something is left out
is in the recipe, and with each document that it drops.
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
    """Keeps documents of the sources that are named, under a licence that is named for theirs.

    Reasons: `left_out_NAME` for what a list below names (`metadata["left_out"]` says why), `source_not_listed`,
    `license_not_allowed`.
    """

    kind: Literal["allowed_sources"] = "allowed_sources"
    licenses: dict[str, tuple[str, ...]] = Field(min_length=1)
    """By source: what its documents' licence may be; `*` stands for anything (`CC-BY-4.0 (text: *)`)."""
    left_out_sources: dict[str, str] = {}
    """By source, why it is not taken: tells one that was decided against from one that nobody has looked at."""
    left_out_urls: dict[str, str] = {}
    """By a part of the url, upper and lower case as there: why documents with it are not taken."""

    def build(self) -> Step:
        """Return the step.

        Raises:
            UserError: A source is both allowed and left out, or a part of a url is empty and so in every one.
        """
        both = sorted(self.licenses.keys() & self.left_out_sources.keys())
        if both:
            raise UserError(
                f"allowed_sources: {both[0]!r} is in `licenses` and in `left_out_sources`; name it once"
            )
        if "" in self.left_out_urls:
            raise UserError("allowed_sources: '' in `left_out_urls` is a part of every url; name a part of some")

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
