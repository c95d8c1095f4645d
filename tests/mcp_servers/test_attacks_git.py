"""Attacks on the git server by trees, commits, references, names, links, pipes and configuration.

One server serves one repository, which every attack spoils and which is made new after it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from mcp import Client

from mcp_servers.answers import MAX_BYTES
from mcp_servers.git.policy import Limits
from mcp_servers.git.server import build_server
from tests.mcp_servers.attack_bounds import assert_plain, cpu_at_most
from tests.mcp_servers.git_repository import commit_all, git, new_repository
from tests.mcp_servers.server_harness import Ask, asker

pytestmark = pytest.mark.anyio

SECRET = "the-secret-beside-the-repository"
MAIN = "On branch main\nNothing to commit, working tree clean"
IMPATIENT = Limits(timeout_s=1.5)
SUBJECT = re.compile(r"[0-9a-f]{10} 2026-03-01T10:00:00\+01:00 Ann Lee \(HEAD -> main\): Second")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository from which the attacked one is made anew."""
    folder = new_repository(tmp_path_factory.mktemp("git") / "sound")
    shutil.rmtree(folder / ".git/hooks")
    return folder


@pytest.fixture(scope="module")
def served(sound: Path) -> Path:
    """The folder that is served, beside a folder with a secret."""
    (sound.parent / "outside").mkdir()
    (sound.parent / "outside/secret.txt").write_text(SECRET)
    return Path(shutil.copytree(sound, sound.parent / "served"))


@pytest.fixture(scope="module")
async def serve(served: Path) -> AsyncIterator[Ask]:
    server = build_server(str(served), write=True, author="Bo <bo@example.org>", limits=Limits(timeout_s=60.0))
    async with Client(server) as client:
        yield asker(client)


def renewed(served: Path, sound: Path) -> None:
    """Make the served repository what it was."""
    for entry in served.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    shutil.copytree(sound, served, dirs_exist_ok=True, symlinks=True)


@pytest.fixture
def folder(served: Path, sound: Path) -> Path:
    renewed(served, sound)
    return served


@pytest.fixture
async def ask(serve: Ask, folder: Path, sound: Path) -> AsyncIterator[Ask]:
    """The server; after the attack nothing lies outside, and on a sound repository it answers as ever."""

    async def bounded(tool: str, **arguments: object) -> tuple[str, bool]:
        with cpu_at_most(2.0):
            text, is_error = await serve(tool, **arguments)
        assert SECRET not in text and str(folder.parent) not in text
        assert_plain(text, max_chars=MAX_BYTES + 200)
        return text, is_error

    yield bounded
    assert os.listdir(folder.parent / "outside") == ["secret.txt"]
    assert (folder.parent / "outside/secret.txt").read_text() == SECRET
    renewed(folder, sound)
    assert await serve("git_status") == (MAIN, False)


# -- trees that no git would write


def blob(folder: Path, content: bytes) -> str:
    return git(folder, "hash-object", "-w", "--stdin", given=content).strip()


def raw_tree(folder: Path, *entries: tuple[bytes, bytes, str]) -> str:
    data = b"".join(mode + b" " + name + b"\0" + bytes.fromhex(made) for mode, name, made in entries)
    return git(folder, "hash-object", "-t", "tree", "-w", "--stdin", "--literally", given=data).strip()


def branch_of(folder: Path, tree: str) -> None:
    """Make a branch `trap` whose commit has this tree."""
    git(folder, "update-ref", "refs/heads/trap", git(folder, "commit-tree", "-m", "Trap", tree).strip())


