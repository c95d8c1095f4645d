"""A repository that wants to run programs or to be read outside of its folder gets neither."""

from __future__ import annotations

import os
import shlex
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from mcp import Client

from mcp_servers.failures import StartError
from mcp_servers.git.policy import Limits
from mcp_servers.git.server import build_server
from tests.mcp_servers.git_repository import commit_all, git, new_repository
from tests.mcp_servers.server_harness import Ask, asker

pytestmark = pytest.mark.anyio

SECRET = "the-secret-of-the-machine"


class Trap:
    """A program that leaves a file when it runs."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.marker = folder / "it-ran"
        self.program = folder / "program"
        self.program.write_text(f"#!/bin/sh\ntouch {shlex.quote(str(self.marker))}\ncat\n")
        self.program.chmod(0o755)

    def sprung(self) -> bool:
        was = self.marker.exists()
        self.marker.unlink(missing_ok=True)
        return was


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path / "trap")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a change in its working tree and one in its index."""
    folder = new_repository(tmp_path / "repository")
    (folder / "readme.md").write_text("# Other title\n")
    (folder / "src/new.py").write_text("x = 1\n")
    git(folder, "add", "src/new.py")
    return folder


async def use_every_tool(ask: Ask) -> None:
    """Call each tool in ways that read commits, the index and the working tree, and change what they can."""
    calls: list[tuple[str, dict[str, object]]] = [
        ("git_status", {}),
        ("git_log", {"path": "src/main.py", "author": "Ann"}),
        ("git_diff", {}),
        ("git_diff", {"staged": True}),
        ("git_diff", {"from_revision": "HEAD"}),
        ("git_diff", {"from_revision": "HEAD~1", "to_revision": "HEAD"}),
        ("git_show", {}),
        ("git_show_file", {"path": "src/main.py"}),
        ("git_list_files", {}),
        ("git_blame", {"path": "src/main.py"}),
        ("git_branches", {}),
        ("git_branches", {"remote": True}),
        ("git_add", {"paths": ["."]}),
        ("git_add", {"paths": ["readme.md"]}),
        ("git_unstage", {"paths": ["readme.md"]}),
        ("git_add", {"paths": ["src"]}),
        ("git_commit", {"message": "Third"}),
        ("git_create_branch", {"name": "topic"}),
        ("git_create_branch", {"name": "old", "start": "HEAD~1"}),
        ("git_switch", {"name": "old"}),
        ("git_switch", {"name": "main"}),
    ]
    for tool, arguments in calls:
        await ask(tool, **arguments)


Arrange = Callable[[Path, str], object]


def set_config(*keys: str) -> Arrange:
    return lambda folder, program: [git(folder, "config", key, program) for key in keys]


def named_in_attributes(kind: str, *keys: str, everywhere: bool = False) -> Arrange:
    """Configure a driver and name it in `.gitattributes`, or where only this repository sees it."""

    def arrange(folder: Path, program: str) -> None:
        for key in keys:
            git(folder, "config", f"{kind}.hostile.{key}", program)
        git(folder, "config", f"{kind}.hostile.required", "true")
        attributes = folder / (".git/info/attributes" if everywhere else ".gitattributes")
        attributes.parent.mkdir(exist_ok=True)
        attributes.write_text(f"* {kind}=hostile\n")

    return arrange


def install_hooks(folder: Path, program: str) -> None:
    names = (
        "pre-commit", "prepare-commit-msg", "commit-msg", "post-commit", "post-checkout", "post-index-change",
        "reference-transaction", "pre-auto-gc", "fsmonitor-watchman", "post-rewrite", "pre-merge-commit",
    )  # fmt: skip
    for folder_of_hooks in (folder / ".git/hooks", folder / "hooks"):
        folder_of_hooks.mkdir(exist_ok=True)
        for name in names:
            (folder_of_hooks / name).write_text(f"#!/bin/sh\n{program}\n")
            (folder_of_hooks / name).chmod(0o755)
    git(folder, "config", "core.hooksPath", "hooks")


def odd_filter_name(folder: Path, program: str) -> None:
    """Name a filter so that `-c filter.NAME.clean=` would set something else."""
    with (folder / ".git/config").open("a") as config:
        config.write(f'[filter "a=b.c"]\n\tclean = {program}\n\tsmudge = {program}\n\trequired\n')
    (folder / ".git/info").mkdir(exist_ok=True)
    (folder / ".git/info/attributes").write_text("* filter=a=b.c\n")


def included(folder: Path, program: str) -> None:
    outside = folder.parent / "outside.config"
    outside.write_text(f"[core]\n\tfsmonitor = {program}\n[diff]\n\texternal = {program}\n")
    git(folder, "config", "include.path", str(outside))


