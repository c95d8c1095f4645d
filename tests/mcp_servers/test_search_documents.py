"""HTML and PDF in the search server: their text is found, and hostile ones fail alone."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from pdf_pages import page_of, pdf_of
from pypdf import PdfReader, PdfWriter
from server_harness import asker

from mcp_servers.child import KillableChild
from mcp_servers.distribution import install_command
from mcp_servers.failures import ToolFailure
from mcp_servers.filesystem.root import Root
from mcp_servers.search.documents import Document, DocumentReader
from mcp_servers.search.policy import Limits
from mcp_servers.search.server import build_server

pytestmark = pytest.mark.anyio

LONG_AGO_NS = 10**18
FLATE = b"/Filter /FlateDecode"
# Both keep their parser busy for many minutes on any machine.
ENDLESS_HTML = "<a " + " ".join(f"a{number}=1" for number in range(200_000)) + ">x</a>"
ENDLESS_PAGE = b"/X Do " * 4_000
SHORT = Limits(child_s=1.0)
# Whatever else the machine does, what is not hostile is read.
PATIENT = Limits(child_s=100.0)


@cache
def packed_page() -> bytes:
    """Return a packed content stream of 210 MB."""
    return zlib.compress(b"(A) Tj " * 30_000_000, 1)


def encrypted(data: bytes, password: str) -> bytes:
    writer = PdfWriter(PdfReader(io.BytesIO(data)))
    writer.encrypt(password, algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


def write(path: Path, data: bytes | str) -> None:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a function that reads bytes as a file with a name; readers with the same limits are one."""
    folder = tmp_path_factory.mktemp("read")
    readers = dict[Limits, DocumentReader]()

    def read(name: str, data: bytes | str, limits: Limits = PATIENT) -> Document:
        write(folder / name, data)
        if limits not in readers:
            readers[limits] = DocumentReader(Root(str(folder)), limits)
        return readers[limits].read((name,))

    yield read
    for reader in readers.values():
        reader.close()


def text_of(document: Document) -> str:
    return "\n".join(document.pages[0].lines)


# -- HTML


def test_html_is_read_as_a_person_sees_it(read: Any) -> None:
    html = """<html><head><title>My Title</title><style>x{}</style><script>evil()</script></head><body>
        <h1>One</h1><p>Some <b>bo</b>ld  text
        here</p><pre>a\n  b</pre><div hidden>secret</div><div style="display: none">no</div><!-- no -->
        <ul><li>x<li>y</ul><table><tr><td>1<td>2</table><h2>Two</h2>tail &uuml; &amp; \u00fcmlaut</body></html>"""
    document = read("a.html", html)
    assert (document.status, document.problem) == ("whole", "")
    blocks = ["My Title", "# One", "Some bold text here", "a\n  b", "- x\n- y", "1 | 2", "## Two"]
    assert text_of(document) == "\n\n".join([*blocks, "tail \u00fc & \u00fcmlaut"])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("<p>M\u00fcller", "M\u00fcller"),
        (b'<meta charset="iso-8859-1"><p>M\xfcller', "M\u00fcller"),
        (b'<meta charset="nonsense-999"><p>M\xfcller', "M\u00fcller"),
        ("\ufeff<p>M\u00fcller".encode("utf-16-le"), "M\u00fcller"),
        ("", ""),
        ("no markup", "no markup"),
        ("<p>ze\u200bro\u202e", "zero"),
    ],
)
def test_html_in_any_encoding(read: Any, data: bytes | str, text: str) -> None:
    assert text_of(read("a.htm", data)) == text


def test_entities_that_a_page_defines_are_not_expanded(read: Any) -> None:
    entities = '<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c SYSTEM "file:///etc/passwd">'
    bomb = f"<!DOCTYPE x [{entities}]><p>&b; fine &c;"
    text = text_of(read("a.html", bomb))
    assert "fine" in text and "aaaa" not in text and "root:" not in text


def test_html_nested_too_deeply_is_read_as_far_as_it_goes_and_that_is_said(read: Any) -> None:
    document = read("a.html", "<p>top</p>" + "<div>x" * 100_000)
    assert (document.status, document.problem) == ("part", "what is nested too deeply is left out")
    assert text_of(document).startswith("top\n")


def test_html_that_keeps_the_parser_busy_is_given_up(read: Any) -> None:
    """libxml2 compares each attribute with all before it."""
    document = read("a.html", ENDLESS_HTML, SHORT)
    assert (document.status, document.problem) == ("failed", "it takes more than 1 s to read and was given up")


