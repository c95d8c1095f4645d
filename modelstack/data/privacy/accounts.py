"""Payment card and bank account numbers, verified by their check digits.

Cards: prefixes and lengths of the issuers (ISO/IEC 7812), check digit by Luhn; written without blanks or in the
groups printed on cards. IBAN: length by country in the SWIFT registry (release 99, 2024), check digits modulo 97
(ISO 7064).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from modelstack.data.privacy.findings import Finding

_CARD = re.compile(
    r"(?<![\w.+/-])(?<!\d )(?:"
    r"\d{4}(?P<sep>[ -])\d{4}(?P=sep)\d{4}(?P=sep)\d{4}(?:(?P=sep)\d{3})?"
    r"|3\d{3}(?P<sep3>[ -])\d{6}(?P=sep3)\d{4,5}"
    r"|\d{14,19}"
    r")(?!\w)(?![.-]\d)",
    re.ASCII,
)
_ISSUERS: tuple[tuple[int, int, frozenset[int]], ...] = tuple(
    # First and last prefix, and numbers of digits. Visa's old 13 digits are left out, because EAN-13 codes also
    # start with 4.
    (low, high, frozenset(lengths))
    for low, high, lengths in (
        (4, 4, (16, 19)),  # Visa
        (51, 55, (16,)),  # Mastercard
        (2221, 2720, (16,)),
        (34, 34, (15,)),  # American Express
        (37, 37, (15,)),
        (300, 305, (14,)),  # Diners Club
        (36, 36, (14,)),
        (38, 39, (14,)),
        (6011, 6011, (16, 19)),  # Discover
        (644, 659, (16, 19)),
        (3528, 3589, (16, 19)),  # JCB
        (62, 62, (16, 19)),  # UnionPay
        (5018, 5018, (16,)),  # Maestro
        (5020, 5020, (16,)),
        (5038, 5038, (16,)),
        (6304, 6304, (16,)),
        (6759, 6763, (16,)),
    )
)
IBAN_LENGTHS = {
    # Country: total number of characters.
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HN": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20,
    "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19,
    "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29,
    "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24,
    "SM": 27, "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
    "YE": 30,
}  # fmt: skip
_IBAN_START = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?= ?[A-Z0-9])", re.ASCII)
_IBAN_GROUP = 4


def cards(text: str) -> Iterator[Finding]:
    """Yield numbers of payment cards, in time linear in the text."""
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if is_card(digits):
            yield Finding(match.start(), match.end(), "card", digits)


def is_card(digits: str) -> bool:
    """Whether an issuer uses the prefix and length, and the check digit is valid."""
    return _has_issuer(digits) and passes_luhn(digits)


def passes_luhn(digits: str) -> bool:
    """Whether the last digit is the Luhn check digit: every second digit from the right is doubled."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[::-2])) + sum(doubled)) % 10 == 0


def _has_issuer(digits: str) -> bool:
    return any(
        low <= int(digits[: len(str(low))]) <= high and len(digits) in lengths for low, high, lengths in _ISSUERS
    )


def ibans(text: str) -> Iterator[Finding]:
    """Yield international bank account numbers, in time linear in the text."""
    for match in _IBAN_START.finditer(text):
        length = IBAN_LENGTHS.get(match[0][:2])
        end = _iban_end(text, match.start(), length) if length else None
        if end is None:
            continue
        number = text[match.start() : end].replace(" ", "")
        if passes_mod_97(number):
            yield Finding(match.start(), end, "iban", number)


def passes_mod_97(iban: str) -> bool:
    """Whether the two check digits after the country code match the rest."""
    return int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 == 1


def _iban_end(text: str, start: int, length: int) -> int | None:
    """Return the end of an IBAN of `length` characters, in one piece or in groups of four, or None."""
    grouped = text[start + _IBAN_GROUP : start + _IBAN_GROUP + 1] == " "
    end = start + length + ((length - 1) // _IBAN_GROUP if grouped else 0)
    piece = text[start:end]
    if not piece.isascii() or len(piece) < end - start or text[end : end + 1].isalnum():
        return None
    blanks_in_place = all(
        (piece[i] == " ") == (grouped and i % (_IBAN_GROUP + 1) == _IBAN_GROUP) for i in range(len(piece))
    )
    good = piece.replace(" ", "").isalnum() and piece == piece.upper()
    return end if blanks_in_place and good else None
