"""Detection of keys, tokens and passwords, by published forms or by a telling name with a random value.

Forms: AWS, GitHub, GitLab, OpenAI, Anthropic, Slack, Google, Hugging Face, npm, PyPI, Stripe and others; PEM
private keys; JSON web tokens; bearer headers; passwords in URLs. A value after a name such as `api_key` counts if
its characters are as varied as random ones: detect-secrets' limits on Shannon entropy, lowered for short values.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator

from modelstack.data.privacy.findings import Finding

_FORMS: tuple[tuple[str, str], ...] = (
    # A literal part of every match, searched first for speed, and the form.
    ("AKIA", r"\bAKIA[0-9A-Z]{16}\b"),
    ("ASIA", r"\bASIA[0-9A-Z]{16}\b"),
    ("gh", r"\bgh[pousr]_[A-Za-z0-9]{36,}"),
    ("github_pat_", r"\bgithub_pat_[A-Za-z0-9_]{22,}"),
    ("glpat-", r"\bglpat-[A-Za-z0-9_-]{20,}"),
    ("sk-", r"(?<![A-Za-z0-9_-])sk-(?=[a-z_-]*[0-9A-Z])[A-Za-z0-9_-]{20,}"),
    ("_live_", r"\b[sr]k_live_[A-Za-z0-9]{20,}"),
    ("xox", r"\bxox[abeprs]-[A-Za-z0-9-]{10,}"),
    ("hooks.slack.com", r"(?<=hooks\.slack\.com/services/)T[A-Z0-9]{6,}/B[A-Z0-9]{6,}/[A-Za-z0-9]{16,}"),
    ("AIza", r"\bAIza[0-9A-Za-z_-]{35}"),
    ("ya29.", r"\bya29\.[0-9A-Za-z_-]{20,}"),
    ("hf_", r"\bhf_[A-Za-z0-9]{30,}"),
    ("npm_", r"\bnpm_[A-Za-z0-9]{36}"),
    ("pypi-", r"\bpypi-[A-Za-z0-9_-]{50,}"),
    ("SG.", r"\bSG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}"),
    ("dop_v1_", r"\bdop_v1_[a-f0-9]{64}"),
    ("dckr_pat_", r"\bdckr_pat_[A-Za-z0-9_-]{20,}"),
    ("shp", r"\bshp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}"),
    ("glsa_", r"\bglsa_[A-Za-z0-9]{32}_[A-Fa-f0-9]{8}"),
    ("AGE-SECRET-KEY-1", r"\bAGE-SECRET-KEY-1[0-9A-Z]{58}"),
    ("AccountKey=", r"(?<=AccountKey=)[A-Za-z0-9+/]{40,}={0,2}"),
    (":AA", r"(?<![\w])\d{8,10}:AA[A-Za-z0-9_-]{33}(?![\w-])"),  # Telegram
    ("eyJ", r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
    ("earer ", r"(?<=[Bb]earer )(?=[a-z._~+/-]*[0-9A-Z])[A-Za-z0-9._~+/-]{16,}=*"),
    ("://", r"(?<=://)[^\s/:@\"'\\<>{}$]{1,64}:[^\s/@\"'\\<>{}$]{1,256}(?=@)"),
)
_DOCUMENTATION_VALUES = frozenset(
    ("pass", "password", "passwd", "passwort", "pwd", "pw", "secret", "redacted", "***", "xxx", "repo")
)
_COMPILED = tuple((piece, re.compile(form, re.ASCII)) for piece, form in _FORMS)

_PEM_BEGIN = re.compile(r"-----BEGIN [A-Z ]{0,24}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END = re.compile(r"-----END [A-Z ]{0,24}PRIVATE KEY(?: BLOCK)?-----")
_PEM_BODY = re.compile(r"(?:[A-Za-z0-9+/=\s]|\\[nr])*")
_MAX_PEM = 20_000
"""Maximum characters of a PEM block; an RSA key of 16,384 bits has about 12,600."""

_NAMED = re.compile(
    r"(?:api|access|secret|auth|private|client|account|encryption|signing|master|consumer|storage|service)[_.-]?(?:key|token|secret)"
    r"|secret|token|passwd|password|passphrase|pwd|credentials?|apikey",
    re.IGNORECASE,
)
_NAME_REST = re.compile(
    r"(?:[_-]?(?:[Ii]d|ID|[Kk]ey|KEY|[Vv]alue|[Bb]ase(?:64)?|\d{1,2})){0,2}[\"'\]]{0,2}[\s]{0,2}(?:=>|:=|[=:]|,)?[\s]{0,2}[\"'`]?$"
)
_VALUE = re.compile(r"(?<=[=:\"'`, \t>])(?<![A-Za-z0-9+/_=.~-])[A-Za-z0-9+/_=.~-]{16,}(?<![.])")
_N_BEFORE = 64
_WORDS = re.compile(
    r"example|sample|placeholder|your|change.?me|xxxx|dummy|redacted|insert|replace|todo|test.?key|lorem|none|null",
    re.I,
)
_ATTRIBUTE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+", re.ASCII)
_HEX = frozenset("0123456789abcdefABCDEF")
_MIN_ENTROPY_HEX = 3.0
_MIN_ENTROPY = 3.5
"""Minimum entropy, bits per character. detect-secrets requires 4.5 for base64, which needs 23 characters or more.
"""
_MIN_SWITCHES = 0.18
"""Minimum share of adjacent pairs that switch between letters and digits or between cases.