REFUSED = [
    b"..", b".git", b".GIT", b".gIt", b".git ", b".git.", b"git~1", b"GIT~1", b".", b"", b".git\\hooks",
    b".g\xe2\x80\x8cit", b".\xe2\x80\xaegit", b".git::$INDEX_ALLOCATION",
    b"a/../../outside/evil", b"/etc/evil", b".git/hooks/post-checkout",
]  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
async def test_no_name_in_a_tree_is_written_outside_or_into_the_repository_s_own_folder(
    name: bytes, folder: Path, ask: Ask
) -> None:
    evil = blob(folder, b"evil")
    if b"/" in name:
        tree = raw_tree(folder, (b"100755", name, evil))
    else:
        tree = raw_tree(folder, (b"40000", name, raw_tree(folder, (b"100755", b"evil", evil))))
    branch_of(folder, tree)
    for tool in ("git_list_files", "git_show"):
        await ask(tool, revision="trap")
    text, is_error = await ask("git_switch", name="trap")
    if not is_error:  # Git leaves the file out
        assert name in (b"", b"."), text
    assert not list(folder.rglob("evil")) and not (folder / ".git/hooks").exists()
    assert not Path("/etc/evil").exists()
    if is_error:
        assert (await ask("git_status"))[0] == MAIN


async def test_a_tree_with_a_link_and_a_folder_of_one_name_is_not_written_through_the_link(
    folder: Path, ask: Ask
) -> None:
    inner = raw_tree(folder, (b"100644", b"evil", blob(folder, b"evil")))
    for name in (b"x", b"X"):
        branch_of(
            folder, raw_tree(folder, (b"120000", b"x", blob(folder, b"../outside")), (b"40000", name, inner))
        )
        await ask("git_switch", name="trap")
        await ask("git_switch", name="main")


@pytest.mark.parametrize("target", ["../outside", "/", ".git", ".git/hooks"])
async def test_a_file_of_a_commit_is_not_written_through_a_link_that_lies_there(
    target: str, folder: Path, ask: Ask
) -> None:
    inner = raw_tree(folder, (b"100644", b"evil", blob(folder, b"evil")))
    branch_of(folder, raw_tree(folder, (b"40000", b"src", inner), (b"40000", b"d", inner)))
    (folder / "d").symlink_to(target)
    text, is_error = await ask("git_switch", name="trap")
    assert is_error and "untracked working tree files" in text
    assert not list((folder / ".git").rglob("evil")) and not Path("/evil").exists()


# -- commits that no git would write


def raw_commit(
    folder: Path, *, author: bytes = b"Ann <a@x> 1700000000 +0100", message: bytes = b"m", extra: bytes = b""
) -> None:
    """Make HEAD a commit of these bytes."""
    tree = git(folder, "rev-parse", "HEAD^{tree}").strip().encode()
    data = b"tree " + tree + b"\nauthor " + author + b"\ncommitter " + author + b"\n" + extra + b"\n" + message
    name = git(folder, "hash-object", "-t", "commit", "-w", "--stdin", "--literally", given=data).strip()
    git(folder, "update-ref", "HEAD", name)


@pytest.mark.parametrize(
    "commit",
    [
        {"author": b"A\0B <a@x> 1 +0000", "message": b"shown\0hidden"},
        {"author": b"A <a@x> 99999999999999999999 +9999"},
        {"author": b"A <a@x> -1 -9999"},
        {"author": b""},
        {"author": b"no mail at all"},
        {"author": b"\x1b]0;title\x07 <\x9b2J> 1 +0000"},
        {"author": b"A\xef\xb8\x80\xf3\xa0\x84\x80\xe3\x85\xa4 <a@x> 1 +0000"},
        {"message": b"+AH4-\x1b[2J", "extra": b"encoding UTF-7\n"},
        {"message": "bad\u202e\u2028".encode("utf-16-le"), "extra": b"encoding UTF-16LE\n"},
        {"message": b"\x1b$B", "extra": b"encoding ISO-2022-JP\n"},
        {"message": b"x", "extra": b"encoding " + b"y" * 1_000_000 + b"\n"},
        {"message": b"x\x0b2nd\x0c3rd\xc2\x854th\xe2\x80\xa85th\r6th"},
        {"message": b"x" * 5_000_000},
        {"message": b"x\n" * 1_000_000},
        {"author": b"A" * 3_000_000 + b" <a@x> 1 +0000"},
        {"extra": b"gpgsig x\n" + b" y\n" * 100_000},
    ],
    ids=lambda commit: ascii(commit)[:60],
)
async def test_a_commit_of_any_bytes_is_one_short_line_of_the_log(
    commit: dict[str, bytes], folder: Path, ask: Ask
) -> None:
    raw_commit(folder, **commit)
    text, is_error = await ask("git_log", limit=1)
    if is_error:  # this git does not take a header of so many bytes
        return
    assert len(text.splitlines()) <= 2 and len(text) < 25_000, text[:300]
    await ask("git_show")
    await ask("git_blame", path="readme.md")
    await ask("git_branches")


