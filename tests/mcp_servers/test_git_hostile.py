"""A repository that wants to run programs or to be read outside of its folder gets neither."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest
from mcp import Client

from mcp_servers.confinement.landlock import abi_version
from mcp_servers.failures import StartError
from mcp_servers.git import command
from mcp_servers.git.command import Git
from mcp_servers.git.links import LinkCheck
from mcp_servers.git.policy import ENVIRONMENT, MAX_OVERRIDE_BYTES, Limits
from mcp_servers.git.server import build_server
from tests.mcp_servers.git_repository import commit_all, git, new_repository
from tests.mcp_servers.planted_servers import Served, planted_servers
from tests.mcp_servers.server_harness import Ask, asker

pytestmark = pytest.mark.anyio
needs_landlock = pytest.mark.skipif(not abi_version(), reason="this kernel has no Landlock")

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


def filter_without_a_name(folder: Path, program: str) -> None:
    """Configure `[filter ""]`, the driver that `* filter=` names."""
    with (folder / ".git/config").open("a") as config:
        config.write(
            f'[filter ""]\n\tclean = {program}\n\tsmudge = {program}\n\tprocess = {program}\n\trequired\n'
        )
    (folder / ".git/info").mkdir(exist_ok=True)
    (folder / ".git/info/attributes").write_text("* filter=\n")


def driver_without_a_name(folder: Path, program: str) -> None:
    with (folder / ".git/config").open("a") as config:
        config.write(f'[diff ""]\n\tcommand = {program}\n\ttextconv = {program}\n')
    (folder / ".git/info").mkdir(exist_ok=True)
    (folder / ".git/info/attributes").write_text("* diff=\n")


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
    "a filter without a name": filter_without_a_name,
    "a diff driver without a name": driver_without_a_name,
    "merge drivers": named_in_attributes("merge", "driver"),
    "hooks": install_hooks,
    "hooks of the configuration": set_config("hook.hostile.command"),
    "an included file": included,
    "a submodule": hostile_submodule,
    "a partial clone": lazy_objects,
}


PLAIN_KEYS = (
    "fsmonitor", "external diff", "pager and editors", "network", "references of alternates", "aliases",
    "hooks of the configuration",
)  # fmt: skip
"""Keys that git reads whatever the others are, so one repository has them all."""
TOGETHER = [PLAIN_KEYS, *((name,) for name in HOSTILE if name not in PLAIN_KEYS)]


@pytest.mark.parametrize("names", TOGETHER, ids=", ".join)
async def test_no_program_that_the_repository_names_is_run(
    names: Sequence[str], repository: Path, trap: Trap
) -> None:
    for name in names:
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
        ("a filter without a name", "diff"),
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
        file.truncate(Limits().max_read_bytes + 1)
    commit_all(folder, "Large")
    async with Client(build_server(str(folder))) as client:
        ask = asker(client)
        text, is_error = await ask("git_show_file", path="large.bin")
        assert is_error
        assert "has 8388609 bytes; at most 8388608 are shown" in text
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


# -- a configuration that is not seen as it is


async def test_a_configuration_that_is_too_large_to_be_read_is_not_used(repository: Path, trap: Trap) -> None:
    named_in_attributes("filter", "clean", "smudge", everywhere=True)(repository, str(trap.program))
    config = repository / ".git/config"
    filler = "".join(f'[filler "{n:05}{"x" * 1_000}"]\n\ta = 1\n' for n in range(100))
    config.write_text(filler + config.read_text())  # the filter is behind the first 64 KiB of names
    trap.sprung()
    limits = Limits(max_read_bytes=64 * 1024)
    server = build_server(str(repository), write=True, author="Bo <bo@example.org>", limits=limits)
    async with Client(server) as client:
        ask = asker(client)
        text, is_error = await ask("git_status")
        assert is_error
        assert "configuration take more than 65536 bytes" in text
        await use_every_tool(ask)
    assert not trap.sprung()


@pytest.mark.parametrize("names", [[f"f{n}" for n in range(30_000)], ["x" * MAX_OVERRIDE_BYTES]])
async def test_more_programs_than_can_be_switched_off_are_an_error_that_says_so(
    names: list[str], repository: Path, trap: Trap, ask: Ask
) -> None:
    with (repository / ".git/config").open("a") as config:
        config.writelines(f'[filter "{name}"]\n\tclean = {trap.program}\n' for name in names)
    (repository / ".gitattributes").write_text(f"* filter={names[-1]}\n")
    text, is_error = await ask("git_status")
    assert is_error
    assert f"names {len(names)} filters and drivers" in text
    assert not trap.sprung()


@pytest.fixture(scope="module")
def served_with(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Return a function that starts a real server of a repository, in which some of its checks are made blind."""
    with planted_servers(tmp_path_factory.mktemp("planted")) as served_with:
        yield served_with


