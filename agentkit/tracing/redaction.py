"""Secrets taken out of what is written down: keys and tokens that can be told by their form.

The forms are those that their issuers publish (AWS, GitHub, GitLab, OpenAI, Anthropic, Slack, Google, Hugging
Face, npm, PyPI, Stripe), private keys in PEM, JSON web tokens, bearer headers, and passwords in URLs. A secret of
no known form stays: a trace is private, and this is a second line. What is left of a line of JSON is JSON.
"""

from __future__ import annotations

import re

REDACTED = b"[secret]"

_PEM = (
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    rb"(?:[A-Za-z0-9+/=\s]|\\+[nr])*"  # line ends are escaped once in JSON, twice in JSON within JSON
    rb"(?:-----END [A-Z ]*PRIVATE KEY-----)?"
)
_FORMS: tuple[tuple[bytes, bytes], ...] = (
    # A piece that every match holds, as an expression too, and the form.
    (b"AKIA", rb"\bAKIA[0-9A-Z]{16}\b"),
    (b"ASIA", rb"\bASIA[0-9A-Z]{16}\b"),
    (rb"gh[pousr]_", rb"\bgh[pousr]_[A-Za-z0-9]{36,}"),
    (b"github_pat_", rb"\bgithub_pat_[A-Za-z0-9_]{22,}"),
    (b"glpat-", rb"\bglpat-[A-Za-z0-9_-]{20,}"),
    (b"sk-", rb"\bsk-[A-Za-z0-9_-]{20,}"),
    (b"_live_", rb"\b[sr]k_live_[A-Za-z0-9]{20,}"),
    (b"xox", rb"\bxox[abeprs]-[A-Za-z0-9-]{10,}"),
    (b"AIza", rb"\bAIza[0-9A-Za-z_-]{35}"),
    (b"hf_", rb"\bhf_[A-Za-z0-9]{30,}"),
    (b"npm_", rb"\bnpm_[A-Za-z0-9]{36}"),
    (b"pypi-", rb"\bpypi-[A-Za-z0-9_-]{50,}"),
    (b"eyJ", rb"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
    (b"PRIVATE KEY", _PEM),
    (b"earer ", rb"(?<=[Bb]earer )[A-Za-z0-9._~+/-]{16,}=*"),
    (b"://", rb"(?<=://)[^\s/:@\"\\]+:[^\s/@\"\\]+(?=@)"),
)
_COMPILED = tuple((re.compile(piece), re.compile(form, re.DOTALL)) for piece, form in _FORMS)
_ANY_PIECE = re.compile(b"|".join(piece for piece, _ in _FORMS))


def redact(text: bytes) -> bytes:
    """Return `text` with `[secret]` in the place of every secret of a known form."""
    # Few lines hold a piece, and one search for all of them takes a third of the time of one for each.
    if _ANY_PIECE.search(text):
        for piece, form in _COMPILED:
            if piece.search(text):
                text = form.sub(REDACTED, text)
    return text
