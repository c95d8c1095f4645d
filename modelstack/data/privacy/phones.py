"""Detection of phone numbers: international, North American, and distinctive national forms.

A number is accepted by its shape or by a preceding word such as "Tel." or "call". Accepted shapes are:

- a plus and a calling code with as many digits as that country uses;
- the groups of the North American plan;
- a zero and the groups of several European and Asian countries.

Other digit runs are dates, prices, coordinates or order numbers and are kept. Calling codes and lengths: ITU-T
E.164 and its national numbering plans.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from modelstack.data.privacy.findings import Finding

_BLANKS = " \u00a0\u202f"
_HYPHENS = r"\-\u2010\u2011\u2013"
_SEPARATORS = rf"{_BLANKS}./(){_HYPHENS}"
_RUN = re.compile(
    rf"(?<![\w.+/#$€£¥{_HYPHENS}])\+?(?:\((?:\+ ?)?)?\d(?:[{_SEPARATORS}]{{0,2}}\d){{6,17}}",
    re.ASCII,
)
_MAX_DIGITS = 15
"""Context allowed after a number: no digit, no letter (except an extension's), no continuation of a number."""
_FIRST_GROUP = re.compile(r"\D*\d+", re.ASCII)
_AFTER = re.compile(rf"(?!\d)(?![A-Za-z_](?<![xeE]))(?![.,/{_HYPHENS}:]\d)", re.ASCII)
"""Context allowed after a number: no digit, no letter except an extension's, no continuation of a longer number.
"""

_NATIONAL_LENGTHS: dict[str, tuple[int, int]] = {
    # Calling code: minimum and maximum digits after it.
    "1": (10, 10), "7": (10, 10), "20": (8, 10), "27": (9, 9), "30": (10, 10), "31": (9, 9), "32": (8, 9),
    "33": (9, 9), "34": (9, 9), "36": (8, 9), "39": (8, 11), "40": (9, 9), "41": (9, 9), "43": (7, 12),
    "44": (9, 10), "45": (8, 8), "46": (7, 10), "47": (8, 8), "48": (9, 9), "49": (7, 12), "51": (8, 9),
    "52": (10, 10), "54": (10, 11), "55": (10, 11), "56": (9, 9), "57": (10, 10), "60": (8, 10), "61": (9, 9),
    "62": (8, 12), "63": (8, 10), "64": (8, 10), "65": (8, 8), "66": (8, 9), "81": (9, 10), "82": (8, 10),
    "84": (9, 10), "86": (10, 11), "90": (10, 10), "91": (10, 10), "92": (9, 10), "94": (9, 9), "98": (10, 10),
    "212": (9, 9), "213": (8, 9), "216": (8, 8), "234": (8, 10), "254": (9, 9), "351": (9, 9), "353": (7, 9),
    "354": (7, 7), "358": (6, 11), "370": (8, 8), "371": (8, 8), "372": (7, 8), "380": (9, 9), "385": (8, 9),
    "386": (8, 8), "420": (9, 9), "421": (9, 9), "852": (8, 8), "880": (10, 10), "886": (8, 9), "961": (7, 8),
    "962": (8, 9), "965": (8, 8), "966": (9, 9), "971": (8, 9), "972": (8, 9), "974": (8, 8), "977": (8, 10),
}  # fmt: skip
_OTHER_CODES = re.compile(r"2[1-689]\d|3[578]\d|42\d|50\d|59\d|53|58|93|95|6[789]\d|8[058]\d|9[67]\d|99[2-68]")
"""Calling codes of the other countries."""
_OTHER_LENGTHS = (6, 10)

_NORTH_AMERICAN = re.compile(
    rf"(?:1[{_BLANKS}{_HYPHENS}.])?(?P<open>\()?(?P<area>[2-9]\d\d)(?(open)\)[{_BLANKS}]?|(?P<sep>[{_BLANKS}{_HYPHENS}.]))"
    rf"(?P<exchange>[2-9]\d\d)(?P<last>[{_BLANKS}{_HYPHENS}.])\d{{4}}",
    re.ASCII,
)
_ZERO_FIRST = re.compile(
    rf"(?P<paris>0[1-9](?:(?P<p>[{_BLANKS}.{_HYPHENS}])\d\d)(?:(?P=p)\d\d){{3}})"
    rf"|\(0\d{{1,4}}\)[{_BLANKS}{_HYPHENS}]?\d{{3,4}}(?:[{_BLANKS}{_HYPHENS}]?\d{{3,4}}){{1,2}}"
    rf"|0[1-9]\d{{1,3}}[{_BLANKS}]\d{{3,4}}[{_BLANKS}]\d{{3,4}}"
    rf"|0[1-9]\d{{3}}[{_BLANKS}]\d{{6}}"
    rf"|0[1-9]\d{{0,2}}[{_HYPHENS}]\d{{2,4}}[{_HYPHENS}]\d{{4}}"
    rf"|0[1-9]\d{{1,3}}[{_BLANKS}/{_HYPHENS}]\d{{6,8}}"
    rf"|00[1-9]\d{{0,2}}[{_BLANKS}{_HYPHENS}](?:\d{{2,5}}[{_BLANKS}{_HYPHENS}]){{1,3}}\d{{2,8}}",
    re.ASCII,
)
_ZERO_FIRST_DIGITS = range(9, 16)
_MORE_AFTER = re.compile(rf"[{_BLANKS}]\d", re.ASCII)

_NOUN_BEFORE = re.compile(
    r"(?<![A-Za-z])(?:tel|tele?(?:ph|f)on[eo]?|t[ée]l[ée]phone|t[ée]l|tel[ée]fono|phones?|mobile|mobil|m[óo]vil|cell|cellphone"
    r"|handy|fax|telefax|whats ?app|hotline|switchboard"
    r"|ph|mob|(?:phone|telephone|tel|mobile|cell|fax|contact) ?(?:no|number|nr|#))"
    r"(?:[^\w\n]|_(?:number|no)|number|is|on|at|us){0,8}$",
    re.IGNORECASE,
)
_VERB_BEFORE = re.compile(
    r"\b(?:call|dial|phone|text|ring|sms)(?: (?:us|me|him|her|them|now|on|at|toll[- ]free)|[: ]){0,4}$", re.I
)
_N_BEFORE = 40
_PUNCTUATION = " \t\u00a0:;.,()[]{}<>|=+-/\"'\n"
_DATE = re.compile(
    r"(?:1[5-9]|20)\d\d ?[-\u2013/] ?(?:1[5-9]|20)\d\d(?!\d)"
    r"|(?:19|20)\d\d[-./ ]?[01]\d[-./ ]?[0-3]\d|[0-3]?\d[-./ ][01]?\d[-./ ](?:19|20)\d\d",
    re.ASCII,
)
_THOUSANDS = re.compile(r"\d{1,3}(?P<sep>[ .\u00a0\u202f])\d{3}(?:(?P=sep)\d{3})*(?!\d)", re.ASCII)
_FEW_DIGITS = re.compile(r"\d{1,9}", re.ASCII)
"""Short digit run in one piece; it may be a count ("we call 1234567 functions")."""
_N_DIGITS_NAMED = range(7, _MAX_DIGITS + 1)


def phones(text: str) -> Iterator[Finding]:
    """Yield phone numbers, in time linear in the text."""
    at = 0
    while run := _RUN.search(text, at):
        end = _phone_end(text, run)
        if end is None:
            group = _FIRST_GROUP.match(text, run.start())
            at = group.end() if group else run.end()
            continue
        start = run.start()
        if text[start] == "(" and ")" not in text[start:end]:
            start += 1
        yield Finding(start, end, "phone", re.sub(r"\D", "", text[start:end]))
        at = end


def _phone_end(text: str, run: re.Match[str]) -> int | None:
    """Return the end of the phone number that starts with a digit run, or None if it is not one."""
    start = run.start()
    if "+" in run[0]:
        return _international_end(text, run)
    for shape in (_NORTH_AMERICAN, _ZERO_FIRST):
        match = shape.match(text, start)
        if match and _AFTER.match(text, match.end()) and _is_sound(text, match):
            return match.end()
    return _named_end(text, run)


def _international_end(text: str, run: re.Match[str]) -> int | None:
    places = [place for place in range(run.start(), run.end()) if text[place].isdigit()]
    trunk = text.find("(0)", run.start(), run.end())
    if trunk > 0:  # +44 (0)20: the zero is dialled within the country only
        places.remove(trunk + 1)
    digits = "".join(text[place] for place in places)
    code = next((digits[:n] for n in (1, 2, 3) if digits[:n] in _NATIONAL_LENGTHS), None)
    if code is None:
        other = _OTHER_CODES.match(digits)
        if not other:
            return None
        code = other[0]
    low, high = _NATIONAL_LENGTHS.get(code, _OTHER_LENGTHS)
    for n in range(min(high + len(code), len(places), _MAX_DIGITS), low + len(code) - 1, -1):
        end = places[n - 1] + 1
        if _AFTER.match(text, end):
            return end
    return None


def _is_sound(text: str, match: re.Match[str]) -> bool:
    """Whether a number of a national shape is really a phone number rather than a coincidence of groups."""
    groups = match.groupdict()
    if area := groups.get("area"):
        if area.endswith("11") or groups["exchange"].endswith("11"):
            return False
        only_blanks = (groups["sep"] or "") in _BLANKS and groups["last"] in _BLANKS and not groups["open"]
        return not only_blanks or _is_named(text, match.start())
    # With further groups next to it, it is part of a longer number, such as the second four digits of a card.
    alone = not _MORE_AFTER.match(text, match.end()) and not _follows_digits(text, match.start())
    return sum(map(str.isdigit, match[0])) in _ZERO_FIRST_DIGITS and alone


def _follows_digits(text: str, start: int) -> bool:
    return start >= 2 and text[start - 1] in _BLANKS and text[start - 2].isdigit()


def _is_named(text: str, start: int) -> bool:
    return _name_before(text, start) is not None


def _name_before(text: str, start: int) -> Literal["noun", "verb"] | None:
    """Return the kind of word before a number that marks it as a phone number."""
    before = text[max(0, start - _N_BEFORE) : start].rstrip(_PUNCTUATION)
    if not before or before[-1].isdigit():  # fast path for most numbers in tables
        return None
    before = text[max(0, start - _N_BEFORE) : start]
    return "noun" if _NOUN_BEFORE.search(before) else "verb" if _VERB_BEFORE.search(before) else None


def _named_end(text: str, run: re.Match[str]) -> int | None:
    """Return the end of a digit run marked as a phone number by the word before it, or None."""
    name = _name_before(text, run.start())
    if name is None or _DATE.match(run[0]):
        return None
    if name == "verb" and (_THOUSANDS.match(run[0]) or _FEW_DIGITS.fullmatch(run[0])):
        return None
    places = [place for place in range(run.start(), run.end()) if text[place].isdigit()]
    for n in range(min(len(places), _N_DIGITS_NAMED.stop - 1), _N_DIGITS_NAMED.start - 1, -1):
        end = places[n - 1] + 1
        if _AFTER.match(text, end):
            return end
    return None
