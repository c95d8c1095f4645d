"""Attacks on the filesystem server by paths, special files, names, edits and patterns.

One server is attacked by all of them, with its own checks alone: in this process no kernel confines it.
"""

from __future__ import annotations

import os
import random
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from mcp import Client

from mcp_servers.filesystem.policy import Limits
from mcp_servers.filesystem.server import build_server
from tests.mcp_servers.attack_bounds import assert_plain, cpu_at_most
from tests.mcp_servers.server_harness import SWAP, Ask, asker

pytestmark = pytest.mark.anyio

SECRET = "the-secret-beside-the-root"
LIMITS = Limits(search_timeout_s=1.0)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A served folder with a secret beside it."""
    base = tmp_path_factory.mktemp("filesystem")
    root = base / "root"
    (root / "a").mkdir(parents=True)
    (root / "a/inside.txt").write_text("inside\n", encoding="utf-8")
    (base / "secret").write_text(SECRET, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
async def serve(root: Path) -> AsyncIterator[Ask]:
    async with Client(build_server(str(root), write=True, limits=LIMITS)) as client:
        yield asker(client)


@pytest.fixture
async def ask(serve: Ask) -> AsyncIterator[Ask]:
    """The server; after the attack it must answer an ordinary call."""
    yield serve
    assert await serve("read_text_file", path="a/inside.txt") == ("a/inside.txt: 1 lines\ninside\n", False)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, files with their content; what is no file is not opened."""
    return {
        str(path): path.read_bytes() if stat.S_ISREG(path.lstat().st_mode) else None
        for path in sorted(folder.rglob("*"))
    }


# -- paths


@pytest.mark.parametrize(
    "path",
    [
        "\uff0e\uff0e/secret", "\u2025/secret", ".. /secret", "..\u200b/secret", "..\ufe0f/secret", "..;/secret",
        "....//secret", "..\\..\\secret/x", "a/inside.txt/../../../secret", "./a/./.././../secret", "..%2f/secret",
        "..%c0%af/secret", "~/secret", "~root/secret", "file:///etc/passwd", "C:/secret", "\\\\?\\C:/secret",
        "/proc/self/root/etc/passwd", "/dev/fd/0", "proc/self/environ", "dev/stdin/x", "a/\u2024\u2024/secret",
        "\uff0fetc\uff0fpasswd", "a\u2215..\u2215..\u2215secret",
    ],
)  # fmt: skip
async def test_no_spelling_of_a_path_leads_outside(path: str, root: Path, ask: Ask) -> None:
    before = tree(root.parent)
    for tool, more in (
        ("read_text_file", {}),
        ("list_directory", {}),
        ("file_info", {}),
        ("search_text", {"text": "secret"}),
        ("edit_file", {"old_text": "secret", "new_text": "x"}),
        ("delete", {}),
        ("write_file", {"text": "x", "overwrite": True}),
    ):
        if tool == "write_file" and "/" not in path:
            continue  # a strange name, and a file of the root like others
        text, is_error = await ask(tool, path=path, **more)
        assert is_error, tool
        assert SECRET not in text and "root:x:" not in text and str(root) not in text
        assert_plain(text)
    assert (await ask("move", source="a/inside.txt", destination=f"{path}/x"))[1]
    assert tree(root.parent) == before


@pytest.mark.parametrize(
    ("name", "other"), [("\ufb01le", "file"), ("\u212bngstrom", "\u00e5ngstrom"), ("K", "\u212a")]
)
async def test_names_that_are_equal_only_after_normalisation_are_two(
    name: str, other: str, root: Path, ask: Ask
) -> None:
    (root / name).write_text("mine", encoding="utf-8")
    text, is_error = await ask("write_file", path=other, text="x")
    assert not is_error, text
    assert ((root / name).read_text(encoding="utf-8"), (root / other).read_text(encoding="utf-8")) == ("mine", "x")


# -- what is no regular file


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            listener.bind(f"/proc/self/fd/{folder}/{path.name}")  # a socket's path is short
        finally:
            os.close(folder)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "socket": _socket,
    "endless": lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5)),
    "disk": lambda path: os.mknod(path, stat.S_IFBLK | 0o666, os.makedev(7, 0)),
}


