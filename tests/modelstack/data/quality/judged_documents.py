"""The documents that datatrove's filters and ours are compared on; the same wherever they are made.

Of each domain of the shipped corpus those with the smallest hashes, 2,097 in all. The corpus is clean, so some are
damaged in each of the ways below too, that every rule has something to find.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import cycle, islice

from modelstack.data.shipped_corpus import SHIPPED_CORPUS
from modelstack.tokenizer.documents import find_files, read_documents

PER_DOMAIN = 250
PER_DAMAGE = 20
BAD_WORDS = ("dragon", "hell", "king's son", "C++", "grown up")
"""Harmless, and in some of the documents: a word, two phrases, one with marks that mean something in patterns."""


def judged_documents() -> list[tuple[str, str]]:
    """Return names and texts."""
    real: list[tuple[str, str]] = []
    for path in find_files([SHIPPED_CORPUS]):
        texts = sorted({document.text for document in read_documents(path)}, key=_hash)[:PER_DOMAIN]
        domain = path.name.split(".")[0]
        real += [(f"{domain} {i}", text) for i, text in enumerate(texts)]
    # Every 7th, so all domains take part, and each damage is done to others.
    victims = cycle([(name, text) for name, text in real if 1_000 < len(text) < 8_000][::7])
    damaged = [
        (f"{damage.__name__} {name}", damage(text))
        for damage in DAMAGES
        for name, text in islice(victims, PER_DAMAGE)
    ]
    edges = [
        ("nothing", ""),
        ("blank", " \n \n"),
        ("marks", "... !\n\n?"),
        ("long", _long([text for _, text in real[::-1]])),
    ]
    return real + damaged + edges


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _long(texts: list[str]) -> str:
    """Return more words than Gopher allows."""
    words: list[str] = []
    for text in texts:
        words += text.split()
        if len(words) > 110_000:
            return " ".join(words)
    return " ".join(words)


def shortened(text: str) -> str:
    return " ".join(text.split()[:40])


def lines_twice(text: str) -> str:
    return "\n".join(line for line in text.split("\n") for _ in range(2))


def paragraph_again(text: str) -> str:
    parts = [part for part in text.split("\n\n") if part.strip()]
    return "\n\n".join(parts + [max(parts, key=len)])


def short_lines_again(text: str) -> str:
    return "\n".join(f"{line}\n\nNext page" if i % 2 else line for i, line in enumerate(text.split("\n")))


def one_line_again(text: str) -> str:
    sentence = text.replace("\n", " ")[:100] + "."
    return f"{sentence}\n{text}\n{sentence}"


def bulleted(text: str) -> str:
    return "\n".join(f" {'•' if i % 2 else '-'} {line}" for i, line in enumerate(_lines_of(text, 12)))


def trailing_off(text: str) -> str:
    return "\n".join(line + ("..." if i % 2 else " …") for i, line in enumerate(_lines_of(text, 14)))


def hesitating(text: str) -> str:
    return " ".join(word + (" ..." if i % 5 == 0 else "") for i, word in enumerate(text.split()))


def tagged(text: str) -> str:
    return " ".join(("#" if i % 6 == 0 else "") + word for i, word in enumerate(text.split()))


def numbered(text: str) -> str:
    return " ".join(f"{word} {i * 37}" if i % 3 == 0 else word for i, word in enumerate(text.split()))


def without_marks(text: str) -> str:
    return "".join(character for character in text if character not in ".?!\"'")


def in_short_lines(text: str) -> str:
    return "\n".join(_lines_of(text, 4))


def in_ended_short_lines(text: str) -> str:
    return "\n".join(f"{line}." for line in _lines_of(text, 2))


def spread_out(text: str) -> str:
    return "\n\n\n\n".join(f"{line}." for line in _lines_of(text, 9))


def spelled_out(text: str) -> str:
    return " ".join(" ".join(word) if i % 2 else word for i, word in enumerate(text.split()))


def run_together(text: str) -> str:
    words = text.split()
    return " ".join("".join(words[i : i + 4]) for i in range(0, len(words), 4))


def without_stop_words(text: str) -> str:
    return " ".join(word for word in text.split() if not {word.lower().strip(",.;:!?")} & set(_STOP_WORDS))


def shouted(text: str) -> str:
    return text.upper()


def advertised(text: str) -> str:
    return _with_every(text, 9, "Click here:")


def advertised_more(text: str) -> str:
    return _with_every(text, 11, "Click here now!")


def advertised_most(text: str) -> str:
    return _with_every(text, 14, "Read all about it")


def ending_as_it_began(text: str) -> str:
    """Repeat a share of the text that depends on it: between the thresholds of runs of 5 and of 10 words."""
    share = 0.1 + (_hash(text)[0] % 8) / 100
    return text + "\n\n" + text[: int(len(text) * share)].replace("\n", " ")


def with_latin(text: str) -> str:
    return text + "\nLorem Ipsum dolor sit amet, consectetur."


def with_code(text: str) -> str:
    return text + "\nThe function { returns } nothing at all."


def with_a_site_around_it(text: str) -> str:
    return (
        "This site uses cookies, as you know.\nPlease enable JavaScript in your browser.\n"
        + text.replace(". ", " [3]. ").replace("\n", "[edit]\n")
        + "\nAll of it under our Terms of Use and more.\nSee also [1] [2].  [4]"
    )


def with_a_word_without_end(text: str) -> str:
    return text + f"\n{'data' * 300} is a long word, is it not.\nA word more."


def in_another_script(text: str) -> str:
    return text.replace(". ", "。").replace(", ", "、").replace(" the ", " 这 ")


def with_unusual_blanks(text: str) -> str:
    return text.replace(", ", ",\u00a0").replace(". ", ".  ").replace("\n", "\r\n").replace(" and ", "\tand\u2003")


DAMAGES: tuple[Callable[[str], str], ...] = (
    shortened,
    lines_twice,
    paragraph_again,
    short_lines_again,
    one_line_again,
    bulleted,
    trailing_off,
    hesitating,
    tagged,
    numbered,
    without_marks,
    in_short_lines,
    in_ended_short_lines,
    spread_out,
    spelled_out,
    run_together,
    without_stop_words,
    shouted,
    advertised,
    advertised_more,
    advertised_most,
    ending_as_it_began,
    ending_as_it_began,
    ending_as_it_began,
    with_latin,
    with_code,
    with_a_site_around_it,
    with_a_word_without_end,
    in_another_script,
    with_unusual_blanks,
)

_STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")


def _lines_of(text: str, n: int) -> list[str]:
    words = text.split()
    return [" ".join(words[i : i + n]) for i in range(0, len(words), n)]


def _with_every(text: str, n: int, phrase: str) -> str:
    return " ".join(f"{word} {phrase}" if i % n == 0 else word for i, word in enumerate(text.split()))
