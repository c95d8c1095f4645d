"""A crawl made of texts of the package, with planted faults: what a pipeline of rules must find.

Each page is HTML with a menu, a cookie banner and a footer around a text. Some are copies, near copies, lists of
words, menus without text, wrongly decoded, in another language, or hold a question of the evaluation; some hold
invented addresses. The kind of a page is known, so the report can say what the rules found of what was planted. A
real crawl can be given instead (`data.crawl`).

The file is WARC 1.1 (ISO 28500:2017), a gzip member a record, as crawls are published.
"""

from __future__ import annotations

import gzip
import html
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelstack.files import replacing

SHARES = {
    "article": 0.60,
    "copy": 0.08,
    "near copy": 0.07,
    "list of words": 0.05,
    "menu": 0.05,
    "wrongly decoded": 0.04,
    "another language": 0.04,
    "evaluation": 0.03,
    "private": 0.04,
}
"""Shares of the kinds; the rest of a rounded number are articles."""
UNWANTED = ("copy", "near copy", "list of words", "menu", "another language", "evaluation")
"""Kinds of which no page should pass; wrongly decoded and private ones pass after a repair."""
LEAST_CHARACTERS, MOST_CHARACTERS = 900, 4_000
_GERMAN = (
    "Am Morgen ging die Frau mit dem Korb zum Markt und kaufte Brot, Käse und ein paar Äpfel für ihre Kinder.",
    "Der alte Mann saß auf der Bank vor dem Haus und erzählte den Nachbarn von seiner langen Reise.",
    "Wenn es im Winter viel schneit, fahren die Züge langsamer und die Leute kommen zu spät zur Arbeit.",
    "Im Garten stehen drei Bäume, unter denen die Katze an warmen Tagen im Schatten schläft.",
    "Die Lehrerin erklärte den Kindern, warum das Wasser im Fluss immer nach unten fließt.",
    "Nach dem Essen räumten alle den Tisch ab, wuschen die Teller und gingen noch einmal spazieren.",
)
_WORDS = [
    "cheap",
    "best",
    "buy",
    "now",
    "deal",
    "price",
    "offer",
    "online",
    "free",
    "shipping",
    "discount",
    "sale",
    "top",
    "quality",
    "store",
    "order",
]
_MENU = [
    "Home",
    "News",
    "Sport",
    "Weather",
    "Shop",
    "Contact",
    "About",
    "Login",
    "Help",
    "Privacy",
    "Terms",
    "Map",
]
_NAMES = ("anna.berg", "john.miller", "s.okafor", "lee.wong")


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the crawl."""

    url: str
    kind: str
    body: str


def made_pages(texts: Sequence[str], questions: Sequence[str], n: int, seed: int) -> list[Page]:
    """Return pages in a mixed order, the same for the same seed.

    Args:
        texts: Texts of articles; each is used for one article, and then again from the start.
        questions: Texts of the evaluation.
        n: Number of pages.
        seed: Seed of the choice and the order.
    """
    draw = random.Random(f"pages {seed}")
    fitting = [text for text in texts if len(text) >= LEAST_CHARACTERS] or list(texts)
    counts = {kind: int(share * n) for kind, share in SHARES.items()}
    counts["article"] += n - sum(counts.values())
    articles = [_cut(fitting[i % len(fitting)]) for i in range(counts["article"])]
    pages: list[Page] = []
    for kind, count in counts.items():
        for i in range(count):
            text = _text_of(kind, i, articles, fitting, questions, draw)
            url = f"https://site-{draw.randrange(40):02}.example/{kind.replace(' ', '-')}/{i:04}.html"
            pages.append(Page(url, kind, text))
    # A copy comes after its article, as the second visit of a crawl does, so that the first one is kept.
    originals = [page for page in pages if page.kind not in ("copy", "near copy")]
    copies = [page for page in pages if page.kind in ("copy", "near copy")]
    draw.shuffle(originals)
    draw.shuffle(copies)
    return [*originals, *copies]


def write_warc(path: Path, pages: Sequence[Page]) -> None:
    """Write pages as a WARC file, the same bytes for the same pages."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        for number, page in enumerate(pages):
            file.write(gzip.compress(_record(number, page), mtime=0))


def _text_of(
    kind: str,
    number: int,
    articles: Sequence[str],
    texts: Sequence[str],
    questions: Sequence[str],
    draw: random.Random,
) -> str:
    match kind:
        case "copy":
            return articles[number % len(articles)]
        case "near copy":
            return _changed(articles[-1 - number % len(articles)], draw)
        case "list of words":
            return ", ".join(draw.choice(_WORDS) for _ in range(300))
        case "menu":
            return "\n\n".join(draw.sample(_MENU, 6))
        case "another language":
            return "\n\n".join(draw.choice(_GERMAN) for _ in range(10))
        case "evaluation":
            return f"{_cut(texts[-1 - number % len(texts)])}\n\n{draw.choice(questions)}"
        case "private":
            name = draw.choice(_NAMES)
            text = _cut(texts[(len(articles) + number) % len(texts)])
            return f"{text}\n\nWrite to {name}@mail{number}.com, or call our server at 81.2.69.{number % 250 + 1}."
        case "wrongly decoded":
            text = _cut(texts[(2 * len(articles) + number) % len(texts)])
            quoted = f"{text}\n\nThe visitor said: “It’s the café’s best day – at last.”"
            return quoted.encode("utf-8").decode("cp1252", "replace")
        case _:
            return articles[number]


def _cut(text: str) -> str:
    """Return whole paragraphs of a text, up to a length."""
    kept: list[str] = []
    for paragraph in text.split("\n"):
        if kept and sum(map(len, kept)) + len(paragraph) > MOST_CHARACTERS:
            break
        kept.append(paragraph)
    return "\n".join(kept)[: 2 * MOST_CHARACTERS]


def _changed(text: str, draw: random.Random) -> str:
    """Return a text with one word in sixty left out."""
    words = text.split(" ")
    return " ".join(word for word in words if draw.random() > 1 / 60)


def _record(number: int, page: Page) -> bytes:
    body = _html(page)
    response = (
        f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    head = (
        f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:00000000-0000-4000-8000-{number:012}>\r\n"
        f"WARC-Date: 2026-01-01T00:00:00Z\r\nWARC-Target-URI: {page.url}\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(response)}\r\n\r\n"
    )
    return head.encode() + response + b"\r\n\r\n"


def _html(page: Page) -> bytes:
    return "".join(_parts(page)).encode("utf-8")


def _parts(page: Page) -> Iterator[str]:
    links = "".join(f'<li><a href="/{word.lower()}">{word}</a></li>' for word in _MENU)
    yield f"<!doctype html><html lang=en><head><title>{html.escape(page.url)}</title></head><body>"
    yield f"<nav><ul>{links}</ul></nav><div class=cookies>This site uses cookies. <button>Accept</button></div>"
    yield "<main><article>"
    for paragraph in page.body.split("\n"):
        if paragraph.strip():
            yield f"<p>{html.escape(paragraph)}</p>"
    yield "</article></main><footer>Copyright. All rights reserved. <a href=/imprint>Imprint</a></footer>"
    yield "</body></html>"