Random base64 has two thirds, random hexadecimal half; identifiers have few.
"""
_MAX_VALUE = 512
_TWO_DIGITS = re.compile(r"\d\D*\d", re.ASCII)


def secrets(text: str) -> Iterator[Finding]:
    """Yield keys, tokens and passwords, in time linear in the text."""
    for piece, form in _COMPILED:
        if piece in text:
            for match in form.finditer(text):
                if not _is_documentation_value(match[0]):
                    yield Finding(match.start(), match.end(), "key", match[0])
    if "PRIVATE KEY" in text:
        yield from _private_keys(text)
    yield from _named_values(text)


def _is_documentation_value(found: str) -> bool:
    """Whether a value is a documentation placeholder for a password, as in `user:password@`."""
    return found.rpartition(":")[2].lower() in _DOCUMENTATION_VALUES


def _private_keys(text: str) -> Iterator[Finding]:
    ends = [match.end() for match in _PEM_END.finditer(text)]
    done = 0
    for begin in _PEM_BEGIN.finditer(text):
        if begin.start() < done:
            continue
        nearest = bisect_left(ends, begin.end())
        if nearest < len(ends) and ends[nearest] - begin.start() <= _MAX_PEM:
            done = ends[nearest]
        else:  # truncated block: everything that looks like its lines
            body = _PEM_BODY.match(text, begin.end(), begin.end() + _MAX_PEM)
            done = begin.end() + len(body[0].rstrip()) if body else begin.end()
        yield Finding(begin.start(), done, "key", text[begin.start() : done])


def _named_values(text: str) -> Iterator[Finding]:
    """Yield random-looking values that follow a name such as `api_key`."""
    for match in _VALUE.finditer(text):
        if not _TWO_DIGITS.search(match[0], 0, _MAX_VALUE):
            continue
        before = text[max(0, match.start() - _N_BEFORE) : match.start()]
        if any(_NAME_REST.match(before, name.end()) for name in _NAMED.finditer(before)) and looks_random(
            match[0]
        ):
            yield Finding(match.start(), match.end(), "key", match[0])


def looks_random(value: str) -> bool:
    """Whether the characters of a value are as varied as those of a key, unlike words or an identifier."""
    value = value[:_MAX_VALUE].rstrip("=")
    if not any(map(str.isalpha, value)) or not _TWO_DIGITS.search(value) or _WORDS.search(value):
        return False
    if _ATTRIBUTE.fullmatch(value):
        return False
    is_hex = _HEX.issuperset(value.replace("-", ""))
    if entropy(value) < (_MIN_ENTROPY_HEX if is_hex else _MIN_ENTROPY):
        return False
    classes = [0 if c.isdigit() else 1 if c.islower() else 2 if c.isupper() else 3 for c in value]
    switches = sum(
        one != other and 3 not in (one, other) for one, other in zip(classes, classes[1:], strict=False)
    )
    return switches / (len(value) - 1) >= _MIN_SWITCHES


def entropy(value: str) -> float:
    """Return the Shannon entropy of the characters of a value, in bits per character."""
    counts = Counter(value).values()
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts)
