"""Reading through the filesystem server: what is outside stays outside, what is large stays bounded."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from mcp import Client
from server_harness import SWAP, ask_once, asker

from mcp_servers.failures import MAX_COMPARED_NAMES, ToolFailure
from mcp_servers.filesystem.policy import Limits
from mcp_servers.filesystem.reading import read_window
from mcp_servers.filesystem.root import Root
from mcp_servers.filesystem.server import build_server

pytestmark = pytest.mark.anyio

SECRET = "the outside secret"
RACED_READS = 10_000
# A swapping process that the scheduler starves would prove nothing: read on until link and file were met.
MIN_LINKS_MET = 100
MAX_RACED_READS = 40 * RACED_READS


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a secret beside it, and a sibling whose name begins like the root's."""
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a" / "inside.txt").write_text("inside\n", encoding="utf-8")
    (tmp_path / "outside").mkdir()
    for place in ("secret", "outside/inside.txt", "outside/secret"):
        (tmp_path / place).write_text(SECRET, encoding="utf-8")
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "x").write_text(SECRET, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "a/../../secret",
        "../root2/x",
        "/etc/passwd",
        "..\\secret",
        "%2e%2e/secret",
        "a\0b",
        "",
        ".",
        "x" * 5_000,
        "/".join(["d"] * 2_000),
        "a\nb",
        "a/inside.txt/x",
        "missing/x",
    ],
)
async def test_a_path_that_names_no_file_inside_is_refused(root: Path, path: str) -> None:
    text, is_error = await ask_once(build_server(str(root)), "read_text_file", path=path)
    assert is_error
    assert SECRET not in text and str(root) not in text


async def test_the_sibling_with_the_roots_prefix_cannot_be_named_absolutely(root: Path) -> None:
    text, is_error = await ask_once(build_server(str(root)), "read_text_file", path=f"{root}2/x")
    assert is_error and SECRET not in text


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("file", "../secret"),
        ("folder", "../outside"),
        ("inner", "a/inside.txt"),
        ("inner_folder", "a"),
        ("loop", "loop"),
        ("dangling", "nowhere"),
        ("zero", "/dev/zero"),
        ("environ", "/proc/self/environ"),
    ],
)
async def test_no_link_is_followed_wherever_it_points(root: Path, name: str, target: str) -> None:
    os.symlink(target, root / name)
    async with Client(build_server(str(root), write=True)) as client:
        ask = asker(client)
        for path in (name, f"{name}/inside.txt", f"{name}/secret"):
            text, is_error = await ask("read_text_file", path=path)
            assert is_error and "link" in text, path
        assert await ask("list_directory") == (f"a/\n{name} (link)", False)
        assert SECRET not in (await ask("search_text", text="secret"))[0]
        assert (await ask("write_file", path=name, text="x", overwrite=True))[1]
        assert (await ask("write_file", path=f"{name}/new", text="x"))[1]
        assert (await ask("create_directory", path=f"{name}/new"))[1]
        assert (await ask("edit_file", path=name, old_text="secret", new_text="x"))[1]
        assert (await ask("move", source=name, destination="b"))[1]
        assert (await ask("move", source="a/inside.txt", destination=name))[1]
        assert (await ask("delete", path=name))[1]
    assert os.readlink(root / name) == target
    assert (root.parent / "secret").read_text(encoding="utf-8") == SECRET
    assert sorted(os.listdir(root.parent / "outside")) == ["inside.txt", "secret"]


async def test_a_chain_of_fifty_links_is_refused_at_the_first(root: Path) -> None:
    for number in range(50):
        os.symlink(f"l{number + 1}" if number < 49 else "../secret", root / f"l{number}")
    text, is_error = await ask_once(build_server(str(root)), "read_text_file", path="l0")
    assert is_error and "link" in text


async def test_a_magic_link_of_proc_is_refused(root: Path) -> None:
    text, is_error = await ask_once(build_server("/proc/self"), "read_text_file", path="root/etc/passwd")
    assert is_error and "link" in text


