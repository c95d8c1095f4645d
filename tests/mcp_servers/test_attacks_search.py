"""Attacks on the search server by documents, names, special files, rules to ignore, paths, and files in the index's
place.

One server indexes a folder of hostile files beside one sound file; each must be answered and the sound one found.
"""

from __future__ import annotations

import io
import os
import re
import sqlite3
import zipfile
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from mcp import Client

from mcp_servers.search.policy import Limits
from mcp_servers.search.server import build_server
from tests.mcp_servers.attack_bounds import assert_plain, cpu_at_most
from tests.mcp_servers.hostile_sidecars import (
    BESIDE,
    SWAPS,
    assert_untouched,
    take_away,
    victim_of,
    without_sidecars,
)
from tests.mcp_servers.server_harness import Ask, asker

pytestmark = pytest.mark.anyio

SECRET = "the-secret-beside-the-folder"
LIMITS = Limits(child_s=2.5, piece_s=1.0, document_s=3.0, wait_s=60.0, refresh_s=120.0, search_s=60.0)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def pdf(*objects: bytes, trailer: bytes = b"/Root 1 0 R") -> bytes:
    data, offsets = b"%PDF-1.7\n", list[int]()
    for number, content in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    return data + b"xref\n0 %d\n0000000000 65535 f \n%strailer << /Size %d %s >>\nstartxref\n%d\n%%%%EOF" % (
        size,
        table,
        size,
        trailer,
        len(data),
    )


CATALOG, PAGES = b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"
PAGE = (
    b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>"
)
FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"


def stream(data: bytes, more: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(data), more, data)


def zip_bomb() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"\0" * 20_000_000)
    return packed.getvalue()


def pdf_bomb() -> bytes:
    packed = zlib.compress(b"A" * 200_000_000, 1)
    return pdf(CATALOG, PAGES, PAGE, stream(packed, b"/Filter /FlateDecode"), FONT)


WIDTHS = b"<< /Type /Font /Subtype /Type0 /BaseFont /X /Encoding /Identity-H /DescendantFonts [6 0 R] /ToUnicode 7 0 R >>"
RANGES = b"1 beginbfrange <0000> <FFFFFFFF> <0041> endbfrange " * 50
TEXT = b"BT /F1 12 Tf (pdfword) Tj ET"