def test_a_pdf_that_keeps_the_parser_busy_is_given_up(read: Any) -> None:
    document = read("a.pdf", pdf_of(ENDLESS_PAGE), SHORT)
    assert (document.status, document.problem) == ("failed", "it takes more than 1 s to read and was given up")


def test_html_with_nul_bytes_is_binary(read: Any) -> None:
    assert read("a.html", b"\0\1<p>text").status == "binary"


# -- PDF


def test_the_pages_of_a_pdf_keep_their_numbers(read: Any) -> None:
    document = read("a.pdf", pdf_of(page_of("Hello", "World"), page_of("second")))
    assert (document.status, document.n_pages) == ("whole", 2)
    assert [(page.number, page.lines) for page in document.pages] == [(1, ["Hello", "World"]), (2, ["second"])]


def test_a_pdf_is_read_in_pieces(read: Any) -> None:
    pages = [page_of(f"page {number}") for number in range(1, 21)]
    document = read("a.pdf", pdf_of(*pages), Limits(piece_s=0.0))
    assert document.status == "whole"
    assert [page.lines for page in document.pages] == [[f"page {number}"] for number in range(1, 21)]


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        (Limits(max_pages=2), "only the first 2 of 5 pages"),
        (Limits(piece_s=0.0, document_s=0.0), "only the first 1 of 5 pages: at most 0 s are spent on it"),
        (Limits(max_text_file_bytes=5), "only the first 1 of 5 pages: at most 5 characters are read"),
    ],
)
def test_a_pdf_beyond_a_cap_is_read_in_part_and_that_is_said(read: Any, limits: Limits, problem: str) -> None:
    document = read("a.pdf", pdf_of(*[page_of("some text")] * 5), limits)
    assert (document.status, document.problem) == ("part", problem)


def test_a_pdf_without_a_password_to_open_it_is_read_and_another_is_not(read: Any) -> None:
    data = pdf_of(page_of("locked"))
    assert read("a.pdf", encrypted(data, "")).status == "whole"
    document = read("b.pdf", encrypted(data, "secret"))
    assert (document.status, document.problem) == ("failed", "it is encrypted with a password")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "it is no PDF that can be read"),
        (b"just text", "it is no PDF that can be read"),
        (b"%PDF-1.7\n" + bytes(range(256)) * 500, "it is no PDF that can be read"),
        (pdf_of(page_of("x"))[:-200], "it is no PDF that can be read"),
        (pdf_of(page_of("x")).replace(b"/Kids [4 0 R]", b"/Kids [2 0 R]"), "it is no PDF that can be read"),
        (pdf_of(b"[" * 200_000), "it holds no text; scanned pages are not read"),
        (pdf_of(b""), "it holds no text; scanned pages are not read"),
    ],
    ids=["empty", "text", "junk", "cut", "loop", "deep", "blank"],
)
def test_a_hostile_or_damaged_pdf_fails_with_the_reason(read: Any, data: bytes, problem: str) -> None:
    document = read("a.pdf", data)
    assert document.status == "failed" and document.problem.startswith(problem)


@pytest.mark.parametrize("times", [1, 2], ids=["packed once", "packed twice"])
def test_a_page_that_unpacks_to_hundreds_of_megabytes_cannot_be_read(read: Any, times: int) -> None:
    packed = packed_page()
    for _ in range(1, times):
        packed = zlib.compress(packed, 1)
    filters = b"/Filter [" + b"/FlateDecode " * times + b"]"
    document = read("a.pdf", pdf_of(packed, filters=filters))
    assert document.status == "failed" and document.problem.startswith("its pages cannot be read")


def test_a_page_that_cannot_be_read_does_not_stop_the_others(read: Any) -> None:
    bomb = zlib.compress(b"A" * 100_000_000)
    data = pdf_of(zlib.compress(page_of("before")), bomb, zlib.compress(page_of("after")), filters=FLATE)
    document = read("a.pdf", data)
    assert (document.status, document.problem) == ("part", "pages that cannot be read: 2")
    assert [page.lines for page in document.pages] == [["before"], [], ["after"]]


@pytest.mark.slow
def test_pages_before_one_that_takes_too_long_are_kept(read: Any) -> None:
    document = read("a.pdf", pdf_of(page_of("before"), ENDLESS_PAGE), Limits(child_s=2.5, piece_s=0.0))
    assert document.status == "part"
    assert document.problem == "only the first 1 of 2 pages: it takes more than 2.5 s to read and was given up"