@needs_landlock
@pytest.mark.parametrize(
    "name", ["filters of this clone", "filter processes of this clone", "text conversion of this clone"]
)
async def test_no_program_runs_though_the_configuration_changed_after_it_was_listed(
    name: str, repository: Path, trap: Trap, served_with: Served
) -> None:
    """The kernel lets git start nothing but git, whatever the configuration says by then."""
    HOSTILE[name](repository, str(trap.program))
    (repository / "in-here").write_text(trap.program.read_text())
    (repository / "in-here").chmod(0o755)
    for key in ("filter.hostile.clean", "diff.hostile.command"):
        git(repository, "config", key, f"{repository / 'in-here'}")
    trap.sprung()
    async with Client(served_with(repository, "stale configuration")) as client:
        await use_every_tool(asker(client))
    assert not trap.sprung()


async def test_without_the_kernel_it_would_so_the_test_above_can_fail(
    repository: Path, trap: Trap, served_with: Served
) -> None:
    HOSTILE["filters of this clone"](repository, str(trap.program))
    trap.sprung()
    async with Client(served_with(repository, "stale configuration", "no confinement")) as client:
        await asker(client)("git_diff")
    assert trap.sprung()


# -- links and files below .git that lead elsewhere


def log_in_a_profile(folder: Path, outside: Path) -> None:
    (outside / "profile").write_text("# a shell's profile\n")
    git(folder, "config", "user.name", "$(touch it-ran)")
    (folder / ".git/logs/HEAD").unlink()
    (folder / ".git/logs/HEAD").symlink_to(outside / "profile")


def references_elsewhere(folder: Path, outside: Path) -> None:
    (outside / "refs").mkdir()
    (folder / ".git/refs/heads/sub").symlink_to(outside / "refs")
    (folder / ".git/logs/refs/heads/sub").symlink_to(outside / "refs")


def new_objects_elsewhere(folder: Path, outside: Path) -> None:
    (outside / "objects").mkdir()
    for number in range(256):
        if not (folder / f".git/objects/{number:02x}").exists():
            (folder / f".git/objects/{number:02x}").symlink_to(outside / "objects")


WRITES_ELSEWHERE = [log_in_a_profile, references_elsewhere, new_objects_elsewhere]


def secret_repository(outside: Path) -> tuple[Path, str]:
    """Return the `.git` of another repository, with a secret in its newest commit, and that commit."""
    other = new_repository(outside / "other")
    (other / "secret.txt").write_text(SECRET)
    return other / ".git", commit_all(other, SECRET)


def loose_objects_of_another(folder: Path, outside: Path) -> None:
    other, commit = secret_repository(outside)
    for shard in (other / "objects").glob("??"):
        here = folder / ".git/objects" / shard.name
        here.mkdir(exist_ok=True)
        for file in shard.iterdir():
            if not (here / file.name).exists():
                (here / file.name).symlink_to(file)
    (folder / ".git/refs/heads/stolen").write_text(commit + "\n")


def packs_of_another(folder: Path, outside: Path) -> None:
    other, commit = secret_repository(outside)
    git(other.parent, "gc", "-q")
    for file in (other / "objects/pack").iterdir():
        (folder / ".git/objects/pack" / file.name).symlink_to(file)
    (folder / ".git/refs/heads/stolen").write_text(commit + "\n")


def references_of_another(folder: Path, outside: Path) -> None:
    other, _ = secret_repository(outside)
    (folder / ".git/refs/heads/stolen").symlink_to(other / "refs/heads/main")


def alternates_of_another(folder: Path, outside: Path) -> None:
    other, commit = secret_repository(outside)
    (folder / ".git/objects/info/alternates").write_text(f"{other / 'objects'}\n")
    (folder / ".git/refs/heads/stolen").write_text(commit + "\n")


def linked_alternates_of_another(folder: Path, outside: Path) -> None:
    other, commit = secret_repository(outside)
    (outside / "alternates").write_text(f"{other / 'objects'}\n")
    (folder / ".git/objects/info/alternates").symlink_to(outside / "alternates")
    (folder / ".git/refs/heads/stolen").write_text(commit + "\n")