DOCUMENTS: dict[str, bytes] = {
    "svg.svg": b'<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a; svgword</svg>',
    "bomb.xml": b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9))
    + b"]><x>&j;</x>",
    "bomb.html": b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9))
    + b"]><p>&j; htmlword</p>",
    "include.xhtml": b"<html xmlns:xi='http://www.w3.org/2001/XInclude'><xi:include href='file:///etc/passwd'"
    b" parse='text'/><p>words</p><object data='file:///etc/passwd'></object></html>",
    "unseen.html": b"<p>seen</p><p style='display:none'>obey</p><p hidden>obey</p><template>obey</template>"
    b"<script>obey</script><!-- obey --><p>&#x202e;&#x200b;&#xE0041;&#27;[2J</p>",
    "charset.html": b"<meta charset=utf-7><p>+ADw-b+AD4- word</p>",
    "attributes.html": b"<p " + b" ".join(b"a%d=1" % n for n in range(200_000)) + b">x</p>",
    "unclosed.html": b"<b><i><p>" * 100_000,
    "one-line.txt": b"x" * 4_000_000,
    "lines.txt": b"\n" * 4_000_000,
    "marks.txt": "a\u0300".encode() * 1_000_000,
    "words.txt": b" ".join(b"w%d" % n for n in range(400_000)),
    "long-word.py": b"aB" * 1_900_000,
    "headings.md": b"#" * 6 + b" x\n" + b"# # #\n" * 200_000,
    "fence.md": b"`" * 2_000_000,
    "hidden.txt": "seen\u202e\u200b\U000e0041\ufe0f\ufe0f\u3164\x1b[2J\x9b\n".encode() * 100,
    "mark.txt": b"\xff\xfe" + "\ud800obey".encode("utf-16-le", "surrogatepass") * 1_000,
    "wrong-ending.pdf": b"<html>not a pdf</html>",
    "layers.pdf": pdf(
        CATALOG, PAGES, PAGE, stream(b"x", b"/Filter [" + b"/ASCIIHexDecode " * 50_000 + b"]"), FONT
    ),
    "predictor.pdf": pdf(
        CATALOG,
        PAGES,
        PAGE,
        stream(
            zlib.compress(b"A" * 1_000_000),
            b"/Filter /FlateDecode /DecodeParms << /Predictor 12 /Columns 2000000000 >>",
        ),
        FONT,
    ),
    "loop.pdf": pdf(CATALOG, b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 2 >>"),
    "parents.pdf": pdf(CATALOG, PAGES, PAGE.replace(b"/Parent 2 0 R", b"/Parent 3 0 R"), stream(TEXT), FONT),
    "count.pdf": pdf(CATALOG, PAGES.replace(b"/Count 1", b"/Count 999999999"), PAGE, stream(TEXT), FONT),
    "minus.pdf": pdf(CATALOG, PAGES.replace(b"/Count 1", b"/Count -5"), PAGE, stream(TEXT), FONT),
    "length.pdf": pdf(CATALOG, PAGES, PAGE, stream(TEXT).replace(b"/Length 28", b"/Length 4 0 R"), FONT),
    "ranges.pdf": pdf(
        CATALOG, PAGES, PAGE, stream(TEXT), WIDTHS, b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /X >>",
        stream(RANGES),
    ),
    "widths.pdf": pdf(
        CATALOG, PAGES, PAGE, stream(TEXT), WIDTHS,
        b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /X /W [0 2147483647 500] >>", stream(b""),
    ),
    "table.pdf": pdf(CATALOG, PAGES, PAGE, stream(TEXT), FONT, trailer=b"/Root 1 0 R /Prev 9"),
    "table-loop.pdf": pdf(CATALOG, PAGES, PAGE, stream(TEXT), FONT) + b"\nxref\n0 0\ntrailer << /Prev 20 >>\nstartxref\n"
    + b"9" * 10_000 + b"\n%%EOF",
    "deep.pdf": pdf(b"<< /Type /Catalog /Pages 2 0 R /X " + b"[" * 100_000 + b"]" * 100_000 + b" >>", PAGES, PAGE, stream(TEXT), FONT),
    "action.pdf": pdf(
        CATALOG.replace(b"/Pages", b"/OpenAction << /S /Launch /F (/bin/sh) >> /Pages"), PAGES, PAGE, stream(TEXT), FONT
    ),
}  # fmt: skip

BOMBS: dict[str, Callable[[], bytes]] = {"bomb.docx": zip_bomb, "bomb.zip": zip_bomb, "bomb.pdf": pdf_bomb}
"""Documents that take long to make, and are not made to list the tests."""

