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
_FORMS: tuple[tuple[bytes, bytes, bytes], ...] = (
    # What every match holds is looked for first: a byte that few lines have (a tenth of a search's time), a piece.
    (b"K", b"AKIA", rb"\bAKIA[0-9A-Z]{16}\b"),
    (b"S", b"ASIA", rb"\bASIA[0-9A-Z]{16}\b"),
    (b"_", b"gh", rb"\bgh[pousr]_[A-Za-z0-9]{36,}"),
    (b"_", b"github_pat_", rb"\bgithub_pat_[A-Za-z0-9_]{22,}"),
    (b"-", b"glpat-", rb"\bglpat-[A-Za-z0-9_-]{20,}"),
    (b"-", b"sk-", rb"\bsk-[A-Za-z0-9_-]{20,}"),
    (b"_", b"_live_", rb"\b[sr]k_live_[A-Za-z0-9]{20,}"),
    (b"-", b"xox", rb"\bxox[abeprs]-[A-Za-z0-9-]{10,}"),
    (b"I", b"AIza", rb"\bAIza[0-9A-Za-z_-]{35}"),
    (b"_", b"hf_", rb"\bhf_[A-Za-z0-9]{30,}"),
    (b"_", b"npm_", rb"\bnpm_[A-Za-z0-9]{36}"),
    (b"-", b"pypi-", rb"\bpypi-[A-Za-z0-9_-]{50,}"),
    (b"J", b"eyJ", rb"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
    (b"K", b"PRIVATE KEY", _PEM),
    (b" ", b"earer ", rb"(?<=[Bb]earer )[A-Za-z0-9._~+/-]{16,}=*"),
    (b"/", b"://", rb"(?<=://)[^\s/:@\"\\]+:[^\s/@\"\\]+(?=@)"),
)
_COMPILED = tuple((byte, piece, re.compile(form, re.DOTALL)) for byte, piece, form in _FORMS)


def redact(text: bytes) -> bytes:
    """Return `text` with `[secret]` in the place of every secret of a known form."""
    for byte, piece, form in _COMPILED:
        if byte in text and piece in text:
            text = form.sub(REDACTED, text)
    return text