def common_folder_of_another(folder: Path, outside: Path) -> None:
    other, _ = secret_repository(outside)
    (folder / ".git/commondir").write_text(f"{other}\n")


def all_of_another(folder: Path, outside: Path) -> None:
    other, _ = secret_repository(outside)
    shutil.rmtree(folder / ".git")
    (folder / ".git").write_text(f"gitdir: {other}\n")


READS_ANOTHER = [
    loose_objects_of_another, packs_of_another, alternates_of_another, linked_alternates_of_another,
    common_folder_of_another, all_of_another,
]  # fmt: skip
LINKED = [*WRITES_ELSEWHERE, loose_objects_of_another, packs_of_another, references_of_another,
          linked_alternates_of_another]  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {str(each): each.read_bytes() for each in sorted(folder.rglob("*")) if each.is_file()}


class Enough(Exception):
    """Something was seen, and further calls would change nothing about that."""


async def texts_of_every_tool(ask: Ask, *, until: Callable[[str], bool] = lambda text: False) -> str:
    """Use every tool, also on what was planted, and return all that they say.

    Raises:
        Enough: `until` is true of a text.
    """
    said: list[str] = []

    async def noting(tool: str, **arguments: object) -> tuple[str, bool]:
        answer = await ask(tool, **arguments)
        said.append(answer[0])
        if until(answer[0]):
            raise Enough
        return answer

    for revision in ("stolen", "main", "HEAD"):
        await noting("git_show", revision=revision)
        await noting("git_show_file", path="secret.txt", revision=revision)
        await noting("git_log", revision=revision)
    await noting("git_create_branch", name="sub/topic", start="HEAD")
    await use_every_tool(noting)
    return "\n".join(said)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


@needs_landlock
@pytest.mark.parametrize("arrange", WRITES_ELSEWHERE)
async def test_nothing_is_written_through_a_link_below_git_by_the_kernel(
    arrange: Callable[[Path, Path], None], repository: Path, outside: Path, served_with: Served
) -> None:
    arrange(repository, outside)
    before = contents(outside)
    async with Client(served_with(repository, "no look at the layout")) as client:
        await texts_of_every_tool(asker(client))
    assert contents(outside) == before


@needs_landlock
@pytest.mark.parametrize("arrange", READS_ANOTHER)
async def test_another_repository_is_not_read_by_the_kernel(
    arrange: Callable[[Path, Path], None], repository: Path, outside: Path, served_with: Served
) -> None:
    arrange(repository, outside)
    async with Client(served_with(repository, "no look at the layout")) as client:
        assert SECRET not in await texts_of_every_tool(asker(client))


@pytest.mark.parametrize("arrange", WRITES_ELSEWHERE)
async def test_without_kernel_and_look_links_are_written_through_so_the_tests_can_fail(
    arrange: Callable[[Path, Path], None], repository: Path, outside: Path, served_with: Served
) -> None:
    arrange(repository, outside)
    before = contents(outside)
    async with Client(served_with(repository, "no look at the layout", "no confinement")) as client:
        with pytest.raises(Enough):
            await texts_of_every_tool(asker(client), until=lambda _: contents(outside) != before)


@pytest.mark.parametrize("arrange", READS_ANOTHER)
async def test_without_kernel_and_look_another_repository_is_read_so_the_tests_can_fail(
    arrange: Callable[[Path, Path], None], repository: Path, outside: Path, served_with: Served
) -> None:
    arrange(repository, outside)
    async with Client(served_with(repository, "no look at the layout", "no confinement")) as client:
        with pytest.raises(Enough):
            await texts_of_every_tool(asker(client), until=lambda text: SECRET in text)


@pytest.mark.parametrize("arrange", LINKED)
async def test_a_repository_with_links_is_refused_where_the_kernel_does_not_confine(
    arrange: Callable[[Path, Path], None], repository: Path, outside: Path, ask: Ask
) -> None:
    arrange(repository, outside)
    before = contents(outside)
    said = await texts_of_every_tool(ask)
    assert contents(outside) == before
    assert SECRET not in said
    for tool in ("git_status", "git_log", "git_branches"):
        text, is_error = await ask(tool)
        assert is_error
        assert ".git" in text
    with pytest.raises(StartError, match=r"\.git.* (is a link|reads? another repository)"):
        build_server(str(repository))