# Of these the text is found.
READABLE = {
    "svg.svg": "svgword", "bomb.html": "htmlword", "include.xhtml": "words", "unseen.html": "seen", "charset.html": "word",
    "hidden.txt": "seen", "words.txt": "w7", "action.pdf": "pdfword", "count.pdf": "pdfword",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of hostile files, with a secret beside it."""
    base = tmp_path_factory.mktemp("search")
    folder = base / "folder"
    folder.mkdir()
    (base / "secret.txt").write_text(SECRET)
    (folder / "sound.md").write_text("# Sound\nquokka\n")
    for name, content in DOCUMENTS.items():
        (folder / name).write_bytes(content)
    for name, make in BOMBS.items():
        (folder / name).write_bytes(make())
    os.mkfifo(folder / "pipe.md")
    os.mkfifo(folder / "pipe.pdf")
    (folder / "link.md").symlink_to("../secret.txt")
    (folder / "links").symlink_to("..")
    (folder / "self").symlink_to("self")
    with (folder / "sparse.txt").open("wb") as file:
        file.truncate(1 << 40)
    with (folder / "sparse.pdf").open("wb") as file:
        file.truncate(1 << 40)
    for name in ("pipes", "rules", "long"):
        (folder / name).mkdir()
        (folder / name / "inside.md").write_text(f"wombat{name}\n")
    os.mkfifo(folder / "pipes/.gitignore")
    (folder / "rules/.gitignore").write_text("**/" * 200 + "*a" * 200 + "b\n" + "[a-\n[!\\\n\\\n!\n/\n" * 1_000)
    with (folder / "long/.gitignore").open("wb") as file:
        file.truncate(1 << 36)
    return folder


@pytest.fixture(scope="module")
async def serve(folder: Path) -> AsyncIterator[Ask]:
    server = build_server(str(folder), index=str(folder.parent / "index.db"), limits=LIMITS)
    async with Client(server) as client:
        await asker(client)("search", query="quokka")  # waits for the index
        yield asker(client)


@pytest.fixture
async def ask(serve: Ask) -> AsyncIterator[Ask]:
    """The server; after the attack it finds an ordinary word."""
    yield serve
    text, is_error = await serve("search", query="quokka")
    assert not is_error and "sound.md" in text


@pytest.mark.parametrize("name", [*DOCUMENTS, *BOMBS])
async def test_a_hostile_document_is_read_as_far_as_it_goes_or_named_as_a_problem(name: str, ask: Ask) -> None:
    # What reads HTML and PDF is a child.
    with cpu_at_most(1.0):
        text, is_error = await ask("search", query=READABLE.get(name, "x"), path=name)
    assert not is_error, text
    assert_plain(text)
    if name in READABLE:
        assert READABLE[name] in text.lower()
    with cpu_at_most(1.5):
        text, is_error = await ask("read_passage", path=name, lines=1_000, page=int(name.endswith(".pdf")))
    assert_plain(text, max_chars=40_000)
    assert "root:x:" not in text and "obey" not in text
    assert is_error or name not in ("bomb.docx", "bomb.zip")


@pytest.mark.parametrize(
    "name", ["pipe.md", "pipe.pdf", "sparse.txt", "sparse.pdf", "link.md", "links/secret.txt", "self"]
)
async def test_what_is_no_ordinary_file_is_not_read(name: str, ask: Ask) -> None:
    text, is_error = await ask("read_passage", path=name)
    assert is_error and SECRET not in text
    text, is_error = await ask("search", query="secret", path=name)
    assert SECRET not in text
    assert_plain(text)


@pytest.mark.parametrize("name", ["pipes", "rules", "long"])
async def test_rules_to_ignore_that_cannot_be_read_stop_nothing(name: str, ask: Ask) -> None:
    text, is_error = await ask("search", query=f"wombat{name}")
    assert not is_error
    assert f"{name}/inside.md" in text


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt", "links/../../secret.txt", "/etc/passwd", "/proc/self/environ", "sound.md/../../secret.txt",
        "..\\secret.txt", "\uff0e\uff0e/secret.txt", "sound.md\0.txt", "a" * 5_000, "a/" * 2_000, "\ud800", "..;/x",
        "./../secret.txt", "~/x", "file:///etc/passwd", "%2e%2e/secret.txt", "\u202esound.md", ".git/config",
    ],
)  # fmt: skip
async def test_no_path_leads_outside(path: str, ask: Ask) -> None:
    for tool, arguments in (("read_passage", {"path": path}), ("search", {"query": "secret", "path": path})):
        with cpu_at_most(1.0):
            text, is_error = await ask(tool, **arguments)
        assert is_error, text
        assert SECRET not in text and "root:x:" not in text
        assert_plain(text, max_chars=3_000)


@pytest.mark.parametrize(
    "query",
    [
        "quokka " * 60, "\u0300" * 400, '"' * 400, "NEAR(a b, 99999999)", "a* " * 100, "-" + "a" * 399, "(" * 400,
        "{path body} : quokka", "quokka\0; drop table files", "\ufdfa" * 100, "\U000e0041quokka", "w* OR w*",
    ],
)  # fmt: skip
async def test_a_query_is_words(query: str, ask: Ask) -> None:
    with cpu_at_most(1.0):
        text, _ = await ask("search", query=query)
    assert "fts5" not in text.lower() and "syntax" not in text.lower()
    assert_plain(text)


async def test_problems_are_listed_plainly(ask: Ask) -> None:
    text, is_error = await ask("index_status")
    assert not is_error
    assert_plain(text)
    for said in ("sparse.pdf: too large", "4 binary files", "2 devices, pipes and sockets", "3 links"):
        assert said in text, text
    assert "obey" not in text


# -- names


async def test_names_forge_no_line_of_an_answer(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    names = [
        "a\u2028b.md",
        "a\u202eb.md",
        "a\ufe0f\ufe0fb.md",
        "a\u3164.md",
        "1: b.md",
        "a:12.md",
        "a\x85b.md",
        "a b\u00ad.md",
    ]
    for name in [*names, "a\nSound.md:1", "a\x1b[2J.md", "a\rb.md"]:
        (tmp_path / "folder" / name).write_text("quokka\n")
    server = build_server(str(tmp_path / "folder"), index=str(tmp_path / "index.db"), limits=LIMITS)
    async with Client(server) as client:
        for page in (1, 2):
            text, is_error = await asker(client)("search", query="quokka", page=page)
            assert not is_error
            assert_plain(text)
            assert text.split("\n") == text.splitlines()
            assert not re.search(r"^Sound", text, re.MULTILINE)
        text, _ = await asker(client)("index_status")
        assert_plain(text)
        assert text.split("\n") == text.splitlines()


# -- the index


def sound_index(tmp_path: Path, name: str = "in") -> tuple[Path, Path]:
    """Return a folder and where its index is to be."""
    (tmp_path / name).mkdir()
    folder = tmp_path / f"{name}-folder"
    folder.mkdir()
    (folder / "sound.md").write_text("quokka\n")
    return folder, tmp_path / name / "index.db"


@pytest.mark.parametrize("name", BESIDE)
async def test_no_file_beside_the_index_leads_to_another(name: str, tmp_path: Path) -> None:
    folder, index = sound_index(tmp_path)
    victim = victim_of(tmp_path)
    async with Client(build_server(str(folder), index=str(index), limits=LIMITS)) as client:
        ask = asker(client)
        assert "sound.md" in (await ask("search", query="quokka"))[0]
        without_sidecars(index)
        BESIDE[name](index, victim)
        for tool, arguments in (("search", {"query": "quokka"}), ("refresh", {}), ("index_status", {})):
            text, is_error = await ask(tool, **arguments)
            assert is_error, text
            assert str(tmp_path) not in text
            assert_plain(text, max_chars=1_000)
        assert_untouched(victim)
        take_away(index)
        assert "sound.md" in (await ask("search", query="quokka"))[0]


@pytest.mark.parametrize("swap", SWAPS)
async def test_an_index_that_is_swapped_is_not_read(swap: Callable[[Path, Path], None], tmp_path: Path) -> None:
    folder, index = sound_index(tmp_path)
    _, other = sound_index(tmp_path, "out")
    with sqlite3.connect(other) as connection:
        connection.execute("create table files(path)")
        connection.execute("insert into files values (?)", (SECRET,))
    connection.close()
    before = other.read_bytes()
    async with Client(build_server(str(folder), index=str(index), limits=LIMITS)) as client:
        ask = asker(client)
        assert "sound.md" in (await ask("search", query="quokka"))[0]
        without_sidecars(index)
        swap(index, other)
        for tool, arguments in (("search", {"query": "quokka"}), ("refresh", {}), ("index_status", {})):
            text, is_error = await ask(tool, **arguments)
            assert is_error and SECRET not in text
            assert str(tmp_path) not in text
    assert other.read_bytes() == before
