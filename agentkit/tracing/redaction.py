"""Removes secrets from written data: keys and tokens that are recognisable by their form.

The forms are those that their issuers publish (AWS, Azure, GitHub, GitLab, OpenAI, Anthropic, Slack, Google,
Hugging Face, npm, PyPI, Stripe, SendGrid, DigitalOcean, Docker, Vault and others), private keys in PEM, JSON web
tokens, authorization headers, passwords in URLs, and values named password, secret key, access token or similar
in settings, connection strings, command lines, JSON and XML. A secret of no known form stays: a trace is private,
and this is a second line of defence. A redacted line of JSON is still JSON.

Each form runs in linear time on hostile text: it starts only where a run of its characters does, or has bounds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

REDACTED = b"[secret]"

_DASHES = (b"", b"_", b"-")
_NAMES = (
    rb"(?:[A-Za-z0-9_-]{0,40}(?:passw(?:or)?d|passphrase|secret[_-]?(?:access[_-]?)?key|client[_-]?secret|api[_-]?key"
    rb"|(?:access|auth|refresh|session|security)[_-]?token|(?:private|signing|encryption)[_-]?key|signing[_-]?secret)"
    rb"(?:_(?:dev|live|new|old|prod|production|staging|test|[0-9]{1,3}))?"
    rb"|AccountKey|SharedAccessKey|PWD)"
)
"""Names of keys whose values are secrets."""
_NAME_PIECES = (
    *(b"passw", b"passphrase", b"secret", b"signing", b"encryption", b"accountkey", b"sharedaccesskey", b"pwd"),
    *(b"apikey", b"api_key", b"api-key", b"privatekey", b"private_key", b"private-key"),
    *(
        kind + dash + b"token"
        for kind in (b"access", b"auth", b"refresh", b"session", b"security")
        for dash in _DASHES
    ),
)
"""Pieces of these names. "token" alone is in every line of a trace, which counts tokens."""
_QUOTE = rb"(?:\\{0,4}[\"'])"
_NAMED = rb"(?<![A-Za-z0-9_-])" + _NAMES + _QUOTE + rb"?\s{0,3}[=:]\s{0,3}"
"""Text before the value of a named secret, without the opening quote."""
_VALUE = rb"(?!\[secret\])[^\s\"'\\&;,<>{}()\[\]]{6,}+(?![(\[])"
"""Value of a named secret. Text that is called or indexed is code: `getpass(`, `os.environ[`."""

_LINE_END = rb"(?:\s|\\+[nr])"
"""A line end, which is escaped once in JSON, twice in JSON within JSON."""
_PEM = (
    rb"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----"
    # Headers of encrypted keys and of PGP: `DEK-Info: AES-128-CBC,0123`.
    rb"(?:" + _LINE_END + rb"{1,8}[A-Za-z][A-Za-z0-9-]{1,30}: [A-Za-z0-9 ,.()@/:+-]{0,120}){0,6}"
    rb"(?:[A-Za-z0-9+/=]|" + _LINE_END + rb")*"
    rb"(?:-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----)?"
)
_HAS_DIGIT = rb"(?=[A-Za-z_-]{0,60}[0-9])"
"""Requires a digit, so that words joined by dashes are kept."""
_FORMS: tuple[tuple[tuple[bytes, ...], bytes], ...] = (
    # Pieces in lower case, one of which is in every match, and the form.
    ((b"akia",), rb"\bAKIA[0-9A-Z]{16}\b"),
    ((b"asia",), rb"\bASIA[0-9A-Z]{16}\b"),
    ((b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_"), rb"\bgh[pousr]_[A-Za-z0-9]{36,}"),
    ((b"github_pat_",), rb"\bgithub_pat_[A-Za-z0-9_]{22,}"),
    (
        (b"pat-", b"ptt-", b"glrt-", b"gldt-", b"glcbt-", b"glsoat-", b"glagent-", b"glimt-", b"gloas-"),
        rb"\bgl(?:pat|ptt|rt|dt|cbt|soat|agent|imt|oas)-[A-Za-z0-9_-]{20,}",
    ),
    ((b"sk-",), rb"\bsk-" + _HAS_DIGIT + rb"[A-Za-z0-9_-]{20,}"),
    ((b"_live_", b"_test_"), rb"\b[sr]k_(?:live|test)_[A-Za-z0-9]{20,}"),
    ((b"xox",), rb"\bxox[abeprs]-[A-Za-z0-9-]{10,}"),
    ((b"hooks.slack",), rb"(?<=hooks\.slack\.com/services/)[A-Za-z0-9_/]{20,}"),
    ((b"aiza",), rb"\bAIza[0-9A-Za-z_-]{35}"),
    ((b"hf_",), rb"\bhf_[A-Za-z0-9]{30,}"),
    ((b"npm_",), rb"\bnpm_[A-Za-z0-9]{36}"),
    ((b"pypi-",), rb"\bpypi-[A-Za-z0-9_-]{50,}"),
    ((b"sg.",), rb"\bSG\.[A-Za-z0-9_-]{16,40}\.[A-Za-z0-9_-]{30,60}"),
    ((b"_v1_",), rb"\bdo[opr]_v1_[a-f0-9]{64}"),
    ((b"ya29.",), rb"\bya29\.[A-Za-z0-9_-]{20,}"),
    (
        (
            *(b"xapp-", b"gocspx-", b"whsec_", b"gsk_", b"hvs.", b"dckr_pat_", b"glsa_", b"shp", b"dapi"),
            *(b"lin_api_", b"atatt3", b"age-secret"),
        ),
        rb"\b(?:xapp-|GOCSPX-|whsec_|gsk_|hvs\.|dckr_pat_|glsa_|shp(?:at|ca|pa|ss)_|dapi|lin_api_|ATATT3"
        rb"|AGE-SECRET-KEY-1)" + _HAS_DIGIT + rb"[A-Za-z0-9_-]{20,}",
    ),
    # Signed tokens, then encrypted ones, whose second part is not JSON.
    ((b"eyj",), rb"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
    ((b"eyj",), rb"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{10,}(?:\.[A-Za-z0-9_-]{10,1000}){4}"),
    ((b"private key",), _PEM),
    ((b"earer ",), rb"(?<=[Bb]earer )[A-Za-z0-9._~+/-]{16,}=*"),
    # A group, if any, is the text before the secret and is kept.
    (
        (b"authorization",),
        rb"((?i:authorization)" + _QUOTE + rb"?\s{0,3}[=:]\s{0,3}" + _QUOTE + rb"?(?i:basic|bearer|token)\s{1,3})"
        rb"(?!\[secret\])[^\s\"'\\,;]{8,}",
    ),
    ((b"sig=",), rb"((?<=[?&])sig=)[A-Za-z0-9%/+=_-]{20,}"),
    (_NAME_PIECES, rb"(?i)(" + _NAMED + _QUOTE + rb")(?!\[secret\])[^\"'\\\r\n]{6,100}(?=\\{0,4}[\"'])"),
    (_NAME_PIECES, rb"(?i)(" + _NAMED + _QUOTE + rb"?)" + _VALUE),
    (_NAME_PIECES, rb"((?<![A-Za-z0-9_-])--?(?i:" + _NAMES + rb")\s{1,3}" + _QUOTE + rb"?)(?![A-Z_]+\b)" + _VALUE),
    (_NAME_PIECES, rb"(?i)(<" + _NAMES + rb">)(?!\[secret\])[^<\s\"\\]{6,100}(?=</)"),
    ((b"password ",), rb"(\blogin\s{1,3}\S{1,100}\s{1,3}password\s{1,3})(?!\[secret\])[^\s\"\\]{6,}"),
    ((b"://",), rb"(?<=://)[^\s/:@\"\\]*:[^\s/@\"\\]+(?=@)"),
    ((b"://",), rb"(?<=://)[A-Za-z0-9_-]{20,100}(?=@)"),
)
_FORMS_BY_PIECE = {
    piece: [index for index, (pieces, _) in enumerate(_FORMS) if piece in pieces]
    for each, _ in _FORMS
    for piece in each
}
"""Indices of the forms that contain a piece."""
_COMPILED = tuple(re.compile(form, re.DOTALL) for _, form in _FORMS)


@cache
def _may_hold_secret() -> Callable[[str], bool]:
    """Return a check whether a text contains any piece, in any case.

    pydantic's validator searches for all pieces at once, in Rust: 0.6 us for a line of a trace, where one search
    for each piece takes 20 us.
    """
    from pydantic_core import SchemaValidator

    pattern = "(?i)" + "|".join(re.escape(piece.decode()) for piece in _FORMS_BY_PIECE)
    return SchemaValidator({"type": "str", "pattern": pattern}).isinstance_python


def redact(text: bytes) -> bytes:
    """Return `text` with `[secret]` in place of every secret of a known form."""
    if not _may_hold_secret()(text.decode("utf-8", "replace")):
        return text
    lowered = text.lower()
    found = [forms for piece, forms in _FORMS_BY_PIECE.items() if piece in lowered]
    for index in sorted({index for forms in found for index in forms}):
        form = _COMPILED[index]
        text = form.sub(rb"\1" + REDACTED if form.groups else REDACTED, text)
    return text
