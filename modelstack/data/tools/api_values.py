"""Values for parameters of real schemas, guessed from name, type, enum and description, with their wording.

Nothing is invented without a rule: a required parameter without a rule excludes the tool. Examples in a
description ("e.g., Sudoku, Tetris") are the preferred values. If the description does not state a format, the
request uses the value's own form, so that every value can be derived from the model's input.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from modelstack.data.tools.apis import label_of
from modelstack.data.tools.kinds import make, words
from modelstack.data.tools.spoken import COPIED, Scene, Spoken, listed

_EXAMPLES = re.compile(
    r"(?:e\.g\.,?|for example,?|such as|like|example:|i\.e\.,?)\s*:?\s*([^).;]{2,80})", re.IGNORECASE
)
_GENERIC = re.compile(
    r"(?:the |a |an )?(?:full |zip |email |phone )?(?:name|id|city|country|state|region|address|zip|code|number|"
    r"date|time|type|project|user|url|path|street|title|location|coordinates|\w+ (?:name|id|code|number|address)|"
    r"(?-i:[A-Z_]{4,})|\S+/\S+)s?",
    re.IGNORECASE,
)
"""Words in examples that describe a value instead of being one."""
_FLAG_LEADS = (
    "include",
    "exclude",
    "show",
    "enable",
    "disable",
    "allow",
    "use",
    "with",
    "is",
    "only",
    "return",
    "has",
    "should",
)
_BY_TOKEN: tuple[tuple[str, str], ...] = (
    # tokens of the name -> kind; the first match is used
    ("email|mail", "email"),
    ("url|link|website|webpage|href|uri", "url"),
    ("phone|mobile|telephone", "phone"),
    ("filename|filepath|file", "path"),
    ("path", "path"),
    ("directory|folder|dir", "folder"),
    ("wallet|contract", "wallet"),
    ("city|town|location|destination|origin|place|departure|arrival|venue", "city"),
    ("country|nation", "country"),
    ("language|lang", "language"),
    ("currency", "currency_said"),
    ("symbol|ticker", "ticker"),
    ("branch", "branch"),
    ("repo|repository", "repo_name"),
    ("owner|username|author|assignee|login", "username"),
    ("artist|band|musician|singer", "artist"),
    ("song|track", "song"),
    ("book", "book"),
    ("movie|film", "film"),
    ("genre", "genre"),
    ("recipe|dish|meal", "dish"),
    ("ingredient|food", "food"),
    ("cuisine", "cuisine"),
    ("plant|crop|flower", "plant"),
    ("animal|species|breed|pet", "animal"),
    ("sport", "sport"),
    ("team|club", "team"),
    ("material|element|metal", "element"),
    ("medicine|drug|medication", "medicine"),
    ("disease|condition|symptom|disorder", "disease"),
    ("color|colour", "colour"),
    ("company|organization|organisation|vendor|brand|employer|supplier|manufacturer", "company"),
    ("hotel", "hotel"),
    ("restaurant", "restaurant"),
    ("department", "department"),
    ("skill|course", "skill"),
    ("job|occupation|profession|position", "job"),
    (
        "customer|patient|employee|student|client|contact|recipient|guest|person|teacher|player|member|user",
        "person",
    ),
    ("domain|hostname", "domain"),
    ("host|server|ip", "host"),
    ("database|db", "database"),
    ("table", "table"),
    ("column|field", "column"),
    ("bucket", "bucket"),
    ("region", "region"),
    ("service", "service"),
    ("project|workspace|namespace|collection|channel|app|application|environment", "project"),
    ("tag|label", "tag"),
    ("category|industry", "category"),
    ("role", "role"),
    ("timezone", "zone"),
    ("version", "version"),
    ("subject|headline", "subject"),
    ("title", "subject"),
    ("message|body|comment|caption|content|note|notes|feedback", "message"),
    ("text|sentence|description|summary|prompt|input", "sentence"),
    ("query|q|search|keyword|keywords|topic|term|question|theme", "topic"),
    ("address", "street"),
)
_TEXT_RULES = tuple((re.compile(rf"\b(?:{tokens})s?\b"), kind) for tokens, kind in _BY_TOKEN)
_CHAIN = re.compile(r"wallet|contract|token|validator|account|function|0x|chain|ethereum|nft|crypto|bech32")
_DAY, _MOMENT = (
    re.compile(r"\b(date|day|deadline|birthday|since|until|start|end|from|to|before|after)\b"),
    re.compile(r"\btime\b"),
)
_NUMBER_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(rf"\b(?:{tokens})s?\b"), kind)
    for tokens, kind in (
        ("limit|max|count|size|top|num|quantity|results|n|k|amount of", "whole 2 50"),
        ("page|offset|skip", "whole 2 9"),
        ("year", "calendar_year 1985 2025"),
        ("month", "whole 1 12"),
        ("age", "whole 18 80"),
        ("price|amount|cost|budget|salary|balance|income|value|fee", "money 10 5000"),
        ("rate|ratio|probability|percentage|percent|frequency", "decimal 0 10 2"),
        ("latitude|lat", "decimal 10 60 3"),
        ("longitude|lon|lng", "decimal 10 120 3"),
        ("id|number", "number_id"),
        ("port", "whole 3000 9000"),
        ("score|rating|level|priority", "whole 1 10"),
        ("day|hour|minute|second|duration|timeout|length|time", "whole 2 90"),
    )
)


def value_of(name: str, schema: Mapping[str, Any], now: Scene) -> Spoken | None:
    """Return a value for a parameter with its wording, or None if no rule matches."""
    label = label_of(name)
    about = str(schema.get("description") or "")
    kind = schema.get("type")
    if schema.get("enum"):
        return _chosen(schema["enum"], now)
    if kind == "boolean":
        return _flag(label, now)
    if kind in ("integer", "number"):
        return _number(label, about, schema, now)
    if kind == "string":
        return _from_examples(about, now) or _text(label, about, now)
    if kind == "array":
        return _several(label, about, schema.get("items") or {}, now)
    return None


def _chosen(options: list[Any], now: Scene) -> Spoken | None:
    plain = [o for o in options if isinstance(o, (str, int)) and not isinstance(o, bool) and str(o).strip()]
    if not plain:
        return None
    value = now.one(plain)
    text = str(value)
    said = text.replace("_", " ").replace("-", " ").lower() if re.fullmatch(r"[A-Za-z_-]{3,}", text) else text
    return Spoken(value, said, COPIED if said == text else "enum_respelt")


def _flag(label: str, now: Scene) -> Spoken:
    """Return a flag with a phrase that names it, for the end of the request."""
    value = now.chance(0.7)
    first, _, rest = label.partition(" ")
    if first in _FLAG_LEADS and rest:
        verb = {"is": "", "has": "with ", "with": "with ", "only": "only ", "should": ""}.get(first, f"{first} ")
        negative = {"is": "not ", "has": "without ", "with": "without ", "only": "not only "}.get(
            first, f"don't {first} "
        )
        said = (verb if value else negative) + rest
    else:
        said = now.one((f"{label}: {'yes' if value else 'no'}", f"{label} {'on' if value else 'off'}",
                        f"with {label} set to {'true' if value else 'false'}"))  # fmt: skip
    return Spoken(value, said, "flag_named")


def _number(label: str, about: str, schema: Mapping[str, Any], now: Scene) -> Spoken | None:
    is_whole = schema.get("type") == "integer"
    kind = next(
        (kind for rule, kind in _NUMBER_RULES if rule.search(label)),
        "whole 2 100" if is_whole else "decimal 1 90 1",
    )
    if is_whole and kind.split()[0] in ("money", "decimal"):
        kind = "whole 2 300"
    spoken = make(kind, now)
    low, high = schema.get("minimum"), schema.get("maximum")
    within = (low is None or spoken.value >= low) and (high is None or spoken.value <= high)
    is_stated = re.search(r"max(?:imum)?:? (?:is )?(\d+)|between (\d+) and (\d+)|\((\d+)-(\d+)\)", about)
    return spoken if within and not is_stated else None


def _from_examples(about: str, now: Scene) -> Spoken | None:
    found = _EXAMPLES.search(about)
    if not found:
        return None
    parts = [part.strip(" '\"`") for part in re.split(r",|\bor\b|/(?=[A-Z])", found.group(1))]
    parts = [part for part in parts if 2 <= len(part) <= 40 and not re.search(r"[{}<>\[\]…`'\"=]|etc|\.\.", part)]
    parts = [part for part in parts if not _GENERIC.fullmatch(part)]
    return Spoken(value := now.one(parts), value, COPIED) if len(parts) >= 2 else None


def _text(label: str, about: str, now: Scene) -> Spoken | None:
    if re.search(r"\b(id|uuid|sid|key|code|hash|token|identifier|number|slug)s?$", label):
        kind = now.one(("code", "code", "hex_id"))
        return None if re.search(r"\b(api|access|secret|auth|page|next|sync)\b", label) else make(kind, now)
    if _DAY.search(label) and re.search(r"date|YYYY|day", about + " " + label, re.IGNORECASE):
        if re.search(r"YYYY-?MM-?DD", about):
            return make("date", now)
        day = make("date", now)
        return Spoken(day.value, f"on {day.value}", COPIED, day.value)
    if _MOMENT.search(label):
        return make("time", now) if "HH:MM" in about else None
    if re.search(r"\baddress$", label) and _CHAIN.search(f"{label} {about}".lower()):
        return make("wallet", now)
    kind = next((kind for rule, kind in _TEXT_RULES if rule.search(label)), None)
    if kind is None and re.search(r"\bname$", label):
        kind = "project"
    return None if kind is None else _text_of_kind(kind, about, now)


def _text_of_kind(kind: str, about: str, now: Scene) -> Spoken:
    is_code = re.search(r"\bISO\b|two-letter|2-letter|\bcode\b", about) is not None
    if kind in ("country", "language") and is_code:
        return make(f"{kind}_code", now)
    if kind == "currency_said":
        return make("currency", now) if is_code else Spoken(code := now.one(words("currency"))[1], code)
    if kind == "repo_name":
        full = now.one(words("repo"))[0]
        text = full if "/" in about else full.split("/")[1]
        return Spoken(text, text)
    return make(kind, now)


def _several(label: str, about: str, items: Mapping[str, Any], now: Scene) -> Spoken | None:
    if items.get("type") in ("integer", "number"):
        return make("list whole 3 5" if items["type"] == "integer" else "list decimal 3 5", now)
    if items.get("type") not in ("string", None) or items.get("enum"):
        return None
    singular = re.sub(r"(?<=[a-z]{2})s$", "", re.sub(r"ies$", "y", label))
    made: list[Spoken] = []
    for _ in range(now.one((3, 3, 4))):
        one = _text(singular, about, now)
        if one is not None and one.value not in [m.value for m in made]:
            made.append(one)
    if len(made) < 2:
        return None
    return Spoken([m.value for m in made], listed([m.name for m in made]), "list")
