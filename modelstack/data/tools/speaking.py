"""Wording of clauses as a request: with or without courtesy, in one or several sentences, tidy or sloppy.

Several wishes are joined in varied ways ("and", "then", "oh, and", a list): a model that only knows "A and B"
reads two sentences as one wish.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from modelstack.data.tools.clauses import Clause
from modelstack.data.tools.spoken import Scene

_BEFORE_ORDER = (
    "please ", "please ", "can you ", "can you ", "could you ", "could you ", "could you please ",
    "can you please ",
    "I need you to ", "I'd like you to ", "I want you to ", "help me ", "go ahead and ", "would you ",
)  # fmt: skip
_BEFORE_ANY = (
    "hey, ",
    "hi, ",
    "hello, ",
    "ok, ",
    "ok so ",
    "hi there, ",
    "um, ",
    "quick one: ",
    "good morning, ",
    "sorry, one thing: ",
)
_BEHIND = (
    " Thanks!",
    " Thank you.",
    " Thanks.",
    " Thanks in advance.",
    " Cheers.",
    " It's for later today.",
    " No rush.",
)
_CONTEXT = (
    "I'm a bit in a hurry.", "I hope you can help.", "I'm on my phone.", "It's been a long day.",
    "We're getting ready.",
    "I've been meaning to do this for weeks.", "My boss just asked me.", "I'm trying to get organised.",
    "There's a lot going on today.", "I promised my sister I'd take care of this.", "Finally some time for this.",
    "I'm putting a plan together.", "I'm working on a small project.", "Before I forget.",
)  # fmt: skip
_P_BARE, _P_SLOPPY, _P_CONTEXT, _P_BEHIND, _P_BEFORE_ANY = 0.45, 0.14, 0.06, 0.05, 0.07


def speak(clauses: Sequence[Clause], now: Scene) -> str:
    """Return the text of a request for one or several wishes."""
    text = _single(clauses[0], now) if len(clauses) == 1 else _several(clauses, now)
    if now.chance(_P_CONTEXT):
        text = f"{now.one(_CONTEXT)} {text}"
    if now.chance(_P_BEHIND):
        text += now.one(_BEHIND)
    return _sloppy(text, now) if now.chance(_P_SLOPPY) else text


def sentence(text: str, mark: str = ".") -> str:
    """Return text with an initial capital and a final mark, unless it has one."""
    capital = text[:1].upper() + text[1:]
    return capital if capital.endswith((".", "?", "!", '."', '?"', "…")) else capital + mark


def _single(clause: Clause, now: Scene) -> str:
    return sentence_of(_opened(clause, now), clause, now)


def sentence_of(text: str, clause: Clause, now: Scene) -> str:
    """Return the text of a clause with its endings, as one sentence or more."""
    apart: list[str] = []
    is_question = text.endswith("?")
    for ending in clause.endings:
        # Phrases such as "for a trip with two friends" are joined; a full sentence stands alone.
        if is_question or _is_thought(ending) or now.chance(0.15):
            apart.append(sentence(ending))
        else:
            text += (", " if now.chance(0.7) or ending.split()[0] not in _JOINING else " ") + ending
    mark = "?" if _asks(text) else "."
    return " ".join([sentence(text, mark), *apart])


_JOINING = ("with", "for", "in", "at", "from", "under", "since", "on", "by", "to", "until", "as", "not")
_THOUGHT = (
    "I",
    "I'm",
    "I've",
    "we",
    "we're",
    "it's",
    "it",
    "there",
    "they",
    "my",
    "our",
    "you",
    "just",
    "only",
    "the",
    "no",
    "one",
)


def _is_thought(ending: str) -> bool:
    return ending.split()[0].rstrip(",") in _THOUGHT


def _asks(text: str) -> bool:
    return re.match(r"(?:[\w ,']{0,20}[,:] )?(?:ok so )?(?:can|could|would) you\b", text.lower()) is not None


def _opened(clause: Clause, now: Scene) -> str:
    text = clause.text
    if clause.mood == "order" and not now.chance(_P_BARE):
        before = now.one(_BEFORE_ORDER)
        text = (before if not re.match(r"\w+ me\b", text) else before.replace("help me", "please")) + text
    elif clause.mood == "order" and now.chance(0.12) and not re.search(r'[:"]| that ', text):
        text += now.one((" please", ", please", " for me", ", would you", ", thanks"))
    if clause.mood != "fragment" and now.chance(_P_BEFORE_ANY):
        text = now.one(_BEFORE_ANY) + text
    return text


def _several(clauses: Sequence[Clause], now: Scene) -> str:
    plain = all(c.mood == "order" and not c.endings for c in clauses)
    if plain and now.chance(0.6):
        return _one_sentence(clauses, now)
    if plain and now.chance(0.2):
        items = [c.text for c in clauses]
        listed = "; ".join(items) if now.chance(0.5) else "\n".join(f"{i}. {t}" for i, t in enumerate(items, 1))
        intro = now.one(("I need a few things:", "Things to do:", "Please do the following:", "To do:"))
        return f"{intro}\n{listed}" if "\n" in listed else f"{intro} {listed}."
    texts = [sentence_of(_opened(clauses[0], now), clauses[0], now)]
    for clause in clauses[1:]:
        lead = _lead(clause, now)
        bare = clause.text if lead else clause.text
        texts.append(sentence_of(lead + bare, clause, now))
    return " ".join(texts)


def _lead(clause: Clause, now: Scene) -> str:
    if clause.mood == "order":
        leads = (
            "",
            "also, ",
            "then ",
            "and ",
            "after that, ",
            "oh, and ",
            "and please ",
            "next, ",
            "also ",
            "and can you ",
        )
    elif clause.mood == "question":
        leads = ("", "", "and ", "also, ", "oh, and ", "another thing: ")
    elif clause.mood == "statement":
        leads = ("", "", "also, ", "and ", "oh, and ", "besides, ")
    else:
        leads = ("", "and ", "also ")
    return now.one(leads)


def _one_sentence(clauses: Sequence[Clause], now: Scene) -> str:
    texts = [c.text for c in clauses]
    first = texts[0] if now.chance(_P_BARE) else now.one(_BEFORE_ORDER) + texts[0]
    join = now.one((" and ", " and ", ", and ", ", then ", " and then ", " and also ", ", after that "))
    if len(texts) == 2:
        text = first + join + texts[1]
    else:
        text = (
            first
            + ", "
            + ", ".join(texts[1:-1])
            + now.one((" and ", ", and ", ", then ", " and finally "))
            + texts[-1]
        )
    if now.chance(0.1):
        text = f"first {texts[0]}, then " + " and ".join(texts[1:])
    return sentence(text, "?" if _asks(text) else ".")


def _sloppy(text: str, now: Scene) -> str:
    """Return text as if typed in a hurry: lower-case start, no full stop, abbreviations."""
    if now.chance(0.8):
        text = text[:1].lower() + text[1:] if not text.startswith(("I ", "I'")) else text
    text = text.rstrip(".")
    if now.chance(0.3):
        text = text.replace("please", "pls").replace("Please", "pls")
    if now.chance(0.25):
        text = text.replace("?", "")
    return text
