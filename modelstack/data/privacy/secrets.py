"""Keys, tokens and passwords, told by the forms that issuers publish, or by a name and a value without pattern.

Forms: AWS, GitHub, GitLab, OpenAI, Anthropic, Slack, Google, Hugging Face, npm, PyPI, Stripe and others;
private keys in PEM; JSON web tokens; bearer headers; passwords in URLs. A value after a name such as `api_key`
counts when its characters are as mixed as those of a random one: detect-secrets' limits on Shannon's entropy,
less for short values.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator

from modelstack.data.privacy.findings import Finding

_FORMS: tuple[tuple[str, str], ...] = (
    # A piece that every match holds, looked for first because that is fast, and the form.
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
_STAND_INS = frozenset(
    ("pass", "password", "passwd", "passwort", "pwd", "pw", "secret", "redacted", "***", "xxx", "repo")
)
_COMPILED = tuple((piece, re.compile(form, re.ASCII)) for piece, form in _FORMS)

_PEM_BEGIN = re.compile(r"-----BEGIN [A-Z ]{0,24}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END = re.compile(r"-----END [A-Z ]{0,24}PRIVATE KEY(?: BLOCK)?-----")
_PEM_BODY = re.compile(r"(?:[A-Za-z0-9+/=\s]|\\[nr])*")
_MAX_PEM = 20_000
"""Characters of a block; an RSA key of 16,384 bits has some 12,600."""

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
"""Bits a character. detect-secrets asks for 4.5 of base64, which no value of fewer than 23 characters reaches."""
_MIN_SWITCHES = 0.18
"""Of places between two characters, those where letters and digits, or small and large letters, change: a
random value in base64 has two thirds, in hexadecimal half; identifiers have the odd one."""
_MAX_VALUE = 512
_TWO_DIGITS = re.compile(r"\d\D*\d", re.ASCII)


def secrets(text: str) -> Iterator[Finding]:
    """Find keys, tokens and passwords, in time linear in the text."""
    for piece, form in _COMPILED:
        if piece in text:
            for match in form.finditer(text):
                if not _is_stand_in(match[0]):
                    yield Finding(match.start(), match.end(), "key", match[0])
    if "PRIVATE KEY" in text:
        yield from _private_keys(text)
    yield from _named_values(text)


def _is_stand_in(found: str) -> bool:
    """Whether it is what manuals write in the place of a password: `user:password@`."""
    return found.rpartition(":")[2].lower() in _STAND_INS


def _private_keys(text: str) -> Iterator[Finding]:
    ends = [match.end() for match in _PEM_END.finditer(text)]
    done = 0
    for begin in _PEM_BEGIN.finditer(text):
        if begin.start() < done:
            continue
        nearest = bisect_left(ends, begin.end())
        if nearest < len(ends) and ends[nearest] - begin.start() <= _MAX_PEM:
            done = ends[nearest]
        else:  # cut off: what looks like its lines
            body = _PEM_BODY.match(text, begin.end(), begin.end() + _MAX_PEM)
            done = begin.end() + len(body[0].rstrip()) if body else begin.end()
        yield Finding(begin.start(), done, "key", text[begin.start() : done])


def _named_values(text: str) -> Iterator[Finding]:
    """Find values without pattern after a name that says what they are."""
    for match in _VALUE.finditer(text):
        if not _TWO_DIGITS.search(match[0], 0, _MAX_VALUE):
            continue
        before = text[max(0, match.start() - _N_BEFORE) : match.start()]
        if any(_NAME_REST.match(before, name.end()) for name in _NAMED.finditer(before)) and looks_random(
            match[0]
        ):
            yield Finding(match.start(), match.end(), "key", match[0])


def looks_random(value: str) -> bool:
    """Whether the characters of a value are as mixed as those of a key, unlike words or an identifier."""
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
    """Return Shannon's entropy of the characters of a value, in bits a character."""
    counts = Counter(value).values()
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts)