# -- names of files and references


@pytest.mark.parametrize(
    "name",
    [
        "a\nOn branch evil", "a\rx", "a\u2028x", "a\x0bx", "a\x85x", "a\x1b[2Jx", "a\ufe0f\u3164x", "a\tx", '"a"',
        "a -> b", "(clean)", "\u202ea",
    ],
)  # fmt: skip
async def test_a_file_s_name_adds_no_line_and_hides_nothing(name: str, folder: Path, ask: Ask) -> None:
    (folder / name).write_text("x\n", encoding="utf-8")
    status, _ = await ask("git_status")
    assert len(status.splitlines()) == 3, status
    added, is_error = await ask("git_add", paths=[name])
    assert is_error == bool(re.search(r"[\x00-\x1f]", name)), added
    assert len(added.splitlines()) == (1 if is_error else 4), added
    if is_error:
        added, is_error = await ask("git_add", paths=["."])
        assert not is_error and len(added.splitlines()) == 4, added
    staged, _ = await ask("git_diff", staged=True)
    assert len([line for line in staged.splitlines() if line.startswith("+++")]) == 1
    assert not any(line.startswith("On branch") for line in staged.splitlines())
    commit_all(folder, "Odd")
    assert len((await ask("git_list_files"))[0].splitlines()) == 3
    assert len((await ask("git_log", limit=1))[0].splitlines()) <= 2


def head_is(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / ".git/HEAD").write_text(text.format(outside=folder.parent / "outside"))