@pytest.mark.parametrize("name", SPECIAL)
async def test_a_special_file_is_neither_opened_nor_moved_nor_replaced(name: str, root: Path, ask: Ask) -> None:
    try:
        SPECIAL[name](root / name)
    except OSError as error:
        pytest.skip(f"cannot be made here: {error}")
    before = (root / name).lstat()
    calls: list[tuple[str, dict[str, object]]] = [
        ("read_text_file", {"path": name}),
        ("list_directory", {"path": name}),
        ("search_text", {"path": name, "text": "x"}),
        ("edit_file", {"path": name, "old_text": "a", "new_text": "b"}),
        ("write_file", {"path": name, "text": "x"}),
        ("write_file", {"path": name, "text": "x", "overwrite": True}),
        ("write_file", {"path": name, "text": "x", "append": True}),
        ("write_file", {"path": f"{name}/x", "text": "x"}),
        ("create_directory", {"path": f"{name}/x"}),
        ("move", {"source": name, "destination": "moved"}),
        ("move", {"source": "a/inside.txt", "destination": name}),
        ("delete", {"path": name}),
    ]
    for tool, arguments in calls:
        text, is_error = await ask(tool, **arguments)
        assert is_error, tool
        assert "pipe or socket" in text or "exists already" in text
    after = (root / name).lstat()
    assert (after.st_mode, after.st_ino, after.st_nlink) == (before.st_mode, before.st_ino, before.st_nlink)
    (root / name).unlink()


# -- large and strange contents


