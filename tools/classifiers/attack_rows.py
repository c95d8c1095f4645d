"""Rows for the injection classifier (instructions inside data) and the jailbreak classifier (unlocking a model).

Public attacks are BIPIA's training attacks and contexts, jailbreak prompts collected in the wild, and GPTFuzzer's
templates; the rest is made by rule from `attacks.toml`. Held out of the fit, for the evaluation: whole families,
five BIPIA categories, a fifth of all contexts, a fifth of the jailbreak prompts with all their near-duplicates.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from modelstack.files import read_toml
from tools.classifiers.data_files import read_source
from tools.classifiers.fitting import Example
from tools.classifiers.near_duplicates import near_duplicate_groups
from tools.classifiers.request_rows import ordinary_rows, passages

INJECTION, JAILBREAK = "injection", "jailbreak"
PLACEHOLDER = "[INSERT PROMPT HERE]"
HELD_OUT_BIPIA = frozenset(
    {"text/Malware Distribution", "text/Persuasion", "text/Misspelling Intentionally", "code/Cookie Theft",
     "code/Memory Scanning"}
)  # fmt: skip
N_INSERTED = 3600
N_INSERTED_HELD_OUT = 700
N_PARTS = 5
"""Parts of families and contexts, one for each fold; a part is never split. A context that is clean in one fold
and carries attacks in the others would be judged by weights that took it for an attack. Thresholds measured in
that way were five times as strict as intended."""
MAX_CONTEXT_CHARACTERS = 900
MAX_FITTED_CONTEXT_CHARACTERS = 300
"""Length of a context around an attack in the fit. Context and attack share one window then; a window without the
attack must not be labelled as one with it. Held-out attacks get whole contexts, as an agent would read them."""


class AttackWords(BaseModel, frozen=True, extra="forbid"):
    """The content of `attacks.toml`."""

    families: Mapping[str, tuple[str, ...]]
    """Templates by family."""
    held_out_families: frozenset[str]
    payloads: tuple[str, ...]
    held_out_payloads: tuple[str, ...]
    trigger_negatives: tuple[str, ...]
    """Harmless sentences with the words of attacks."""
    personas: tuple[str, ...]
    """Harmless requests to play a role."""
    email_requests: tuple[str, ...]
    things: tuple[str, ...]
    places: tuple[str, ...]


WORDS = AttackWords.model_validate(read_toml(Path(__file__).with_name("attacks.toml"), "word list"))


@dataclass(frozen=True, slots=True)
class Split:
    """Rows to fit on, and rows of families that the fit never sees."""

    fitted: list[Example]
    held_out: list[Example]


@dataclass(frozen=True, slots=True)
class Context:
    """A harmless text that an agent could read."""

    text: str
    kind: str
    held_out: bool
    part: int
    """Number below `N_PARTS`; attacks of a part are inserted into contexts of that part alone."""


@dataclass(frozen=True, slots=True)
class Attack:
    """An instruction to put into a context."""

    text: str
    family: str
    held_out: bool


def injection_rows(folder: Path, seed: int = 0) -> Split:
    """Return the rows for injection.

    Raises:
        UserError: a file is missing or broken.
    """
    draw = random.Random(seed)
    contexts = _contexts(folder, draw)
    attacks = _bipia_attacks(folder) + _made_attacks(draw)
    split = Split([], [])
    for held_out, n in ((False, N_INSERTED), (True, N_INSERTED_HELD_OUT)):
        rows = split.held_out if held_out else split.fitted
        own = [context for context in contexts if context.held_out == held_out]
        usable = [attack for attack in attacks if attack.held_out == held_out]
        families: dict[str, list[Attack]] = {}
        for attack in usable:
            families.setdefault(attack.family, []).append(attack)
        names = sorted(families)
        for i in range(n):
            # The family is chosen first, so families with many texts do not dominate.
            family = i % len(names)
            attack = draw.choice(families[names[family]])
            part = family % N_PARTS
            only_code = attack.family.startswith("bipia:code")
            usable_contexts = [c for c in own if c.part == part and (c.kind == "code" or not only_code)]
            context = draw.choice(usable_contexts).text
            text = insert(context if held_out else _excerpt(context, draw), attack.text, draw)
            rows.append(Example(text, frozenset({INJECTION}), f"inserted:{attack.family}", f"part:{part}"))
        for context in own:
            rows.append(
                Example(
                    context.text,
                    frozenset(),
                    f"clean:{context.kind}",
                    f"part:{context.part}",
                    sets_thresholds=True,
                )
            )
    for i, text in enumerate(trigger_negatives(draw, 900)):
        split.fitted.append(Example(text, frozenset(), "triggers", f"triggers:{i % 60}"))
    for row in ordinary_rows(folder, seed)[::4]:
        split.fitted.append(Example(row.text, frozenset(), "ordinary", row.group, weight=0.5))
    return split


def jailbreak_rows(folder: Path, seed: int = 0) -> Split:
    """Return the rows for jailbreaks.

    Plain harmful requests are negatives here: a jailbreak is told by the text around the request.

    Raises:
        UserError: a file is missing or broken.
    """
    draw = random.Random(seed)
    templates = [str(r["text"]) for r in read_source(folder, "gptfuzzer")]
    wild = [str(r["text"]) for r in read_source(folder, "inthewild")]
    groups = near_duplicate_groups(templates + wild)
    harmful = [str(r["text"]) for r in read_source(folder, "advbench")]
    harmful += [str(r["text"]) for r in read_source(folder, "catqa")]
    ordinary = ordinary_rows(folder, seed)
    split = Split([], [])
    jailbreak = frozenset({JAILBREAK})
    for i, (text, group) in enumerate(zip(templates + wild, groups, strict=True)):
        held_out = _fifth(f"jailbreak:{group}")
        rows = split.held_out if held_out else split.fitted
        if i < len(templates):
            for _ in range(6):
                request = draw.choice(harmful) if draw.random() < 0.8 else draw.choice(ordinary).text
                rows.append(
                    Example(
                        text.replace(PLACEHOLDER, request),
                        jailbreak,
                        "gptfuzzer",
                        f"jailbreak:{group}",
                        weight=0.4,
                    )
                )
        else:
            rows.append(Example(text, jailbreak, "inthewild", f"jailbreak:{group}"))
    for i in range(400):
        kind = i % 4
        text = f"{draw.choice(harmful)} {_suffix(draw, kind)}"
        rows = split.held_out if kind == 3 else split.fitted
        rows.append(Example(text, jailbreak, "suffix", f"suffix:{kind}"))
    for text, group in zip(harmful, near_duplicate_groups(harmful), strict=True):
        split.fitted.append(Example(text, frozenset(), "plain_harmful", f"harmful:{group}", weight=0.5))
    for i, text in enumerate(trigger_negatives(draw, 700) + _personas(draw, 500)):
        split.fitted.append(Example(text, frozenset(), "triggers", f"triggers:{i % 60}"))
    for name in ("textbooks", "codedocs", "stories"):
        for i, text in enumerate(passages(folder, name, 400, draw, (300, 4000))):
            ask = draw.choice(
                ("Summarise this:\n\n", "Explain the text below.\n\n", "", "", "Translate into French: ")
            )
            row = Example(ask + text, frozenset(), f"long:{name}", f"long:{name}:{i % 40}", sets_thresholds=True)
            (split.held_out if i % 5 == 4 else split.fitted).append(row)
    for row in ordinary:
        if not _fifth(row.group):
            split.fitted.append(row)
        elif row.sets_thresholds:
            split.held_out.append(row)
    return split


def _excerpt(context: str, draw: random.Random) -> str:
    start = draw.randrange(max(1, len(context) - MAX_FITTED_CONTEXT_CHARACTERS))
    return context[start : start + MAX_FITTED_CONTEXT_CHARACTERS]


def insert(context: str, attack: str, draw: random.Random) -> str:
    """Insert an attack at the start, in the middle (at a border of lines or sentences) or at the end."""
    place = draw.choice(("start", "middle", "end"))
    gap = draw.choice(("\n", "\n\n", " "))
    if place == "start":
        return attack + gap + context
    if place == "end":
        return context + gap + attack
    borders = [i + 1 for i, character in enumerate(context[:-1]) if character in ".\n"]
    at = draw.choice(borders) if borders else len(context) // 2
    return context[:at] + gap + attack + gap + context[at:].lstrip()


def trigger_negatives(draw: random.Random, n: int) -> list[str]:
    """Return harmless texts of one or two sentences with the words of attacks."""
    found: dict[str, None] = {}
    for _ in range(8 * n):
        parts = draw.sample(WORDS.trigger_negatives, draw.choice((1, 1, 2)))
        text = " ".join(parts).format(thing=draw.choice(WORDS.things), place=draw.choice(WORDS.places))
        found[text] = None
        if len(found) == n:
            break
    return list(found)


def _personas(draw: random.Random, n: int) -> list[str]:
    return [
        draw.choice(WORDS.personas).format(thing=draw.choice(WORDS.things), place=draw.choice(WORDS.places))
        + draw.choice(("", " Keep it short.", " My first question: how do I start?", " Reply in English."))
        for _ in range(n)
    ]


def _fifth(key: str) -> bool:
    return hashlib.sha256(key.encode()).digest()[0] % 5 == 0


def _bipia_attacks(folder: Path) -> list[Attack]:
    return [
        Attack(str(r["text"]), f"bipia:{r['category']}", r["category"] in HELD_OUT_BIPIA)
        for r in read_source(folder, "bipia_attacks")
    ]


def _made_attacks(draw: random.Random) -> list[Attack]:
    attacks: list[Attack] = []
    for family, templates in WORDS.families.items():
        held_out = family in WORDS.held_out_families
        for template in templates:
            for payload in WORDS.held_out_payloads if held_out else WORDS.payloads:
                text = template.format(p=payload, P=payload[:1].upper() + payload[1:])
                attacks.append(Attack(text, f"made:{family}", held_out))
    draw.shuffle(attacks)
    return attacks


def _contexts(folder: Path, draw: random.Random) -> list[Context]:
    found = [
        (str(r["context"]), kind) for kind in ("email", "table") for r in read_source(folder, f"bipia_{kind}")
    ]
    for record in read_source(folder, "bipia_code"):
        found.append(("\n".join(record["code"]), "code"))
        found.append(("\n".join(record["context"]) + "\n" + "\n".join(record["error"]), "code"))
    for name, n in (("textbooks", 500), ("codedocs", 500), ("howto", 400), ("stories", 250), ("code", 200)):
        kind = "code" if name == "code" else "document"
        found += [(text, kind) for text in passages(folder, name, n, draw, (200, MAX_CONTEXT_CHARACTERS))]
    found += [(text, "email") for text in _emails(draw, 300)]
    found += [(_tool_result(draw), "tool") for _ in range(300)]
    contexts = dict.fromkeys((text[:MAX_CONTEXT_CHARACTERS].strip(), kind) for text, kind in found if text.strip())
    return [
        Context(text, kind, _fifth(text), hashlib.sha256(text.encode()).digest()[1] % N_PARTS)
        for text, kind in contexts
    ]


def _emails(draw: random.Random, n: int) -> list[str]:
    """Return emails with requests in them: requests between people are no attack."""

    def fill(text: str) -> str:
        return text.format(thing=draw.choice(WORDS.things), place=draw.choice(WORDS.places))

    found: list[str] = []
    for _ in range(n):
        body = " ".join(fill(text).capitalize() for text in draw.sample(WORDS.email_requests, draw.randint(1, 3)))
        extra = fill(draw.choice(WORDS.trigger_negatives)) if draw.random() < 0.4 else ""
        to = draw.choice(("team", "anna", "lee", "support"))
        found.append(
            f"Subject: {fill('{thing} for {place}')}\nTo: {to}@example.com\n\n"
            f"Hi {draw.choice(('Anna', 'Lee', 'all', 'Mr Ito'))},\n\n{body} {extra}\n\nBest regards\n"
            f"{draw.choice(('Sam', 'Ines', 'Oluwaseun', 'Petra'))}"
        )
    return found


def _tool_result(draw: random.Random) -> str:
    rows: list[dict[str, Any]] = [
        {
            "id": draw.randrange(10_000),
            "name": draw.choice(WORDS.things),
            "city": draw.choice(WORDS.places),
            "price": round(draw.uniform(1, 900), 2),
            "note": draw.choice(
                ("", "in stock", "call before delivery", "do not bend", "see instructions", "system error")
            ),
        }
        for _ in range(draw.randint(1, 6))
    ]
    if draw.random() < 0.5:
        return json.dumps({"status": "ok", "results": rows}, indent=draw.choice((None, 2)))
    return "\n".join(f"{row['id']}\t{row['name']}\t{row['city']}\t{row['price']}\t{row['note']}" for row in rows)


_SYLLABLES = (
    "tion", "ment", "ize", "pre", "que", "zx", "ly", "ok", "str", "ing", "oth", "un", "ver",
    "bat", "qu", "est", "fer", "Mod", "Eng", "Str", "Ret", "Plan", "Form",
)  # fmt: skip


def _suffix(draw: random.Random, kind: int) -> str:
    """Return a suffix like those found by search over tokens: pieces of words and marks without sense.

    Kind 0 is mostly marks, 1 mostly pieces of words, 2 both with code, 3 (held out) capitals and brackets.
    """
    marks = ("!", '("', "]{", "\\", "==", "%%", "}}", ");", "|>", "~", "<<", '"@', "--", "://", "?]", "$$")
    pieces: list[str] = []
    for _ in range(draw.randint(12, 24)):
        syllables = "".join(draw.choice(_SYLLABLES) for _ in range(draw.randint(1, 3)))
        share_of_marks = (0.7, 0.25, 0.45, 0.5)[kind]
        if draw.random() < share_of_marks:
            pieces.append(draw.choice(marks))
        elif kind == 2 and draw.random() < 0.4:
            pieces.append(draw.choice(("printf", "\\u", "NULL", "<?=", "html", "void", "return;", "std::")))
        else:
            pieces.append(syllables.upper() if kind == 3 else syllables)
    return draw.choice((" ", "")).join(pieces)
