"""Licences of data and weights: which may ship, and why one may not.

A licence is text as written by the source, for example "Apache-2.0 (ToolACE) / CC-BY-4.0 (xLAM, Hammer)". Several
licences of mixed sources, separated by `/`, `,` or `;`, must each be allowed. Categories are those of the step
`license` of the data pipeline.
"""

from __future__ import annotations

import re
from typing import Literal

from modelstack.data.code.expressions import category_of, ids_of, is_allowed, known_id, parse
from modelstack.data.code.license_texts import licenses_in

MAY_SHIP = frozenset({"permissive", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "MPL-2.0"})
"""Categories and identifiers of licences of rows that weights may be trained on and passed on.

Share-alike texts are allowed because no text of theirs is in the weights' folder; NOTICE credits them.
"""
Verdict = Literal["may ship", "missing", "non-commercial", "no derivatives", "not on the list", "unknown"]
_NON_COMMERCIAL = re.compile(r"\bnc\b|non[\s-]?commercial|research[\s-]only|academic[\s-]use", re.IGNORECASE)
_NO_DERIVATIVES = re.compile(r"\bnd\b|no[\s-]?deriv", re.IGNORECASE)
_ASIDE = re.compile(r"\([^()]*\)")
_SEPARATOR = re.compile(r"\s*[/,;]\s*")


def verdict(text: str) -> Verdict:
    """Return whether a licence may ship, or the reason against it; text in brackets names no licence."""
    if not text.strip() or text.strip().lower() in {"none", "null", "n/a", "?"}:
        return "missing"
    if _NON_COMMERCIAL.search(text):
        return "non-commercial"
    if _NO_DERIVATIVES.search(text):
        return "no derivatives"
    for each in _SEPARATOR.split(_ASIDE.sub(" ", text).strip()):
        node = parse(each.strip())
        if node is None:
            return "unknown"
        if not is_allowed(node, MAY_SHIP):
            known = all(category_of(name) != "unknown" for name in ids_of(node))
            return "not on the list" if known else "unknown"
    return "may ship"


def is_text_of(text: str, licence: str) -> bool:
    """Whether a licence file holds the text of an SPDX licence, or states that it is under it."""
    wanted = known_id(licence) or licence
    return wanted in licenses_in(text)