async def test_a_file_of_a_terabyte_is_not_read(root: Path, ask: Ask) -> None:
    with (root / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with cpu_at_most(1):
        for tool, more in (
            ("read_text_file", {}),
            ("read_text_file", {"tail": 5}),
            ("edit_file", {"old_text": "a", "new_text": "b"}),
            ("write_file", {"text": "x", "append": True}),
        ):
            text, is_error = await ask(tool, path="sparse", **more)
            assert is_error and "larger than" in text
        assert "no match in 0 files" in (await ask("search_text", text="x", path="sparse"))[0]
        assert "1099511627776 bytes" in (await ask("file_info", path="sparse"))[0]
    assert (root / "sparse").stat().st_size == 1 << 40
    (root / "sparse").unlink()


@pytest.mark.parametrize(
    ("content", "arguments", "end"),
    [
        (b"\n" * 3_000_000, {"offset": 2_999_999, "limit": 10_000}, "here 2999999 to 3000000\n\n\n"),
        (b"x" * 3_000_000, {"tail": 10_000}, "x"),
        (b"\xff" * 3_000_000, {}, "\ufffd"),
        (("\u3164\ufe0f" * 500_000).encode(), {}, ""),
    ],
    ids=["line ends", "one line", "no text", "fillers"],
)
async def test_a_window_of_a_large_file_is_small(
    content: bytes, arguments: dict[str, int], end: str, root: Path, ask: Ask
) -> None:
    (root / "large").write_bytes(content)
    with cpu_at_most(3):
        text, is_error = await ask("read_text_file", path="large", **arguments)
    assert not is_error
    assert text.endswith(end)
    assert len(text.encode()) <= 3 * LIMITS.max_text_bytes + 200


@pytest.mark.parametrize("n_new", [500, 100_000])
async def test_an_edit_that_would_fill_the_memory_is_refused_before_it_is_made(
    n_new: int, root: Path, ask: Ask
) -> None:
    (root / "many").write_text("a" * 1_000_000, encoding="utf-8")
    with cpu_at_most(2):
        text, is_error = await ask("edit_file", path="many", old_text="a", new_text="b" * n_new, replace_all=True)
    assert is_error
    assert f"would have {n_new * 1_000_000} characters" in text
    assert (root / "many").read_text(encoding="utf-8") == "a" * 1_000_000


def two_letters(number: int, n_chars: int = 190) -> str:
    """A text that is slow to compare with others of its kind."""
    return "".join(random.Random(number).choices("ab", k=n_chars))


async def test_a_missing_name_among_two_thousand_alike_is_answered_at_once(root: Path, ask: Ask) -> None:
    (root / "alike").mkdir()
    for number in range(2_000):
        (root / "alike" / two_letters(number)).touch()
    with cpu_at_most(2):
        text, is_error = await ask("read_text_file", path=f"alike/{two_letters(5_000)}")
    assert is_error
    assert "does not exist in 'alike'" in text
    with cpu_at_most(2):
        text, _ = await ask("read_text_file", path=f"alike/{two_letters(5)[:-1]}")
    assert f"Did you mean 'alike/{two_letters(5)}'" in text  # one that is near is found all the same


async def test_a_missing_line_among_two_thousand_alike_is_answered_at_once(root: Path, ask: Ask) -> None:
    (root / "lines").write_text("\n".join(map(two_letters, range(2_000))), encoding="utf-8")
    with cpu_at_most(2):
        text, is_error = await ask("edit_file", path="lines", old_text=two_letters(5_000), new_text="x")
    assert is_error
    assert "old_text was not found" in text


@pytest.mark.parametrize(
    "pattern",
    [
        "(.*)*(.*)*x\\1", "(a|a?)+$", "(?=(a+))\\1{1000}b", "(?:(?:a{900}){900}){900}", "(" * 5_000,
        "x{0,65536}" * 50 + "y", "(?<!a{1000})b" * 300, "|".join(["a" * 60 + "b"] * 20_000),
    ],
    ids=lambda pattern: pattern[:16],
)  # fmt: skip
async def test_no_pattern_keeps_the_server_busy(pattern: str, root: Path, ask: Ask) -> None:
    (root / "letters").write_text("a" * 100_000 + "!", encoding="utf-8")
    with cpu_at_most(2):  # of the server; the child that matches has its own
        text, is_error = await ask("search_text", text=pattern, regex=True, path="letters")
    assert_plain(text)
    assert is_error or text == "no match in 1 files"


# -- names that a file system takes for the server's own, or for git's

OWN_ELSEWHERE = [
    ".tra\u017fh/x", ".TRA\u017fH", ".trash\u3164/x", ".trash::$DATA", ".tr\ufe0fash/x", ".trash\u115f",
    "\ufeff.trash/x", ".trash . ./x", ".mcp-tmp-\u034f1", "a/.MCP-TMP-1::$INDEX", "\u2063.mcp-tmp-1",
]  # fmt: skip


@pytest.mark.parametrize("name", OWN_ELSEWHERE)
async def test_a_name_that_some_file_system_takes_for_the_servers_own_is_refused(
    name: str, root: Path, ask: Ask
) -> None:
    before = tree(root)
    calls: list[tuple[str, dict[str, object]]] = [
        ("read_text_file", {"path": name}),
        ("list_directory", {"path": name}),
        ("search_files", {"path": name, "pattern": "*"}),
        ("write_file", {"path": name, "text": "x"}),
        ("create_directory", {"path": name}),
        ("move", {"source": "a/inside.txt", "destination": name}),
        ("delete", {"path": name}),
    ]
    for tool, arguments in calls:
        text, is_error = await ask(tool, **arguments)
        assert is_error, tool
        assert "is the server's own" in text
    assert tree(root) == before


@pytest.mark.parametrize(
    "name",
    [
        ".git\u3164",
        ".gi\ufe0ft",
        ".git::$INDEX_ALLOCATION",
        ".git . .",
        "\ufeff.git",
        "GIT~1.",
        ".G\u034fIT:x",
        "a/\u2060.git",
    ],
)
async def test_a_name_that_some_file_system_takes_for_gits_folder_is_not_written(
    name: str, root: Path, ask: Ask
) -> None:
    before = tree(root)
    for tool, arguments in (
        ("create_directory", {"path": f"{name}/hooks"}),
        ("write_file", {"path": f"{name}/config", "text": "[core]\n"}),
        ("move", {"source": "a/inside.txt", "destination": f"{name}"}),
    ):
        text, is_error = await ask(tool, **arguments)
        assert is_error, tool
        assert "a repository's own folder .git" in text
    assert tree(root) == before


# -- names that say more than they show


@pytest.mark.parametrize(
    "name",
    [
        "a\nb.txt (9 bytes)", "a\x1b[2J\x07.txt", "a\u3164\u3164.txt", "a" + "\ufe00\ufe01" * 20, "a\u2028b.txt",
        "a\u202etxt.exe", "a\x85b", os.fsdecode(b"a\xff\xfe"), "a\U000e0041\U000e0042", "a\u115f\u1160\uffa0",
    ],
)  # fmt: skip
async def test_a_name_is_one_line_that_shows_all_of_it(name: str, root: Path, ask: Ask) -> None:
    folder = root / "named"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("needle\n", encoding="utf-8")
    for tool, arguments in (
        ("list_directory", {"path": "named"}),
        ("tree", {"path": "named"}),
        ("search_files", {"path": "named", "pattern": "a*"}),
        ("search_text", {"path": "named", "text": "needle"}),
    ):
        text, is_error = await ask(tool, **arguments)
        assert not is_error
        assert_plain(text)
        assert len(text.splitlines()) == 1, tool
        assert text.isprintable()
    (folder / name).unlink()


# -- a folder swapped for a link while it is written in

N_WRITES = 150


async def test_nothing_is_written_outside_while_a_folder_is_swapped_for_a_link(root: Path, ask: Ask) -> None:
    outside, folder = root.parent / "outside", root / "swapped"
    outside.mkdir()
    folder.mkdir()
    command = [sys.executable, "-c", SWAP, str(folder), str(root.parent / "aside"), str(outside)]
    swapper = subprocess.Popen(command, stdout=subprocess.PIPE)
    n_refused = n_written = 0
    try:
        assert swapper.stdout is not None and swapper.stdout.readline() == b"swapping\n"
        for number in range(20 * N_WRITES):
            _, is_error = await ask("write_file", path=f"swapped/{number}", text="x")
            n_refused, n_written = n_refused + is_error, n_written + (not is_error)
            if min(n_refused, n_written) >= N_WRITES // 10 and number >= N_WRITES:
                break
    finally:
        swapper.kill()
        swapper.communicate()
        with suppress(OSError):
            folder.unlink()
    assert os.listdir(outside) == []
    assert n_refused and n_written, "the link was not met, or nothing was written: nothing was tested"
