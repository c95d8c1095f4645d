"""Counts sentences like Punkt (Kiss and Strunk 2006), with two English word lists instead of a model.

IFEval's original uses nltk's Punkt tokenizer, whose parameters are downloaded at run time. The procedure here is
the published one: every `?` and `!` before white space ends a sentence. A period ends a sentence unless its word
is an abbreviation, an initial or a number; then the next word decides: it begins a sentence if it is capitalised
although it is normally written in lower case. Punkt's parameters learned from newspapers (abbreviations, words
seen in either case) are replaced by the two lists below. `evals.language.ifeval.parity` measures the agreement.
"""

from __future__ import annotations

import re
from itertools import pairwise

_ABBREVIATIONS = (
    "mr mrs ms dr prof gen col maj lt adm sen rep reps jr sr st messrs inc corp co ltd cos bros cie vs v jan "
    "feb aug sept sep oct nov dec tues wed fri yr ct mg ft ok ave p.m a.m u.s u.k u.n u.s.a u.s.s.r ph.d "
    "m.b.a d.c n.y n.j n.c s.c n.h n.m n.d l.a r.i s.a n.v w.va ala ariz calif colo conn fla ga ill kan ky "
    "mich minn nev okla ore pa tenn va vt wash wis c d e f g h k l m n p r s t w"
)
ABBREVIATIONS = frozenset(_ABBREVIATIONS.split(" "))
"""Common abbreviations among those that Punkt knows, without their last period, in lower case."""

_SMALL_WORDS = (
    "according although always among ask between both but call came despite does even finally he her here "
    "however i if in indeed instead into it many meanwhile moreover most nevertheless nonetheless nor nothing "
    "please put seem separately similarly since so some sometimes still such suddenly thank thanks the there "
    "therefore these they think this though through thus tomorrow took try under unless very went were when "
    "which while without yes yesterday yet your"
)
SMALL_WORDS = frozenset(_SMALL_WORDS.split(" "))
"""Words rarely capitalised within a sentence; if capitalised after an abbreviation, they begin a sentence."""

MARKS = ".?!"
_BREAKERS = r""")";}\]*:@'({\[‘’“”«»!?"""
BREAKABLE = frozenset(_BREAKERS.replace("\\", ""))
"""Besides white space, the characters after which a mark still ends a sentence: Punkt's non-word characters,
including curly quotes as in nltk 3.10."""
_WORD_END = rf"(?:\s|$|[{_BREAKERS}]|-{{2,}}|\.{{2,}})"
_TOKEN = re.compile(rf"""-{{2,}}|\.{{2,}}|(?=[^("`{{\[:;&#*@)}}\]\-,])\S+?(?=,?{_WORD_END})|\S""")
"""Runs of dashes and dots stay together; words keep their period and lose other punctuation."""
_WORD = re.compile(r"\S+")
_INITIAL = re.compile(r"[^\W\d]\.")
_NUMBER = re.compile(r"-?[.,]?\d[\d,.-]*\.?")
_CLOSING = re.compile(r"[\"')\]}‘’“”«»]+(?=\s|--|$)")


def count_sentences(text: str) -> int:
    """Return the number of sentences in a text; 0 for white space only."""
    starts = _sentence_starts(text)
    bounds = zip(starts, [*starts[1:], len(text)], strict=True)
    return sum(1 for start, end in bounds if text[start:end].strip())


def _sentence_starts(text: str) -> list[int]:
    """Return the positions at which sentences begin; closing quotes and brackets belong to the sentence before."""
    starts = [0]
    words: list[re.Match[str] | None] = [*_WORD.finditer(text), None]
    for word, following in pairwise(words):
        assert word is not None  # only the last item is None
        mark = _last_mark(word.group(), has_next=following is not None)
        if mark is None:
            continue
        end = word.start() + mark + 1
        if end < word.end():
            start, behind = end, text[end]
        elif following is not None:
            start, behind = following.start(), following.group()
        else:
            continue
        if _has_break(f"{word.group()[: mark + 1]} {behind}"):
            closing = _CLOSING.match(text, start)
            starts.append(closing.end() if closing else start)
    return starts


def _last_mark(word: str, *, has_next: bool) -> int | None:
    """Return the index of the last mark in a word that could end a sentence, or None."""
    for i in range(len(word) - 1, -1, -1):
        if word[i] in MARKS and (word[i + 1] in BREAKABLE if i + 1 < len(word) else has_next):
            return i
    return None


def _has_break(context: str) -> bool:
    """Return whether a sentence ends at one of the tokens, except at the last."""
    tokens = _TOKEN.findall(context)
    return any(_ends_sentence(token, following) for token, following in pairwise(tokens))


def _ends_sentence(token: str, following: str) -> bool:
    if token in ("?", "!", "."):
        return True
    if not token.endswith("."):
        return False
    bare = token[:-1].lower()
    is_initial = _INITIAL.fullmatch(token) is not None
    if token.endswith("..") or (_is_abbreviation(bare) and not is_initial):
        return begins_sentence(following) is True
    if is_initial:
        return _ends_with_initial(bare, following)
    if _NUMBER.fullmatch(token):
        return begins_sentence(following) is not False
    return True


def _ends_with_initial(letter: str, following: str) -> bool:
    verdict = begins_sentence(following)
    if letter in ABBREVIATIONS or verdict is False:
        return verdict is True and letter not in ABBREVIATIONS
    return verdict is True or not following[:1].isupper()


def _is_abbreviation(bare: str) -> bool:
    return bare in ABBREVIATIONS or bare.rpartition("-")[2] in ABBREVIATIONS


def begins_sentence(token: str) -> bool | None:
    """Return whether a token begins a sentence, judged by its case; None if the case does not decide."""
    if token in (";", ":", ",", ".", "!", "?"):
        return False
    if token[:1].islower():
        return False
    if token[:1].isupper() and token.rstrip(".").lower() in SMALL_WORDS:
        return True
    return None