def test_a_document_that_needs_too_much_memory_fails_alone(read: Any) -> None:
    """A byte of short elements needs about 80; the largest file that is read by default stays below the limit."""
    document = read("a.html", "<p>x" * 3_000_000, Limits(max_text_file_bytes=12_000_000, child_s=60.0))
    assert (document.status, document.problem) == ("failed", "it needs too much memory")


def test_a_missing_package_is_named_with_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_packages(module: str, *, packages: bool) -> KillableChild:
        return KillableChild(module)

    monkeypatch.setattr("mcp_servers.search.documents.KillableChild", without_packages)
    reader = DocumentReader(Root(str(folder)), PATIENT)
    try:
        for name, package in (("a.pdf", "pypdf"), ("a.html", "lxml")):
            write(folder / name, "<p>x")
            assert reader.read((name,)).problem == f"{package} is missing: {install_command('servers')}"
    finally:
        reader.close()


# -- through the server


async def test_hits_in_a_pdf_have_pages_and_are_read_page_by_page(folder: Path) -> None:
    write(folder / "a.pdf", pdf_of(page_of("first page"), page_of("the needle", "is here"), page_of("")))
    async with Client(build_server(str(folder), index=str(folder.parent / "i.db"))) as client:
        ask = asker(client)
        lines = (await ask("search", query="needle"))[0].split("\n")
        assert lines[1].startswith("a.pdf page 2:1-2 (score ") and lines[2:4] == [
            "  1: the needle",
            "  2: is here",
        ]
        text, _ = await ask("read_passage", path="a.pdf", page=2, first_line=2)
        assert text == "a.pdf page 2 of 3: 2 lines, here 2 to 2; go on with page=3\nis here"
        text, _ = await ask("read_passage", path="a.pdf")
        assert text == "a.pdf page 1 of 3: 1 lines; go on with page=2\nfirst page"
        assert await ask("read_passage", path="a.pdf", page=3) == ("a.pdf page 3 of 3: 0 lines\n", False)
        text, is_error = await ask("read_passage", path="a.pdf", page=4)
        assert is_error and text == "'a.pdf' has 3 pages; page 4 is past the end."
        text, is_error = await ask("read_passage", path="a.pdf", page=2, first_line=3)
        assert is_error and text == "Page 2 of 'a.pdf' has 2 lines; first_line 3 is past the end."


async def test_lines_of_an_html_hit_are_the_lines_that_are_read(folder: Path) -> None:
    write(folder / "a.html", "<h1>Top</h1><p>intro<p>the needle<script>needle()</script>")
    async with Client(build_server(str(folder), index=str(folder.parent / "i.db"))) as client:
        text, _ = await asker(client)("search", query="needle")
        assert "a.html:1-5" in text and "  5: the needle\n" in text and "Top" in text
        text, _ = await asker(client)("read_passage", path="a.html", first_line=5)
        assert text == "a.html: 5 lines, here 5 to 5\nthe needle"


@pytest.mark.slow
async def test_files_that_fail_are_listed_with_the_reason_and_the_rest_is_found(folder: Path) -> None:
    limits = Limits(child_s=2.5, wait_s=100.0)
    write(folder / "a.html", ENDLESS_HTML)
    write(folder / "b.pdf", b"%PDF junk\x1b[2J \xe2\x80\xae")
    write(folder / "c.html", "<p>fine word")
    write(folder / "d.pdf", pdf_of(page_of("fine word")))
    async with Client(build_server(str(folder), index=str(folder.parent / "i.db"), limits=limits)) as client:
        ask = asker(client)
        text, _ = await ask("search", query="fine word")
        assert "c.html:1-1" in text and "d.pdf page 1:1-1" in text
        assert text.endswith(" 2 files not or partly indexed; see index_status.")
        status, _ = await ask("index_status")
        assert "a.html: failed: it takes more than 2.5 s to read and was given up" in status
        assert "b.pdf: failed: it is no PDF that can be read" in status
        assert "b.pdf (score" in (await ask("search", query="b pdf"))[0]
        text, is_error = await ask("read_passage", path="b.pdf")
        assert is_error and "it is no PDF that can be read" in text
        assert (await ask("refresh"))[0].startswith("New or changed files read: 0.")


def test_a_failed_document_leaves_no_swollen_child(folder: Path) -> None:
    write(folder / "a.pdf", b"junk")
    reader = DocumentReader(Root(str(folder)), PATIENT)
    try:
        assert reader.read(("a.pdf",)).status == "failed"
        assert reader._child._process is None
        with pytest.raises(ToolFailure, match="no PDF"):
            reader.read_page(("a.pdf",), 1)
    finally:
        reader.close()
