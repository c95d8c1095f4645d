"""Secrets taken out of what is written down: keys and tokens that can be told by their form.

The forms are those that their issuers publish (AWS, GitHub, GitLab, OpenAI, Anthropic, Slack, Google, Hugging
Face, npm, PyPI, Stripe, SendGrid, DigitalOcean), private keys in PEM, JSON web tokens, bearer headers, passwords
in URLs, and values of what is called a password or a secret key in settings, connection strings and JSON. A secret
of no known form stays: a trace is private, and this is a second line. What is left of a line of JSON is JSON.

Each form runs in linear time on hostile text: it begins where a run of its characters does, or has bounds.
"""

from __future__ import annotations

import re

REDACTED = b"[secret]"

_NAMES = (
    rb"(?:[A-Za-z0-9_-]{0,40}(?:passw(?:or)?d|passphrase|secret[_-]?(?:access[_-]?)?key|client[_-]?secret|api[_-]?key)"
    rb"|AccountKey|SharedAccessKey|PWD)"
)
"""Names of keys whose values are secrets."""
_QUOTE = rb"(?:\\{0,4}[\"'])"

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
    (rb"SG\.", rb"\bSG\.[A-Za-z0-9_-]{16,40}\.[A-Za-z0-9_-]{30,60}"),
    (b"do[opr]_v1_", rb"\bdo[opr]_v1_[a-f0-9]{64}"),
    (rb"ya29\.", rb"\bya29\.[A-Za-z0-9_-]{20,}"),
    (b"eyJ", rb"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
    (b"PRIVATE KEY", _PEM),
    (b"earer ", rb"(?<=[Bb]earer )[A-Za-z0-9._~+/-]{16,}=*"),
    # What stands before the secret is kept: the name, and the opening quote.
    (
        rb"(?i:passw|passphrase|secret|api[_-]?key|AccountKey|SharedAccessKey|PWD)",
        rb"(?i)((?<![A-Za-z0-9_-])" + _NAMES + _QUOTE + rb"?\s{0,3}[=:]\s{0,3}" + _QUOTE + rb"?)"
        rb"(?!\[secret\])[^\s\"'\\&;,<>{}()\[\]]{6,}",
    ),
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
                text = form.sub(rb"\1" + REDACTED if form.groups else REDACTED, text)
    return text
