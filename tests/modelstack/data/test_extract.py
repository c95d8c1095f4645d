"""Pages to texts: charsets, reasons, hostile HTML, and the outcomes that the labelled sample expects."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from modelstack.data.documents import Document
from modelstack.data.extract import Extract, text_of_bytes
from modelstack.data.mojibake import RepairText
from modelstack.data.reading import WarcInput, open_input
from modelstack.errors import UserError

RAW_WEB = Path(__file__).parents[4] / "shared" / "data" / "rawweb"
needs_raw_web = pytest.mark.skipif(not RAW_WEB.is_dir(), reason="the raw web sample is not here")
SENTENCES = "The old mill stands by the river. Its wheel turns when the water is high, and the miller sings. "
PAGE = f"""<html><head><title>The \n mill</title><link rel="license" href="https://example.org/cc0"></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/about">About us</a></li></ul></nav>
<main><h1>The mill</h1><p>{SENTENCES * 5}</p><script>var x = 1;</script><p>{SENTENCES * 3}</p></main>
<footer>Copyright, cookies</footer></body></html>"""


def page(content: bytes | str, **metadata: Any) -> Document:
    content = content.encode() if isinstance(content, str) else content
    return Document("a", content=content, metadata=metadata)


def reason_and_text(document: Document, **settings: Any) -> tuple[str | None, str]:
    return Extract(**settings).build()(document), document.text


def test_the_main_text_is_kept_and_menus_are_not() -> None:
    document = page(PAGE, content_type="text/html", http_status=200)
    reason, text = reason_and_text(document)
    assert reason is None
    assert text.count("The old mill") == 8
    assert not any(word in text for word in ("About us", "cookies", "var x"))
    assert document.content == b""
    assert document.metadata["title"] == "The mill"
    assert document.metadata["charset"] == "utf-8"
    assert document.metadata["license_urls"] == ["https://example.org/cc0"]
    assert "About us" in reason_and_text(page(PAGE), main_content=False)[1]


def test_the_precise_engine_gives_the_main_text_too() -> None:
    pytest.importorskip("trafilatura")
    document = page(PAGE)
    reason, text = reason_and_text(document, engine="trafilatura")
    assert reason is None
    assert "The old mill" in text and "About us" not in text
    assert document.metadata["title"] == "The mill"
    assert reason_and_text(page("<p>"), engine="trafilatura")[0] == "empty"


def test_an_engine_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trafilatura", None)
    with pytest.raises(UserError, match="pip install trafilatura"):
        Extract(engine="trafilatura").build()


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (page("<p>a", http_status=404), "http_status"),
        (page("<p>a", http_status=301), "http_status"),
        (page('{"a": 1}', content_type="application/json"), "content_type"),
        (page(b"\x89PNG\r\n\x1a\n" + bytes(99)), "content_type"),
        (page(b"%PDF-1.7 " + bytes(99), content_type="text/html"), "content_type"),
        (page("<p>a", content_type="text/html;"), "content_type"),
        (page("<html><body><script>a()</script></body></html>"), "empty"),
        (page(b""), "empty"),
        (page("<p>" + "a" * 5_000_000), "too_large"),
        (page("<div>" * 20_000 + "a"), "parse_error"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_gives_no_text_says_why(document: Document, reason: str) -> None:
    assert reason_and_text(document)[0] == reason
    assert document.content == b""


def test_plain_text_and_ready_texts_stay_as_they_are() -> None:
    assert reason_and_text(page("a < b\r\n<p>\x00c\n", content_type="text/plain"))[1] == "a < b\n<p>c"
    ready = Document("a", " ready ", metadata={"http_status": 404})
    assert reason_and_text(ready) == (None, " ready ")


@pytest.mark.parametrize(
    ("content", "http_charset", "charset", "text"),
    [
        ("Grüße".encode("cp1252"), "iso-8859-1", "cp1252", "Grüße"),  # as browsers take that name
        ("Grüße".encode(), "", "utf-8", "Grüße"),
        ("Grüße".encode(), "nonsense", "utf-8", "Grüße"),
        (
            b'<meta charset="shift_jis">' + "日本".encode("shift_jis"),
            "",
            "shift_jis",
            '<meta charset="shift_jis">日本',
        ),
        (b'<meta charset="shift_jis">' + "日本".encode(), "utf-8", "utf-8", '<meta charset="shift_jis">日本'),
        ("Grüße, Mühle, Straße".encode("cp1252"), "utf-8", "cp1252", "Grüße, Mühle, Straße"),  # HTTP is wrong
        ("Grüße".encode(), "iso-8859-1", "utf-8", "Grüße"),  # and here
        ("Grüße, Mühle, Straße, Öl".encode() + b"\xc3", "utf-8", "utf-8", "Grüße, Mühle, Straße, Öl\ufffd"),  # cut
        ('<meta charset="utf-16">Grüße'.encode(), "", "utf-8", '<meta charset="utf-16">Grüße'),
        ("Grüße".encode("utf-16-le"), "utf-16", "utf-16-le", "Grüße"),
        ("\ufeffGrüße".encode("utf-16-le"), "utf-8", "utf-16-le", "Grüße"),
        ("\ufeffGrüße".encode("utf-16-be"), "", "utf-16-be", "Grüße"),
        ("Всё смешалось в доме Облонских. Жена узнала.".encode("koi8-r"), "", "koi8-r", None),
    ],
)
def test_the_charset_is_looked_for_where_browsers_look(
    content: bytes, http_charset: str, charset: str, text: str | None
) -> None:
    found, used = text_of_bytes(content, http_charset)
    assert used == charset
    assert found == (text or content.decode(charset))


def test_a_page_of_unknown_type_is_told_by_how_it_begins() -> None:
    russian = "Всё смешалось в доме Облонских. Жена узнала, что муж был в связи с гувернанткою. " * 3
    assert reason_and_text(page(f"\n <p>{russian}".encode("koi8-r"))) == (None, russian.strip())
    assert reason_and_text(page("plain words"))[1] == "plain words"


def test_bytes_of_no_charset_are_replaced() -> None:
    text, _ = text_of_bytes(b"caf\xe9 \x81\x8d", "utf-8")
    assert text.startswith("caf")
    text.encode()
    assert text_of_bytes(b"", "utf-8") == ("", "utf-8")


def test_no_control_and_no_half_pair_gets_into_a_text() -> None:
    _, text = reason_and_text(page("<p>a&#xd800;b\x01c\x7fd&#0;e</p>"))
    text.encode()
    assert not any(ord(letter) < 32 for letter in text)


def test_encoding_faults_are_repaired_and_style_is_not() -> None:
    repair = RepairText().build()
    document = Document(
        "a", "The cafÃ© opens.\nâ€œHiâ€\x9d, she said.\nCurly “quotes”, ﬁne ligatures, &amp; Ｗ\n" + "é" * 30_000
    )
    assert repair(document) is None
    assert document.text.split("\n")[:3] == [
        "The café opens.",
        "“Hi”, she said.",
        "Curly “quotes”, ﬁne ligatures, &amp; Ｗ",
    ]
    assert document.metadata == {"repaired_lines": 2}
    clean = Document("b", "Всё хорошо. Grüße, 日本\n")
    assert repair(clean) is None and clean.metadata == {} and clean.text == "Всё хорошо. Grüße, 日本\n"


@needs_raw_web
def test_the_labelled_sample_comes_out_as_its_labels_expect() -> None:
    lines = (RAW_WEB / "labels.jsonl").read_text(encoding="utf-8").splitlines()
    labels = {label["url"]: label for label in map(json.loads, lines)}
    step, repair = Extract().build(), RepairText().build()
    dropped: Counter[tuple[str, str]] = Counter()
    kept: dict[str, list[Document]] = {}
    for document in open_input(WarcInput(path=RAW_WEB / "raw-sample.warc.gz")):
        assert isinstance(document, Document)
        category = labels[document.url]["category"]
        if reason := step(document):
            dropped[category, reason] += 1
            continue
        repair(document)
        kept.setdefault(category, []).append(document)
    # main-content extraction takes lists of links for menus: these four were to be dropped by line rules.
    assert dropped == {
        ("binary", "content_type"): 1,
        ("json", "content_type"): 1,
        ("http-404", "http_status"): 1,
        ("empty", "empty"): 1,
        ("bullet-list", "empty"): 4,
    }
    assert sum(map(len, kept.values())) == 335
    assert kept["latin1-charset"][0].text.startswith("Le café du village est ouvert")
    assert kept["no-charset"][0].text.startswith("Die Mühle steht am Fluß")
    assert kept["mojibake"][0].text.startswith("The café in the village opens early, and the teacher’s")
    assert kept["gzip-encoded"][0].text.startswith("A boy counts the sacks")
    assert "His daughter feeds the hens" in kept["truncated-html"][0].text
    # A mark of a lost letter is one that the page was sent with.
    assert {
        document.url.rpartition("/")[2] for document in sum(kept.values(), []) if "\ufffd" in document.text
    } == {"basic-configuration.html"}
    for document in kept["docs-with-nav-boilerplate"]:
        if "/py/" in document.url:  # Sphinx puts these words into every page's header and footer.
            assert not any(words in document.text for words in ("Previous topic", "Next topic", "Show Source"))