async def test_links_that_git_never_opens_are_no_reason_to_refuse(repository: Path, ask: Ask) -> None:
    (repository / "hook").write_text("#!/bin/sh\n")
    (repository / ".git/hooks").mkdir(exist_ok=True)
    (repository / ".git/hooks/pre-commit").symlink_to("../../hook")
    assert not (await ask("git_status"))[1]


async def test_a_folder_that_did_not_change_is_not_looked_through_again(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_servers.git.links._COARSEST_CLOCK_NS", -1)  # as if everything was done long ago
    check = LinkCheck(repository)
    check.refuse_links()
    monkeypatch.setattr(LinkCheck, "_looked_through", None)  # would raise
    check.refuse_links()
    monkeypatch.undo()
    (repository / ".git/refs/heads/link").symlink_to("main")
    with pytest.raises(Exception, match="refs/heads/link"):
        check.refuse_links()


# -- what once was an internal error


@pytest.mark.parametrize("revision", ["^HEAD", "^main", "HEAD^@", "HEAD^!", "HEAD^-", "^HEAD~1^{tree}"])
async def test_a_revision_that_stands_for_others_is_no_commit(revision: str, ask: Ask) -> None:
    for tool in ("git_show", "git_log", "git_list_files"):
        text, is_error = await ask(tool, revision=revision)
        assert is_error
        assert "no commit" in text
    assert (await ask("git_create_branch", name="topic", start=revision))[1]


@pytest.mark.parametrize("argument", ["author", "text"])
async def test_a_text_that_no_program_can_be_given_is_refused(argument: str, ask: Ask) -> None:
    text, is_error = await ask("git_log", **{argument: "a\0b"})
    assert is_error
    assert "has a NUL" in text


OBJECTS = ["HEAD", "HEAD~1", "HEAD^{tree}", "HEAD:src", "HEAD:src/main.py", "HEAD~1:src/main.py", ":src/new.py"]


@pytest.mark.parametrize(
    ("revision", "damage"),
    [*((each, "missing") for each in OBJECTS), ("HEAD", "empty"), ("HEAD:src/main.py", "empty")],
)
async def test_an_object_that_is_not_there_is_said_to_be(
    revision: str, damage: str, repository: Path, ask: Ask
) -> None:
    name = git(repository, "rev-parse", revision).strip()
    file = repository / ".git/objects" / name[:2] / name[2:]
    file.unlink()
    if damage == "empty":
        file.touch()
    await texts_of_every_tool(ask)  # an internal error would be raised here
    if revision == "HEAD:src/main.py":
        for tool in ("git_show_file", "git_blame"):
            text, is_error = await ask(tool, path="src/main.py")
            assert is_error
            assert "An object is missing" in text


@pytest.mark.parametrize("kept", ["blob:none", "tree:0"])
async def test_a_partial_clone_is_read_as_far_as_it_goes(kept: str, repository: Path, tmp_path: Path) -> None:
    git(repository, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "-q", "--no-checkout", f"--filter={kept}", f"file://{repository}", "clone")
    async with Client(build_server(str(tmp_path / "clone"), write=True, author="Bo <bo@example.org>")) as client:
        ask = asker(client)
        assert "Second" in (await ask("git_log"))[0]
        for tool in ("git_show_file", "git_blame"):
            text, is_error = await ask(tool, path="src/main.py")
            assert is_error
            assert "partial clone" in text
        await texts_of_every_tool(ask)


async def test_a_git_without_a_switch_for_lazy_fetching_fetches_nothing_either(
    repository: Path, trap: Trap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older gits do not know GIT_NO_LAZY_FETCH; `protocol.ext.allow` stands above `protocol.allow`."""
    older = {name: value for name, value in ENVIRONMENT.items() if name != "GIT_NO_LAZY_FETCH"}
    monkeypatch.setattr(command, "ENVIRONMENT", older)
    lazy_objects(repository, str(trap.program))
    trap.sprung()
    async with Client(build_server(str(repository), write=True, author="Bo <bo@example.org>")) as client:
        await use_every_tool(asker(client))
    assert not trap.sprung()


@pytest.mark.parametrize(
    "key",
    ["checkout.workers", "pack.threads", "index.threads", "grep.threads", "fetch.parallel", "submodule.fetchJobs"],
)
async def test_the_repository_does_not_choose_how_many_processes_run(key: str, repository: Path) -> None:
    git(repository, "config", key, "400")
    said = await Git(repository, Limits()).run("config", "--get", key)
    assert said.out.strip() == b"1"