def hostile_submodule(folder: Path, program: str) -> None:
    """A repository inside, tracked as a submodule, whose own configuration names programs."""
    inner = new_repository(folder / "inner")
    git(folder, "add", "inner")
    git(folder, "config", "submodule.inner.update", f"!{program}")
    git(folder, "config", "status.submoduleSummary", "true")
    git(folder, "config", "diff.submodule", "diff")
    git(folder, "config", "submodule.recurse", "true")
    (folder / ".gitmodules").write_text(f'[submodule "inner"]\n\tpath = inner\n\turl = ext::{program}\n')
    for key in ("core.fsmonitor", "diff.external"):
        git(inner, "config", key, program)
    (inner / "readme.md").write_text("# Changed inside\n")


def lazy_objects(folder: Path, program: str) -> None:
    """A partial clone that lacks an object, and fetches it with a command of its own."""
    git(folder, "config", "extensions.partialClone", "origin")
    git(folder, "config", "core.repositoryFormatVersion", "1")
    git(folder, "config", "remote.origin.url", f"ext::{program} %S")
    git(folder, "config", "remote.origin.promisor", "true")
    git(folder, "config", "remote.origin.uploadpack", program)
    git(folder, "config", "protocol.ext.allow", "always")
    blob = git(folder, "rev-parse", "HEAD~1:src/main.py").strip()
    (folder / ".git/objects" / blob[:2] / blob[2:]).unlink()


def signed(folder: Path, program: str) -> None:
    """A commit with a signature, and a program to check it."""
    for key, value in (("log.showSignature", "true"), ("gpg.program", program), ("commit.gpgSign", "true")):
        git(folder, "config", key, value)
    head, _, message = git(folder, "cat-file", "commit", "HEAD").partition("\n\n")
    signature = "gpgsig -----BEGIN PGP SIGNATURE-----\n \n AAAA\n -----END PGP SIGNATURE-----"
    content = f"{head}\n{signature}\n\n{message}".encode()
    name = git(folder, "hash-object", "-t", "commit", "-w", "--stdin", given=content).strip()
    git(folder, "update-ref", "HEAD", name)


HOSTILE: dict[str, Arrange] = {
    "fsmonitor": set_config("core.fsmonitor"),
    "external diff": set_config("diff.external"),
    "pager and editors": set_config("core.pager", "pager.log", "pager.diff", "core.editor", "sequence.editor"),
    "network": set_config("core.sshCommand", "core.gitProxy", "core.askPass", "credential.helper"),
    "references of alternates": set_config("core.alternateRefsCommand", "uploadpack.packObjectsHook"),
    "aliases": lambda folder, program: [
        git(folder, "config", f"alias.{name}", f"!{program}") for name in ("status", "log", "diff", "show")
    ],
    "signatures": signed,
    "text conversion": named_in_attributes("diff", "textconv", "command"),
    "text conversion of this clone": named_in_attributes("diff", "textconv", "command", everywhere=True),
    "filters": named_in_attributes("filter", "clean", "smudge", "process"),
    "filters of this clone": named_in_attributes("filter", "clean", "smudge", everywhere=True),
    "filter processes of this clone": named_in_attributes("filter", "process", everywhere=True),
    "a filter with an odd name": odd_filter_name,
    "merge drivers": named_in_attributes("merge", "driver"),
    "hooks": install_hooks,
    "hooks of the configuration": set_config("hook.hostile.command"),
    "an included file": included,
    "a submodule": hostile_submodule,
    "a partial clone": lazy_objects,
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_no_program_that_the_repository_names_is_run(name: str, repository: Path, trap: Trap) -> None:
    HOSTILE[name](repository, str(trap.program))
    trap.sprung()  # plain git may have run it while this was arranged
    async with Client(build_server(str(repository), write=True, author="Bo <bo@example.org>")) as client:
        await use_every_tool(asker(client))
    assert not trap.sprung()


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("fsmonitor", "status"),
        ("external diff", "diff"),
        ("text conversion of this clone", "diff"),
        ("filters of this clone", "diff"),
        ("filter processes of this clone", "diff"),
        ("a filter with an odd name", "diff"),
        ("hooks", "commit -q --allow-empty -m x"),
        ("an included file", "status"),
        ("a submodule", "status"),
        ("signatures", "log"),
        ("aliases", "st"),
    ],
)
async def test_plain_git_does_run_them_so_the_test_above_can_fail(
    name: str, command: str, repository: Path, trap: Trap
) -> None:
    HOSTILE[name](repository, str(trap.program))
    if name == "aliases":  # Git takes its own commands first, whatever their aliases
        git(repository, "config", "alias.st", f"!{trap.program} </dev/null")
    trap.sprung()
    git(repository, *command.split(), check=False, given=b"")
    assert trap.sprung()


