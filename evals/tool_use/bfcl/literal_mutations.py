"""Mutations of Java and JavaScript literals, and random literals composed of fragments.

Arguments in these languages are text that converters parse with many small rules. Most of the text here is
therefore slightly malformed: a missing brace, a suffix of another type, a wrong quote.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence

from evals.tool_use.bfcl.data import Language
from evals.tool_use.bfcl.mutations import Mutation, text_mutation

MAX_PIECES = 9
"""Maximum number of fragments of a random literal; the original takes exponential time on some long literals."""


def random_literals(spoken: Language, n: int, draw: random.Random) -> Iterator[tuple[str, str, str | None]]:
    """Yield (text, type, element type) of `n` random Java or JavaScript literals, most of them malformed."""
    pieces, types, lists = _PIECES[spoken], _TYPES[spoken], ("Array", "ArrayList", "array")
    frames = _FRAMES[spoken]
    for _ in range(n):
        text = "".join(draw.choice(pieces) for _ in range(draw.randint(0, MAX_PIECES)))
        declared = draw.choice(types)
        if draw.random() < 0.7:
            before, after = draw.choice(frames)
            text = before + text + after
        yield text, declared, draw.choice((None, *types)) if declared in lists else None


def _replaced(*pairs: tuple[str, str]) -> Mutation:
    """Return a mutation that replaces one of several substrings, if one occurs."""

    def replace(text: str, draw: random.Random) -> str:
        old, new = draw.choice([pair for pair in pairs if pair[0] in text] or [("", "")])
        return text.replace(old, new, draw.choice((1, -1))) if old else text

    return text_mutation(replace)


def _appended(*ends: str) -> Mutation:
    return text_mutation(lambda text, draw: text + draw.choice(ends))


def _framed(frames: Sequence[tuple[str, str]]) -> Callable[[str, random.Random], str]:
    def frame(text: str, draw: random.Random) -> str:
        before, after = draw.choice(frames)
        return before + text + after

    return frame


_FRAMES: Mapping[Language, Sequence[tuple[str, str]]] = {
    "java": (
        ("new ArrayList<>(Arrays.asList(", "))"), ("new ArrayList<String>(Arrays.asList(", "))"),
        ("new ArrayList<Integer>() {{ ", " }}"), ("new  ArrayList<>(){{", "}}"), ("new ArrayList<>()", ""),
        ("new int[]{", "}"), ("new String[] {", "}"), ("new Object[] { ", " }"),
        ("new HashMap<String, Object>() {{ ", " }}"), ("new HashMap<>() {", "}"), ("new HashMap<>(){{", ""),
        ("new HashMap<String, List<Integer>>() { { ", " } }"), ("Map.of(", ")"), ('"', '"'), ("'", "'"),
    ),
    "javascript": (
        ("[", "]"), ("[[", "]]"), ("[ [", "] ]"), ("new Array(", ")"), ("new Array([", "])"),
        ("new  Array( [", "] )"), ("{", "}"), ("{ ", " }"), ("{{", "}}"), ("{'a': ", "}"), ('"', '"'),
        ("'", "'"), ("`", "`"), ("[[", "]"),
    ),
}  # fmt: skip
_SCALARS = (
    "1",
    "-2",
    "3.5",
    "1e3",
    "0",
    "true",
    "false",
    "null",
    "x",
    "a b",
    '"a"',
    "'a'",
    '"',
    "'",
    " ",
    ",",
    ", ",
)
_PIECES: Mapping[Language, Sequence[str]] = {
    "java": (
        *_SCALARS, "1L", "2f", "3F", "4l", "-1.5e-3f", '"a, b"', "add(", "add(1);", 'add("x"); ', "add('c')",
        ")", "(", 'put("k", ', 'put("k", "v"); ', 'put("n", 1);', 'put("l", 5L);', "{", "}", "}}", "{{", "\n",
        ";", "٣", "\t",
    ),
    "javascript": (
        *_SCALARS, "1n", "-2n", "[", "]", "[1, 2]", "],[", "], [", "['a']", "a: ", "'k': ", '"k": 1', ":", ": ",
        "{", "}", "b: [1, 2]", ", c: 'd'", "\n", "undefined", "NaN", "Infinity", "1_000", "٣", "(", ")", "b:",
        " :",
    ),
}  # fmt: skip
_TYPES: Mapping[Language, Sequence[str]] = {
    "java": (
        "byte", "short", "integer", "float", "double", "long", "boolean", "char", "Array", "ArrayList", "Set",
        "HashMap", "Hashtable", "Queue", "Stack", "String", "any", "Array", "ArrayList", "HashMap",
    ),
    "javascript": (
        "String", "integer", "float", "Bigint", "Boolean", "dict", "array", "any", "dict", "array",
    ),
}  # fmt: skip

LITERAL_MUTATIONS: Mapping[Language, Mapping[str, Mutation]] = {
    "python": {},
    "java": {
        "literal: suffix": _appended("L", "l", "f", "F", "d", "n", ".0", "e2", "\n", ";"),
        "literal: suffix lost": text_mutation(lambda text, _: text[:-1]),
        "literal: first character lost": text_mutation(lambda text, _: text[1:]),
        "literal: case of words": _replaced(
            ("true", "True"), ("false", "FALSE"), ("null", "None"), ("new", "New")
        ),
        "literal: spaces": _replaced((",", " , "), (", ", ","), ("{", "{ \n "), ("(", " ("), (" ", "  ")),
        "literal: brackets": _replaced(("{{", "{"), ("}}", "}"), ("))", ")"), ("[]", ""), ("<", "<?,"), (">", "")),
        "literal: quotes": _replaced(('"', "'"), ('"', ""), ("'", '"'), ('"', '\\"')),
        "literal: another form": text_mutation(_framed(_FRAMES["java"])),
        "literal: split": _replaced((",", ",,"), (",", ";"), (", ", ""), (");", ")"), ("put", "add")),
    },
    "javascript": {
        "literal: suffix": _appended("n", ".0", "e2", "\n", ";", "L"),
        "literal: suffix lost": text_mutation(lambda text, _: text[:-1]),
        "literal: first character lost": text_mutation(lambda text, _: text[1:]),
        "literal: case of words": _replaced(("true", "True"), ("false", "FALSE"), ("null", "undefined")),
        "literal: spaces": _replaced((",", " , "), (", ", ","), ("{", "{ \n "), (":", " : "), ("[", "[ ")),
        "literal: brackets": _replaced(("{", "{{"), ("}", ""), ("[", "[["), ("]", ""), ("[", "("), ("]", "]]")),
        "literal: quotes": _replaced(('"', "'"), ('"', ""), ("'", '"'), ('"', "`")),
        "literal: another form": text_mutation(_framed(_FRAMES["javascript"])),
        "literal: split": _replaced((",", ",,"), (",", ";"), (", ", ""), (":", "="), (":", "::")),
    },
}
"""Additional mutations for answers in each language, by kind."""
