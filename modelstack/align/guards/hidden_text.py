"""Decoders of texts hidden in a text, in encodings that a model reads and that word features miss.

Each decoder takes a text and returns the hidden texts; all are linear in the length. A hidden text counts only if
it reads as English (printable, with common words), so identifiers and hashes do not become views. The encodings
are those of the attack tools garak and PyRIT: base64, base32, hex, binary, percent and escape sequences, Caesar
shifts, Atbash, reversal, spaced letters, leet.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
import string
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

MAX_RUNS = 32
"""Largest number of encoded runs decoded in one text; a page of hashes must not cost more than a page of prose."""
MIN_DECODED_CHARACTERS = 6
MIN_COMMON_WORDS = 3

Decoder = Callable[[str], list[str]]

# Function words, and frequent words of requests and instructions.
_COMMON = frozenset(
    [
        "the", "and", "that", "have", "for", "not", "with", "you", "this", "but", "his", "from", "they", "say",
        "her", "she", "will", "one", "all", "would", "there", "their", "what", "out", "about", "who", "get",
        "which", "make", "can", "like", "time", "just", "him", "know", "take", "people", "into", "year", "your",
        "good", "some", "could", "them", "see", "other", "than", "then", "now", "look", "only", "come", "its",
        "over", "think", "also", "back", "after", "use", "two", "how", "our", "work", "first", "well", "way",
        "even", "new", "want", "because", "any", "these", "give", "day", "most", "are", "was", "were", "been",
        "has", "had", "does", "did", "should", "tell", "write", "explain", "create", "ignore", "previous",
        "instructions", "instruction", "system", "prompt", "follow", "reveal", "secret", "password", "send",
        "email", "file", "files", "delete", "please", "step", "guide", "list", "build", "help", "someone",
        "without", "answer", "question", "respond", "always", "never", "must", "rules", "message", "user",
        "assistant", "output", "print", "show", "steps", "describe", "information", "using", "person",
    ]  # fmt: skip
)  # fmt: skip

_WORD = re.compile(r"[a-z]{3,24}")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{12,}={0,2}")
_BASE64_LINES = re.compile(r"(?:[A-Za-z0-9+/]{40,100}\r?\n)+[A-Za-z0-9+/]{1,100}={0,2}")
_BASE32 = re.compile(r"[A-Z2-7]{16,}={0,6}")
_HEX = re.compile(r"(?:(?:\\x|0x)?[0-9A-Fa-f]{2}[ ,:]?){8,}")
_BINARY = re.compile(r"(?:[01]{8} ?){4,}")
_DECIMAL = re.compile(r"(?:[0-9]{2,3}[ ,]{1,2}){7,}[0-9]{2,3}")
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")
_ENTITY = re.compile(r"&#?[A-Za-z0-9]{2,8};")
_ESCAPE = re.compile(r"\\u([0-9A-Fa-f]{4})|\\x([0-9A-Fa-f]{2})")
# Single letters with the same kind of gap between them, at least five: "i g n o r e", "i-g-n-o-r-e".
_SPACED = re.compile(r"(?<![^\W_])[A-Za-z](?:[ .\-_*|/]{1,3}[A-Za-z](?![^\W_])){4,}")
_LEET_WORD = re.compile(r"(?<![A-Za-z0-9@$!|+€/=])[A-Za-z0-9@$!|+€]{3,20}(?![A-Za-z0-9@$!|+€/=])")
_LEET_PLACE = re.compile(r"[A-Za-z][0134578@$|+€]|[0134578@$!|+€][A-Za-z]")
_LEET = str.maketrans("0134578@$!|+€", "oieastbasilte")
_ATBASH = str.maketrans(
    string.ascii_lowercase + string.ascii_uppercase, string.ascii_lowercase[::-1] + string.ascii_uppercase[::-1]
)


def reads_as_text(text: str) -> bool:
    """Return whether decoded bytes look like written text."""
    if len(text) < MIN_DECODED_CHARACTERS:
        return False
    sample = text[:400]
    n_printable = sum(character.isprintable() or character in "\n\r\t" for character in sample)
    n_plain = sum(character.isalpha() or character == " " for character in sample)
    return n_printable >= 0.95 * len(sample) and n_plain >= 0.6 * len(sample)


def _decoded(raw: bytes) -> str | None:
    text = raw.decode("utf-8", "replace")
    return text if reads_as_text(text) else None


def _runs(pattern: re.Pattern[str], text: str) -> list[str]:
    found: list[str] = []
    for match in pattern.finditer(text):
        found.append(match.group())
        if len(found) == MAX_RUNS:
            break
    return found


def _decode_base64(text: str) -> list[str]:
    joined = [re.sub(r"\s", "", run) for run in _runs(_BASE64_LINES, text)]
    found: list[str] = []
    for run in joined + _runs(_BASE64, text):
        bare = run.rstrip("=").replace("-", "+").replace("_", "/")
        bare = bare[: len(bare) - (len(bare) % 4 == 1)]
        try:
            decoded = _decoded(base64.b64decode(bare + "=" * (-len(bare) % 4)))
        except (binascii.Error, ValueError):
            continue
        if decoded:
            found.append(decoded)
    return found


def _decode_base32(text: str) -> list[str]:
    found: list[str] = []
    for run in _runs(_BASE32, text):
        bare = run.rstrip("=")
        try:
            decoded = _decoded(base64.b32decode(bare + "=" * (-len(bare) % 8)))
        except (binascii.Error, ValueError):
            continue
        if decoded:
            found.append(decoded)
    return found


def _decode_hex(text: str) -> list[str]:
    digits = (re.sub(r"\\x|0x|[ ,:]", "", run) for run in _runs(_HEX, text))
    return [decoded for run in digits if (decoded := _decoded(bytes.fromhex(run)))]


def _decode_binary(text: str) -> list[str]:
    bits = (run.replace(" ", "") for run in _runs(_BINARY, text))
    return [
        decoded
        for run in bits
        if (decoded := _decoded(bytes(int(run[i : i + 8], 2) for i in range(0, len(run), 8))))
    ]


def _decode_decimal(text: str) -> list[str]:
    found: list[str] = []
    for run in _runs(_DECIMAL, text):
        codes = [int(number) for number in re.findall(r"[0-9]+", run)]
        if all(code < 256 for code in codes) and (decoded := _decoded(bytes(codes))):
            found.append(decoded)
    return found


def _decode_percent(text: str) -> list[str]:
    if len(_runs(_PERCENT, text)) < 2:
        return []
    return [unquote_to_bytes(text.replace("+", " ").encode("utf-8", "replace")).decode("utf-8", "replace")]


def _decode_escapes(text: str) -> list[str]:
    found: list[str] = []
    if len(_runs(_ENTITY, text)) >= 2:
        found.append(html.unescape(text))
    if len(_runs(_ESCAPE, text)) >= 4:
        found.append(_ESCAPE.sub(lambda match: chr(int(match.group(1) or match.group(2), 16)), text))
    return found


def _rot13(text: str) -> str:
    return codecs.encode(text, "rot13")


def _atbash(text: str) -> str:
    return text.translate(_ATBASH)


def _reverse(text: str) -> str:
    return text[::-1]


def _disguised_words(transform: Callable[[str], str]) -> frozenset[str]:
    # "saw" is common forwards and backwards, so it is no evidence of reversal.
    return frozenset(disguised for word in _COMMON if (disguised := transform(word)) not in _COMMON)


_ROT13_WORDS, _ATBASH_WORDS, _REVERSED_WORDS = map(_disguised_words, (_rot13, _atbash, _reverse))


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


def _shows(text: str, disguised: frozenset[str]) -> bool:
    """Return whether a text has enough disguised common words.

    The number needed grows with the common plain words: in a long plain text some disguised words occur by
    accident.
    """
    words = _words(text)
    n_found = len(words & disguised)
    return n_found >= MIN_COMMON_WORDS and n_found * 12 >= len(words & _COMMON)


def _decode_rot13(text: str) -> list[str]:
    return [_rot13(text)] if _shows(text, _ROT13_WORDS) else []


def _decode_atbash(text: str) -> list[str]:
    return [_atbash(text)] if _shows(text, _ATBASH_WORDS) else []


def _decode_reversed(text: str) -> list[str]:
    if not _shows(text, _REVERSED_WORDS):
        return []
    # Either the whole text is reversed, or each word.
    return [text[::-1], " ".join(word[::-1] for word in text.split())]


def _shift(text: str, by: int) -> str:
    lower, upper = string.ascii_lowercase, string.ascii_uppercase
    table = str.maketrans(lower + upper, lower[by:] + lower[:by] + upper[by:] + upper[:by])
    return text.translate(table)


def _decode_caesar(text: str) -> list[str]:
    """Return the text under the best shift other than 13; only a text without common words is tried."""
    sample = text[:400].lower()
    words = _words(sample)
    if len(words) < MIN_COMMON_WORDS or words & _COMMON:
        return []
    n_best, best = max((len(_words(_shift(sample, by)) & _COMMON), by) for by in range(1, 26) if by != 13)
    return [_shift(text, best)] if n_best >= max(MIN_COMMON_WORDS, len(words) // 5) else []


def _join_spaced(text: str) -> list[str]:
    def join(match: re.Match[str]) -> str:
        # Two or more gap characters separate words, one separates letters.
        return " ".join(re.sub(r"[^A-Za-z]", "", word) for word in re.split(r"[ .\-_*|/]{2,3}", match.group()))

    joined, n_runs = _SPACED.subn(join, text)
    return [joined] if n_runs else []


def _decode_leet(text: str) -> list[str]:
    if not _LEET_PLACE.search(text):
        return []
    n_changed = 0

    def spell(match: re.Match[str]) -> str:
        nonlocal n_changed
        word = match.group()
        n_letters = sum(character.isalpha() for character in word)
        # "2nd", "v1.0" and part numbers are not leet; "1gn0r3" is. A mark at the end is punctuation.
        if n_letters < 2 or n_letters * 2 < len(word) or word.rstrip("!$+").isalpha():
            return word
        n_changed += 1
        return word.translate(_LEET)

    spelled = _LEET_WORD.sub(spell, text)
    return [spelled] if n_changed else []


DECODERS: dict[str, Decoder] = {
    "base64": _decode_base64,
    "base32": _decode_base32,
    "hex": _decode_hex,
    "binary": _decode_binary,
    "decimal": _decode_decimal,
    "percent": _decode_percent,
    "escapes": _decode_escapes,
    "rot13": _decode_rot13,
    "atbash": _decode_atbash,
    "caesar": _decode_caesar,
    "reversed": _decode_reversed,
    "spaced": _join_spaced,
    "leet": _decode_leet,
}
"""Decoder by name of the encoding, in the order of use."""
