"""Licence statements of a file: an SPDX line, a licence text, or a notice that names a licence.

Notices are used only if no licence text is found: "Licensed under the Apache License, Version 2.0", the GPL notice
with or without "any later version". A notice that refers to another file ("a BSD-style license that can be found
in LICENSE") is ignored; the repository's licence applies.
"""

from __future__ import annotations

import re
from itertools import islice

from modelstack.data.code.expressions import Node, joined, parse
from modelstack.data.code.license_texts import licenses_in

N_HEAD = 20_000
"""Leading characters of a source file that are searched for a statement."""
_SPDX = re.compile(r"SPDX-License-Identifier:[ \t]*([^\n\r]{1,200})")
_MAX_SPDX = 20
_CLOSING = re.compile(r"\s*(?:\*/|-->|#\}|\*\)|--\]\]|\"\"\"|''').*$|[\s\"';,]+$")
_WORTH_READING = re.compile(
    r"licen[cs]|copyright|permission|redistribut|public domain|unencumbered|\bGPL|provided ['\"]as-is",
    re.IGNORECASE,
)
_WORD = re.compile(r"[a-z0-9]+")
_LATER = re.compile(r"any later version|or later")
_GNU = re.compile(
    r"gnu (?P<kind>affero |lesser |library )?(?:general )?public licen[cs]e(?P<rest>(?: [a-z0-9]+){0,24})"
)
_GNU_VERSION = re.compile(r"(?:version|v) ?(?P<major>[123])(?: (?P<minor>[01])\b)?|\bv(?P<short>[23])\b")
_GNU_NAMES = {"affero ": "AGPL", "lesser ": "LGPL", "library ": "LGPL", None: "GPL"}
_GNU_IDS = frozenset(
    ("GPL-1.0", "GPL-2.0", "GPL-3.0", "LGPL-2.0", "LGPL-2.1", "LGPL-3.0", "AGPL-3.0")
)  # fmt: skip
_NOTICES = tuple(
    (re.compile(pattern), license_id)
    for pattern, license_id in (
        (r"apache licen[cs]e (?:version )?2|apache 2 0 licen[cs]e|licen[cs]es? apache 2 0", "Apache-2.0"),
        (r"mozilla public licen[cs]e (?:version |v )?2 0", "MPL-2.0"),
        (r"mozilla public licen[cs]e (?:version |v )?1 1", "MPL-1.1"),
        (r"eclipse public licen[cs]e (?:version |v )?1 0", "EPL-1.0"),
        (r"eclipse public licen[cs]e (?:version |v )?2 0", "EPL-2.0"),
        (r"boost software licen[cs]e", "BSL-1.0"),
        (r"(?:under|in|by|of) (?:the )?(?:terms of )?(?:the )?(?:mit|expat) licen[cs]e|licen[cs]e mit\b", "MIT"),
        (r"(?:3|three) clause bsd|bsd (?:3|three) clause|(?:new|modified|revised) bsd licen[cs]e", "BSD-3-Clause"),
        (r"(?:2|two) clause bsd|bsd (?:2|two) clause|simplified bsd licen[cs]e", "BSD-2-Clause"),
        (r"under (?:the )?(?:terms of )?(?:the )?isc licen[cs]e", "ISC"),
        (r"under (?:the )?(?:terms of )?(?:the )?(?:zlib|zlib libpng) licen[cs]e", "Zlib"),
        (r"creative commons attribution noncommercial|cc by nc", "CC-BY-NC-4.0"),
        (r"creative commons attribution sharealike|cc by sa", "CC-BY-SA-4.0"),
        (r"cc0 1 0 universal|creative commons zero|creativecommons org publicdomain zero", "CC0-1.0"),
        (r"(?:placed|released|dedicated|is) (?:in|into|to) the public domain", "LicenseRef-Public-Domain"),
        (r"server side public licen[cs]e", "SSPL-1.0"),
        (r"business source licen[cs]e", "BUSL-1.1"),
    )
)


def license_stated_in(text: str) -> Node | None:
    """Return the licence that a text names or contains; None without a statement."""
    declared = [
        parse(_CLOSING.sub("", match[1]).strip()) for match in islice(_SPDX.finditer(text, 0, N_HEAD), _MAX_SPDX)
    ]
    if nodes := [node for node in declared if node]:
        return joined("AND", nodes)
    if not _WORTH_READING.search(text):
        return None
    found = [Node("", license_id) for license_id in licenses_in(text)] or _licenses_in_notices(text)
    return joined("AND", found)


def _licenses_in_notices(text: str) -> list[Node]:
    words = " ".join(_WORD.findall(text[:N_HEAD].lower()))
    found = dict.fromkeys(license_id for pattern, license_id in _NOTICES if pattern.search(words))
    for match in _GNU.finditer(words):
        if license_id := _gnu_id(match):
            found.setdefault(license_id)
    return [Node("", license_id) for license_id in found]


def _gnu_id(match: re.Match[str]) -> str | None:
    version = _GNU_VERSION.search(match["rest"])
    if version is None:
        return None
    major = version["major"] or version["short"]
    license_id = f"{_GNU_NAMES[match['kind']]}-{major}.{version['minor'] or '0'}"
    if license_id not in _GNU_IDS:
        return None
    return f"{license_id}-or-later" if _LATER.search(match["rest"]) else f"{license_id}-only"
