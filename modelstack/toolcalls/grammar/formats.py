r"""Regular expressions of the string formats that are enforced, in grammars and in the validation afterwards.

JSON Schema leaves `format` to the implementation, an annotation by default. A format in this table is enforced by
the same pattern in every engine. Any other format (`int32`, `binary`, `password`, ...) is an annotation and is
listed as such in the coverage. Sources of the patterns, which avoid `\d` because dialects differ in its meaning:
- RFC 3339 (dates), RFC 4122 (uuid), RFC 1123 (hostname);
- RFC 5321 without quoted parts (email);
- RFC 3986 reduced to a scheme and no spaces (uri);
- RFC 4291 reduced to three groups around `::` (ipv6).
"""

from __future__ import annotations

_DATE = "[0-9]{4}-(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])"
_DATE_30 = "[0-9]{4}-(0[469]|11)-(0[1-9]|[12][0-9]|30)"
_DATE_FEBRUARY = "[0-9]{4}-02-(0[1-9]|1[0-9]|2[0-8])"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?([zZ]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_LEAP_DAY = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29"
_ANY_DATE = f"({_DATE}|{_DATE_30}|{_DATE_FEBRUARY}|{_LEAP_DAY})"
_LABEL = "[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_H16 = "[0-9a-fA-F]{1,4}"

FORMATS: dict[str, str] = {
    "date": f"^{_ANY_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_ANY_DATE}[tT]{_TIME}$",
    "duration": "^P([0-9]+W|[0-9]+D(T[0-9]+[HMS])?|[0-9]+Y([0-9]+M)?([0-9]+D)?|[0-9]+M([0-9]+D)?|"
    "T([0-9]+H([0-9]+M)?([0-9]+S)?|[0-9]+M([0-9]+S)?|[0-9]+S))$",
    "email": rf"^[a-zA-Z0-9_+-]+(\.[a-zA-Z0-9_+-]+)*@{_LABEL}(\.{_LABEL})+$",
    "hostname": rf"^{_LABEL}(\.{_LABEL})*$",
    "ipv4": rf"^{_OCTET}(\.{_OCTET}){{3}}$",
    "ipv6": f"^(({_H16}:){{7}}{_H16}|({_H16}(:{_H16}){{0,2}})?::({_H16}(:{_H16}){{0,2}})?)$",
    "uuid": "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$",
    "uri": r"^[a-zA-Z][a-zA-Z0-9+.-]*:[!#-;=?-Z_a-z~\[\]]+$",
}