def loop_of_references(folder: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (folder / f".git/refs/heads/{name}").write_text(f"ref: refs/heads/{other}\n")
    (folder / ".git/HEAD").write_text("ref: refs/heads/a\n")


def chain_of_references(folder: Path) -> None:
    for number in range(500):
        (folder / f".git/refs/heads/r{number}").write_text(f"ref: refs/heads/r{number + 1}\n")
    (folder / ".git/HEAD").write_text("ref: refs/heads/r0\n")


def many_references(folder: Path) -> None:
    head = git(folder, "rev-parse", "HEAD").strip().encode()
    lines = [head + b" refs/heads/e%05d%s\n" % (number, b"x" * 200) for number in range(3_000)]
    (folder / ".git/packed-refs").write_bytes(b"# pack-refs with: peeled fully-peeled sorted \n" + b"".join(lines))


def hidden_references(folder: Path) -> None:
    head = git(folder, "rev-parse", "HEAD").strip()
    for number, hidden in enumerate(("\ufe0f\ufe0f", "\u3164", "\u2028", "\x85", "\u202e")):
        (folder / f".git/refs/heads/e{number}{hidden}x").write_text(head + "\n")


REFERENCES: dict[str, Callable[[Path], object]] = {
    "up": head_is("ref: refs/heads/../../../outside/secret.txt\n"),
    "absolute": head_is("ref: {outside}/secret.txt\n"),
    "a file of this folder": head_is("ref: config\n"),
    "escape codes": head_is("ref: refs/heads/\x1b[2J\n"),
    "no reference": head_is("x" * 1_000_000),
    "empty": head_is(""),
    "a loop": loop_of_references,
    "a long chain": chain_of_references,
    "many": many_references,
    "hidden characters": hidden_references,
}


@pytest.mark.parametrize("name", REFERENCES)
async def test_references_lead_nowhere_else_and_answers_stay_short(name: str, folder: Path, ask: Ask) -> None:
    REFERENCES[name](folder)
    await ask("git_status")
    await ask("git_log")
    text, is_error = await ask("git_show", revision="nothing")
    assert is_error and len(text) < 2_000
    await ask("git_create_branch", name="c")
    text, _ = await ask("git_branches")
    assert all(
        re.match(r"[* ] \S+ +[0-9a-f]{10} 2026-03-01 |\d+ |\(|git:|The |Page |[A-Z]", line)
        for line in text.splitlines()
    )


# -- links of the working tree


def link_of_a_folder(folder: Path, outside: Path) -> None:
    (folder / "docs").mkdir()
    (folder / "docs/secret.txt").write_text("old\n")
    commit_all(folder, "Documents")
    shutil.rmtree(folder / "docs")
    (folder / "docs").symlink_to(outside)


def link_of(name: str) -> Callable[[Path, Path], object]:
    def arrange(folder: Path, outside: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(f"../{outside.name}/secret.txt")

    return arrange


LINKS: dict[str, Callable[[Path, Path], object]] = {
    "a tracked folder": link_of_a_folder,
    **{name: link_of(name) for name in ("readme.md", ".gitignore", ".gitattributes", ".gitmodules", ".mailmap")},
}


@pytest.mark.parametrize("name", LINKS)
async def test_nothing_is_read_through_a_link_of_the_working_tree(name: str, folder: Path, ask: Ask) -> None:
    LINKS[name](folder, folder.parent / "outside")
    for paths in (["docs/secret.txt"], [name], ["."]):
        await ask("git_add", paths=paths)
        await ask("git_diff", staged=True)
    await ask("git_commit", message="All")
    assert SECRET not in git(folder, "log", "-p", "--all")
    for tool in ("git_status", "git_diff", "git_log", "git_show"):
        await ask(tool)
    await ask("git_blame", path="readme.md")


# -- pipes, which never end


@pytest.mark.parametrize(
    "name", [".git/HEAD", ".git/index", ".git/shallow", ".git/objects/info/commit-graph", ".gitattributes"]
)
async def test_a_pipe_in_place_of_a_file_ends_the_call_and_not_the_server(
    name: str, folder: Path, sound: Path
) -> None:
    (folder / name).unlink(missing_ok=True)
    server = build_server(str(folder), limits=IMPATIENT)
    async with Client(server) as client:
        os.mkfifo(folder / name)
        text, is_error = await asker(client)("git_status")
        assert is_error
        assert "was stopped" in text
        renewed(folder, sound)
        text, is_error = await asker(client)("git_branches")
        assert not is_error or "was stopped" in text  # a busy machine takes more than this time
    assert not list(git_processes(folder))


def git_processes(folder: Path) -> list[str]:
    """The command lines of running processes that work in a folder."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder:
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


# -- keys of the configuration that change what is printed


@pytest.fixture(scope="module")
async def expected(serve: Ask, served: Path, sound: Path) -> list[str]:
    """What the server says of a changed file when the configuration says nothing."""
    renewed(served, sound)
    return await printed(serve, served)


async def printed(ask: Ask, folder: Path) -> list[str]:
    (folder / "readme.md").write_text("# Title \n\nchanged\n")
    (folder / "sch\u00f6n.txt").write_text("new\n")
    return [
        (await ask("git_status"))[0],
        (await ask("git_log", path="src/main.py"))[0],
        (await ask("git_diff"))[0],
        (await ask("git_show"))[0],
        (await ask("git_blame", path="src/main.py"))[0],
    ]


CONFIGURED: list[dict[str, str]] = [
    {
        "diff.wordRegex": "(a+)+$",
        "status.showUntrackedFiles": "no",
        "diff.ignoreSubmodules": "all",
        "core.commentChar": "evil",
        "core.attributesFile": "/etc/passwd",
        "diff.indentHeuristic": "false",
    },
    {
        "color.ui": "always",
        "log.decorate": "full",
        "status.relativePaths": "false",
        "core.abbrev": "4",
        "core.fileMode": "false",
        "mailmap.file": "/etc/passwd",
        "log.diffMerges": "on",
    },
    {
        "diff.noprefix": "true",
        "log.showRoot": "false",
        "diff.orderFile": "/etc/passwd",
        "diff.external": "touch evil",
        "core.symlinks": "false",
        "blame.ignoreRevsFile": "/etc/passwd",
        "diff.dirstat": "0,lines,cumulative",
    },
    {
        "diff.mnemonicPrefix": "true",
        "blame.showEmail": "true",
        "diff.relative": "true",
        "diff.statGraphWidth": "-1",
        "core.ignoreCase": "true",
        "trace2.eventTarget": "evil",
        "diff.renames": "copies",
    },
    {
        "log.date": "format:evil",
        "blame.date": "format:evil",
        "diff.srcPrefix": "evil/",
        "log.follow": "true",
        "core.whitespace": "-trailing",
        "core.splitIndex": "true",
    },
    {
        "format.pretty": "%(trailers)evil",
        "column.ui": "always",
        "diff.interHunkContext": "99999999",
        "log.mailmap": "true",
        "i18n.logOutputEncoding": "UTF-16",
        "core.untrackedCache": "true",
    },
    {
        "core.quotePath": "true",
        "status.short": "true",
        "diff.context": "0",
        "log.excludeDecoration": "*",
        "core.pager": "touch evil",
        "feature.manyFiles": "true",
    },
    {
        "diff.colorMoved": "zebra",
        "status.branch": "false",
        "diff.submodule": "log",
        "diff.suppressBlankEmpty": "true",
        "core.excludesFile": "/etc/passwd",
        "diff.algorithm": "patience",
    },
]
"""Several keys at once: a key that changed something would not be hidden by others that change nothing."""


@pytest.mark.parametrize("keys", CONFIGURED, ids=", ".join)
async def test_no_key_changes_what_is_shown(
    keys: dict[str, str], expected: list[str], folder: Path, ask: Ask
) -> None:
    for key, value in keys.items():
        git(folder, "config", key, value)
    assert await printed(ask, folder) == expected
    assert not list(folder.rglob("evil*"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("core.repositoryFormatVersion", "99"), ("extensions.objectFormat", "sha256"), ("extensions.refStorage", "reftable"),
        ("extensions.worktreeConfig", "true"), ("core.bare", "true"), ("extensions.evil\x1b", "x"), ("core.compression", "99"),
        ("core.packedGitLimit", "99g"), ("index.version", "99"), ("core.abbrev", "\x1b[2J"), ("core.bigFileThreshold", "-1"),
        ("include.path", "../../outside/secret.txt"), ("includeIf.gitdir:/.path", "../../outside/secret.txt"),
        ("core.worktree", "../../outside"), ("core.sparseCheckout", "true"), ("pack.threads", "4096"),
    ],
)  # fmt: skip
async def test_a_configuration_that_git_refuses_is_an_answer_and_shows_nothing_of_it(
    key: str, value: str, folder: Path, ask: Ask
) -> None:
    with (folder / ".git/config").open("a") as config:
        section, _, name = key.rpartition(".")
        outer, dot, inner = section.partition(".")
        config.write(f"[{outer}{f' {inner!r}'.replace(chr(39), chr(34)) if dot else ''}]\n\t{name} = {value}\n")
    for tool in ("git_status", "git_log", "git_diff", "git_show", "git_branches"):
        await ask(tool)
    await ask("git_add", paths=["."])
    await ask("git_create_branch", name="topic")