async def test_a_fifo_and_a_socket_are_refused_without_waiting(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(root / "fifo")
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        async with Client(build_server(str(root))) as client:
            ask = asker(client)
            for name in ("fifo", "socket"):
                text, is_error = await ask("read_text_file", path=name)
                assert is_error and "pipe or socket" in text
                assert "kind: other" in (await ask("file_info", path=name))[0]
            assert not (await ask("search_text", text="x"))[1]


def test_a_folder_swapped_for_a_link_never_leaks(root: Path) -> None:
    """SDK-defined: a descriptor walk holds where resolve-then-open leaks."""
    aside, outside = root / "aside", root.parent / "outside"
    swapper = subprocess.Popen([sys.executable, "-c", SWAP, root / "a", aside, outside], stdout=subprocess.PIPE)
    served, limits = Root(str(root)), Limits()
    texts, links_met, reads = set[str](), 0, 0
    try:
        assert swapper.stdout is not None and swapper.stdout.readline() == b"swapping\n"
        while reads < RACED_READS or (reads < MAX_RACED_READS and (links_met < MIN_LINKS_MET or not texts)):
            reads += 1
            try:
                texts.add(read_window(served, ("a", "inside.txt"), 1, 10, 0, limits).text)
            except ToolFailure as failure:
                links_met += "is a link" in str(failure)
    finally:
        swapper.kill()
        swapper.communicate()
    assert texts == {"inside\n"}
    assert links_met >= MIN_LINKS_MET, "the link was not met, so nothing was tested"


async def test_a_root_replaced_by_a_link_after_the_start_is_still_the_same_folder(root: Path) -> None:
    server = build_server(str(root))
    root.rename(root.parent / "moved")
    root.symlink_to(root.parent / "outside")
    text, _ = await ask_once(server, "read_text_file", path="a/inside.txt")
    assert text.endswith("\ninside\n")
    assert (await ask_once(server, "read_text_file", path="secret"))[1]


async def test_a_missing_file_is_answered_with_the_nearest_names(root: Path) -> None:
    text, is_error = await ask_once(build_server(str(root)), "read_text_file", path="a/insde.txt")
    assert is_error and text == "'insde.txt' does not exist in 'a'. Did you mean 'inside.txt'?"


@pytest.mark.parametrize(
    ("tool", "path", "hint"),
    [
        ("read_text_file", "dishwasher.md", "Did you mean 'notes/dishwasher-manual.txt'?"),
        ("read_text_file", "todo.txt", "Did you mean 'notes/todo.txt' or 'notes/Todo.md'?"),
        ("list_directory", "letters", "Did you mean 'old/letters'?"),
        ("file_info", "notes/letters", "Did you mean 'old/letters'?"),
        ("list_directory", "zzz", "It has a, notes, old."),
        ("search_text", "*", "A path is not a pattern: leave it out to look everywhere, or use `search_files`."),
        ("read_text_file", "secret", "It has a, notes, old."),
        ("read_text_file", "hidden.txt", "It has a, notes, old."),
    ],
)
async def test_a_missing_path_is_answered_with_what_may_have_been_meant(
    root: Path, tool: str, path: str, hint: str
) -> None:
    for folder in ("notes", "old/letters", "a/.git"):
        (root / folder).mkdir(parents=True)
    for name in ("notes/dishwasher-manual.txt", "notes/todo.txt", "notes/Todo.md", "a/.git/hidden.txt"):
        (root / name).write_text("x", encoding="utf-8")
    arguments = {"text": "x"} if tool == "search_text" else {}
    text, is_error = await ask_once(build_server(str(root)), tool, path=path, **arguments)
    assert is_error and text.endswith(f" does not exist in {str(Path(path).parent)!r}. {hint}")


async def test_the_search_for_a_missing_name_is_bounded(root: Path) -> None:
    deep = root
    for _ in range(60):
        deep = deep / "d"
        deep.mkdir()
    (root / "many").mkdir()
    for number in range(MAX_COMPARED_NAMES + 10):
        (root / "many" / f"wanted-{number}").touch()
    text, is_error = await ask_once(build_server(str(root)), "read_text_file", path="wanted.txt")
    assert is_error and text.count("wanted-") == 3


async def test_a_text_that_no_line_has_is_found_in_names(root: Path) -> None:
    (root / "photos").mkdir()
    (root / "photos" / "Porto-Bridge.jpg").write_bytes(b"\0")
    async with Client(build_server(str(root))) as client:
        ask = asker(client)
        assert await ask("search_text", text="bridge") == (
            "no match in 1 files\n(in names: photos/Porto-Bridge.jpg)",
            False,
        )
        assert "in names" not in (await ask("search_text", text="br"))[0]
        assert "in names" not in (await ask("search_text", text="bridge", regex=True))[0]
        (root / "bridge.txt").write_text("the bridge", encoding="utf-8")
        assert (await ask("search_text", text="bridge"))[0].startswith("bridge.txt:1: the bridge")


async def test_line_windows(root: Path) -> None:
    (root / "n.txt").write_text("".join(f"{n}\n" for n in range(1, 1001)), encoding="utf-8")
    async with Client(build_server(str(root))) as client:
        ask = asker(client)
        whole, _ = await ask("read_text_file", path="n.txt")
        assert whole.startswith("n.txt: 1000 lines, here 1 to 500; go on with offset=501\n1\n")
        middle, _ = await ask("read_text_file", path="n.txt", offset=999, limit=1)
        assert middle == "n.txt: 1000 lines, here 999 to 999; go on with offset=1000\n999\n"
        last, _ = await ask("read_text_file", path="n.txt", tail=2)
        assert last == "n.txt: 1000 lines, here 999 to 1000\n999\n1000\n"
        past, is_error = await ask("read_text_file", path="n.txt", offset=1001)
        assert is_error and "1000 lines" in past
        assert "lines: 1000" in (await ask("file_info", path="n.txt"))[0]


@pytest.mark.parametrize(
    ("data", "lines"), [(b"", 0), (b"\n", 1), (b"a", 1), (b"a\n", 1), (b"a\nb", 2), (b"\n\n", 2)]
)
async def test_lines_are_counted_as_editors_do(root: Path, data: bytes, lines: int) -> None:
    (root / "f").write_bytes(data)
    async with Client(build_server(str(root))) as client:
        assert f"lines: {lines}" in (await asker(client)("file_info", path="f"))[0]
        text, is_error = await asker(client)("read_text_file", path="f")
        assert (text, is_error) == (f"f: {lines} lines\n{data.decode()}", False)


def test_windows_agree_with_a_list_of_lines_across_block_borders(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_servers.filesystem.reading.BLOCK_BYTES", 7)
    lines = [f"line {n}".ljust(n % 11) + "\n" for n in range(40)]
    (root / "f").write_text("".join(lines), encoding="utf-8")
    served = Root(str(root))
    for first in range(1, 41):
        for count in (1, 2, 13, 100):
            window = read_window(served, ("f",), first, count, 0, Limits())
            assert window.text == "".join(lines[first - 1 : first - 1 + count])
            assert window.last_line == min(first + count - 1, 40)


async def test_a_read_is_capped_and_says_where_to_go_on(root: Path) -> None:
    (root / "wide").write_text(("x" * 999 + "\n") * 10, encoding="utf-8")
    (root / "one").write_text("\u00e9" * 10_000, encoding="utf-8")
    async with Client(build_server(str(root), limits=Limits(max_text_bytes=4_501))) as client:
        text, _ = await asker(client)("read_text_file", path="wide")
        assert text.startswith("wide: 10 lines, here 1 to 4; go on with offset=5\n") and len(text) < 4_600
        text, _ = await asker(client)("read_text_file", path="one")
        assert "the line is too long and was cut" in text and len(text) < 2_400


async def test_binary_and_too_large_files_are_refused(root: Path) -> None:
    (root / "b").write_bytes(b"\x7fELF\0\0")
    (root / "large").touch()
    os.truncate(root / "large", 10**9)
    async with Client(build_server(str(root))) as client:
        ask = asker(client)
        assert "binary" in (await ask("read_text_file", path="b"))[0]
        assert "larger" in (await ask("read_text_file", path="large"))[0]
        assert "size: 1000000000 bytes" in (await ask("file_info", path="large"))[0]


async def test_a_file_that_grows_is_read_to_its_size_at_the_start(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root / "log"
    path.write_text("1\n2\n", encoding="utf-8")
    grown = False

    def grow_then_probe(file: object) -> bool:
        nonlocal grown
        with path.open("a", encoding="utf-8") as log:
            log.write("3\n" * 100)
        grown = True
        return False

    monkeypatch.setattr("mcp_servers.filesystem.reading.is_binary", grow_then_probe)
    window = read_window(Root(str(root)), ("log",), 1, 2, 0, Limits())
    assert grown and window.text == "1\n2\n"


async def test_names_that_are_not_utf8_or_hold_controls_are_listed_on_one_line(root: Path) -> None:
    (root / os.fsdecode(b"bad\xff")).touch()
    (root / "two\nlines").touch()
    (root / "bidi\u202egnp.exe").touch()
    text, is_error = await ask_once(build_server(str(root)), "list_directory")
    assert not is_error
    assert text == "a/\nbad\\xff (0 bytes)\nbidi\\u202egnp.exe (0 bytes)\ntwo\\nlines (0 bytes)"


async def test_unicode_twins_are_two_files(root: Path) -> None:
    (root / "\u00e9").write_text("composed", encoding="utf-8")
    (root / "e\u0301").write_text("decomposed", encoding="utf-8")
    async with Client(build_server(str(root))) as client:
        assert "\ncomposed" in (await asker(client)("read_text_file", path="\u00e9"))[0]
        assert "\ndecomposed" in (await asker(client)("read_text_file", path="e\u0301"))[0]


async def test_trees_and_listings_are_capped(root: Path) -> None:
    for number in range(30):
        (root / "a" / f"{number:02}").touch()
    async with Client(build_server(str(root), limits=Limits(max_entries=10))) as client:
        text, _ = await asker(client)("tree")
        assert text.count("\n") == 10 and "more entries not shown" in text
        text, _ = await asker(client)("search_files", pattern="0*", path="a")
        assert text.split("\n")[0] == "a/00 (0 bytes)"
    async with Client(build_server(str(root), limits=Limits(max_walked=5))) as client:
        assert "more entries not shown" in (await asker(client)("search_files", pattern="nothing"))[0]


async def test_a_tree_shows_only_the_levels_asked_for(root: Path) -> None:
    (root / "a" / "b" / "c").mkdir(parents=True)
    async with Client(build_server(str(root))) as client:
        assert await asker(client)("tree", depth=2) == ("a/\na/b/\na/inside.txt (7 bytes)", False)


async def test_text_search_plain_and_regular(root: Path) -> None:
    (root / "a" / "code.py").write_text("def Main():\n    main = 1\n", encoding="utf-8")
    (root / "bin").write_bytes(b"\0main")
    async with Client(build_server(str(root))) as client:
        ask = asker(client)
        assert await ask("search_text", text="main") == ("a/code.py:2:     main = 1", False)
        both, _ = await ask("search_text", text="MAIN", ignore_case=True)
        assert both.startswith("a/code.py:1: def Main():\na/code.py:2:") and both.endswith("\n(2 lines)")
        assert await ask("search_text", text=r"^def \w+", regex=True) == ("a/code.py:1: def Main():", False)
        assert await ask("search_text", text="main", files="*.md") == ("no match in 0 files", False)
        otherwise, _ = await ask("search_text", text="MAIN")
        assert otherwise == f"{both}\n(in another case than asked for)"
        assert (await ask("search_text", text="^MAIN", regex=True))[0].startswith("no match in ")
        assert (await ask("search_text", text="^DEF main", regex=True))[0].startswith(
            "a/code.py:1: def Main():\n(in"
        )
        assert await ask("search_text", text="Main", path="a/code.py") == ("a/code.py:1: def Main():", False)
        text, is_error = await ask("search_text", text="(", regex=True)
        assert is_error and "not a regular expression" in text
        assert (await ask("search_text", text=""))[1]
        assert (await ask("search_text", text="x", path="nowhere"))[1]


async def test_a_catastrophic_pattern_is_stopped_and_the_server_lives(root: Path) -> None:
    (root / "evil").write_text("a" * 64 + "b\n", encoding="utf-8")
    async with Client(build_server(str(root), limits=Limits(search_timeout_s=0.5))) as client:
        text, is_error = await asker(client)("search_text", text="(a+)+$", regex=True)
        assert is_error and "took too long" in text
        assert "evil:1:" in (await asker(client)("search_text", text="aab"))[0]


async def test_a_line_that_was_cut_says_so(root: Path) -> None:
    (root / "wide").write_text(f"{'x' * 200}\n{'x' * 201}\n", encoding="utf-8")
    async with Client(build_server(str(root))) as client:
        text, _ = await asker(client)("search_text", text="xxx", path="wide")
        assert text == f"wide:1: {'x' * 200}\nwide:2: {'x' * 199}…\n(2 lines)"


async def test_matches_are_capped(root: Path) -> None:
    (root / "many").write_text("x\n" * 1_000, encoding="utf-8")
    async with Client(build_server(str(root), limits=Limits(max_matches=3))) as client:
        for regex in (False, True):
            text, _ = await asker(client)("search_text", text="x", regex=regex)
            assert text.count("\n") == 3 and "stopped at a limit" in text


async def test_a_folder_is_no_file_and_no_descriptor_is_left(root: Path) -> None:
    (root / "folder").mkdir(exist_ok=True)
    async with Client(build_server(str(root), write=True)) as client:
        ask = asker(client)
        await ask("read_text_file", path="folder")
        gc.collect()  # what tests before this one left open is closed now, not while it counts
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        for tool, more in 10 * (("read_text_file", {}), ("edit_file", {"old_text": "a", "new_text": "b"})):
            text, is_error = await ask(tool, path="folder", **more)
            assert is_error
            assert "folder" in text
        assert not before or len(os.listdir("/proc/self/fd")) < before + 10  # each call would leave one