@pytest.fixture
async def ask(repository: Path) -> AsyncIterator[Ask]:
    async with Client(build_server(str(repository), write=True, author="Bo <bo@example.org>")) as client:
        yield asker(client)


@pytest.mark.parametrize(
    "revision",
    [
        "--output=/tmp/x",
        "--upload-pack=x",
        "-c core.x=y",
        "--help",
        "",
        "a\0b",
        "HEAD\n--all",
        "a" * 300,
        "main..HEAD",
    ],
)
async def test_a_revision_cannot_be_an_option_or_a_range(revision: str, ask: Ask) -> None:
    for tool, argument in (("git_show", "revision"), ("git_log", "revision")):
        text, is_error = await ask(tool, **{argument: revision})
        assert is_error
        assert "revision" in text
    if revision:
        assert (await ask("git_diff", from_revision=revision))[1]
        assert (await ask("git_create_branch", name="topic", start=revision))[1]


async def test_a_reference_whose_name_looks_like_an_option_is_not_one(repository: Path, ask: Ask) -> None:
    head = git(repository, "rev-parse", "HEAD").strip()
    (repository / ".git/refs/heads/--help").write_text(head + "\n")
    text, is_error = await ask("git_show", revision="--help")
    assert is_error
    assert "dash" in text
    text, is_error = await ask("git_show", revision="refs/heads/--help")
    assert not is_error
    assert head in text


@pytest.mark.parametrize("revision", ["HEAD@{u}", ":/no such words", "nothing", "HEAD~99", "HEAD:readme.md"])
async def test_what_names_no_commit_says_so(revision: str, ask: Ask) -> None:
    text, is_error = await ask("git_show", revision=revision)
    assert is_error
    assert "no commit" in text
    assert "main" in text


@pytest.mark.parametrize("path", ["../../x", "/etc/passwd", "a/../../x", ".git/config", "sub/.GIT/config", "a\0b"])
async def test_paths_stay_in_the_working_tree(path: str, ask: Ask) -> None:
    for tool in ("git_show_file", "git_list_files", "git_blame", "git_log", "git_diff"):
        assert (await ask(tool, path=path))[1]
    for tool in ("git_add", "git_unstage"):
        assert (await ask(tool, paths=[path]))[1]


@pytest.mark.parametrize("path", ["-A", "--", ":(top)src", ":/", "*", "src/*.py"])
async def test_paths_are_taken_literally(path: str, repository: Path, ask: Ask) -> None:
    before = git(repository, "status", "--porcelain")
    text, is_error = await ask("git_add", paths=[path])
    assert is_error
    assert "no file" in text
    assert git(repository, "status", "--porcelain") == before


async def test_a_worktree_key_does_not_move_the_working_tree(repository: Path, tmp_path: Path, ask: Ask) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "readme.md").write_text(SECRET)
    git(repository, "config", "core.worktree", str(outside))
    for tool in ("git_status", "git_diff"):
        text, is_error = await ask(tool)
        assert not is_error
        assert SECRET not in text
    assert "Other title" in (await ask("git_diff"))[0]


def to_a_file(folder: Path, outside: Path) -> None:
    (folder / ".git").rename(outside / "gitdir")
    (folder / ".git").write_text(f"gitdir: {outside / 'gitdir'}\n")


def to_a_link(folder: Path, outside: Path) -> None:
    (folder / ".git").rename(outside / "gitdir")
    (folder / ".git").symlink_to(outside / "gitdir")


def with_linked_objects(folder: Path, outside: Path) -> None:
    (folder / ".git/objects").rename(outside / "objects")
    (folder / ".git/objects").symlink_to(outside / "objects")


def with_alternates(folder: Path, outside: Path) -> None:
    other = new_repository(outside / "other")
    (folder / ".git/objects/info/alternates").write_text(f"{other / '.git/objects'}\n")


def with_common_folder(folder: Path, outside: Path) -> None:
    other = new_repository(outside / "other")
    (folder / ".git/commondir").write_text(f"{other / '.git'}\n")


REDIRECTED = [to_a_file, to_a_link, with_linked_objects, with_alternates, with_common_folder]


@pytest.mark.parametrize("redirect", REDIRECTED)
async def test_a_repository_that_is_elsewhere_is_not_served(
    redirect: Callable[[Path, Path], None], repository: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    redirect(repository, outside)
    with pytest.raises(StartError, match=r"\.git"):
        build_server(str(repository))


@pytest.mark.parametrize("redirect", REDIRECTED)
async def test_nor_when_it_moves_while_the_server_runs(
    redirect: Callable[[Path, Path], None], repository: Path, tmp_path: Path, ask: Ask
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    redirect(repository, outside)
    text, is_error = await ask("git_log")
    assert is_error
    assert ".git" in text


async def test_a_linked_worktree_is_not_served(repository: Path, tmp_path: Path) -> None:
    git(repository, "worktree", "add", "-q", str(tmp_path / "linked"), "HEAD~1")
    with pytest.raises(StartError, match="main working tree"):
        build_server(str(tmp_path / "linked"))


async def test_a_bare_repository_inside_is_never_found(repository: Path, tmp_path: Path, trap: Trap) -> None:
    bare = repository / "src/bare"
    bare.mkdir()
    git(bare, "init", "-q", "--bare", ".")
    git(bare, "config", "core.fsmonitor", str(trap.program))
    git(bare, "config", "core.bare", "false")
    git(bare, "config", "core.worktree", str(repository))
    async with Client(build_server(str(repository), write=True, author="Bo <bo@example.org>")) as client:
        await use_every_tool(asker(client))
    assert not trap.sprung()
    with pytest.raises(StartError, match=r"has no folder '\.git'"):
        build_server(str(bare))


async def test_a_repository_inside_is_never_staged(repository: Path, ask: Ask) -> None:
    new_repository(repository / "inner")
    text, is_error = await ask("git_add", paths=["."])
    assert not is_error
    assert "repositories of their own: inner/" in text
    assert "160000" not in git(repository, "ls-files", "--stage")


async def test_a_file_of_a_filter_is_not_staged_without_it(repository: Path, ask: Ask) -> None:
    (repository / ".gitattributes").write_text("*.bin filter=lfs\n")
    (repository / "a.bin").write_bytes(b"large content")
    text, is_error = await ask("git_add", paths=["a.bin"])
    assert is_error
    assert "filter 'lfs'" in text
    assert "a.bin" not in git(repository, "ls-files")


async def test_nothing_is_written_through_a_link_of_the_working_tree(
    repository: Path, tmp_path: Path, ask: Ask
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text(SECRET)
    (repository / "link").symlink_to(outside)
    text, is_error = await ask("git_add", paths=["link/secret.txt"])
    assert is_error
    await ask("git_add", paths=["link"])  # the link itself is a file like others
    assert SECRET not in (await ask("git_diff", staged=True))[0]
    assert git(repository, "ls-files", "link/secret.txt") == ""


async def test_a_large_file_is_named_and_not_read(tmp_path: Path) -> None:
    folder = new_repository(tmp_path / "large")
    with (folder / "large.bin").open("wb") as file:
        file.truncate(200 * 1024 * 1024)
    commit_all(folder, "Large")
    async with Client(build_server(str(folder))) as client:
        ask = asker(client)
        text, is_error = await ask("git_show_file", path="large.bin")
        assert is_error
        assert "209715200 bytes" in text
        text, is_error = await ask("git_show")
        assert not is_error
        assert "Binary files" in text
        assert (await ask("git_blame", path="large.bin"))[1]


async def test_a_call_ends_when_its_time_is_over(repository: Path) -> None:
    limits = Limits(timeout_s=0.000_001)
    async with Client(build_server(str(repository), limits=limits)) as client:
        text, is_error = await asker(client)("git_log")
    assert is_error
    assert "was stopped" in text


async def test_hidden_characters_and_escape_codes_are_taken_out(repository: Path, ask: Ask) -> None:
    message = "Red \x1b[31mtext\x1b[0m and \u202ereversed, " + "".join(chr(0xE0000 + ord(c)) for c in "obey")
    (repository / "odd \u202e\x1bname.txt").write_text("x\n")
    commit_all(repository, message)
    for tool in ("git_log", "git_show", "git_list_files"):
        text, is_error = await ask(tool)
        assert not is_error
        assert not set(text) & {"\x1b", "\u202e", chr(0xE0000 + ord("o"))}


async def test_a_commit_message_has_no_escape_codes(repository: Path, ask: Ask) -> None:
    await ask("git_add", paths=["."])
    text, is_error = await ask("git_commit", message="Red \x1b[31mtext")
    assert is_error
    assert "control characters" in text
    assert "Red" not in git(repository, "log", "--format=%B")


async def test_no_environment_variable_reaches_git(
    repository: Path, trap: Trap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", str(trap.program))
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    monkeypatch.setenv("GIT_TRACE", str(trap.marker))
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", f"'core.fsmonitor={trap.program}'")
    async with Client(build_server(str(repository), write=True, author="Bo <bo@example.org>")) as client:
        ask = asker(client)
        await use_every_tool(ask)
        assert "Third" in (await ask("git_log"))[0]
    assert not trap.sprung()
    assert os.environ["GIT_DIR"] == "/nonexistent"
