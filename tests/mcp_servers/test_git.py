"""The git server on an ordinary repository: what it reads agrees with git, what it writes git reads."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client, StdioServerParameters, stdio_client

from mcp_servers.failures import StartError, ToolFailure
from mcp_servers.git.parsing import parse_blame, parse_log, parse_numstat, parse_references, parse_status
from mcp_servers.git.policy import (
    FIXED_CONFIG,
    check_branch_name,
    check_path,
    check_revision,
    check_time,
    named_overrides,
    numbered_config,
)
from mcp_servers.git.repository import paged
from mcp_servers.git.server import build_server
from tests.mcp_servers.git_repository import ENVIRONMENT, commit_all, git, new_repository
from tests.mcp_servers.server_harness import REPOSITORY, Ask, ask_once, asker


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository")


@pytest.fixture
async def ask(repository: Path) -> AsyncIterator[Ask]:
    async with Client(build_server(str(repository), write=True, author="Bo Ek <bo@example.org>")) as client:
        yield asker(client)


@pytest.mark.anyio
async def test_status_tells_staged_changed_and_new_files_apart(repository: Path, ask: Ask) -> None:
    assert (await ask("git_status"))[0] == "On branch main\nNothing to commit, working tree clean"
    (repository / "readme.md").write_text("# Other\n")
    (repository / "new file.txt").write_text("x\n")
    git(repository, "mv", "src/main.py", "src/renamed.py")
    text, _ = await ask("git_status")
    assert text == (
        "On branch main\nStaged:\n  renamed: src/main.py -> src/renamed.py\nNot staged:\n  modified: readme.md\n"
        "Untracked:\n  new file.txt"
    )


@pytest.mark.anyio
async def test_status_says_how_far_the_upstream_is(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", str(repository), "clone")
    commit_all(tmp_path / "clone", "Ours")
    commit_all(repository, "Theirs")
    git(tmp_path / "clone", "fetch", "-q")
    text, _ = await ask_once(build_server(str(tmp_path / "clone")), "git_status")
    assert "Upstream origin/main: 1 ahead, 1 behind" in text


@pytest.mark.anyio
async def test_conflicts_are_named(repository: Path, ask: Ask) -> None:
    git(repository, "switch", "-q", "-c", "other", "HEAD~1")
    (repository / "src/main.py").write_text("print('four')\n")
    commit_all(repository, "Other")
    git(repository, "merge", "main", check=False)
    text, _ = await ask("git_status")
    assert "Conflicts:\n  src/main.py" in text
    text, is_error = await ask("git_commit", message="Done")
    assert is_error
    assert "merge is in progress" in text


@pytest.mark.anyio
async def test_the_log_is_filtered_and_paged(repository: Path, ask: Ask) -> None:
    head = git(repository, "rev-parse", "HEAD").strip()
    text, _ = await ask("git_log", limit=1)
    assert text == f"{head[:10]} 2026-03-01T10:00:00+01:00 Ann Lee (HEAD -> main): Second\n(more on page 2)"
    assert "First" in (await ask("git_log", limit=1, page=2))[0]
    assert "No commits." in (await ask("git_log", limit=1, page=3))[0]
    assert "First" not in (await ask("git_log", path="src/main.py", text="second"))[0]
    assert "No commits." in (await ask("git_log", author="nobody"))[0]
    assert "No commits." in (await ask("git_log", until="2026-02-28"))[0]
    assert "Second" in (await ask("git_log", since="2026-03-01", until="2026-03-01"))[0]
    text, is_error = await ask("git_log", since="soon")
    assert is_error
    assert "'soon' is no time" in text


@pytest.mark.anyio
async def test_words_in_filters_are_not_patterns(ask: Ask) -> None:
    assert "No commits." in (await ask("git_log", text=".*"))[0]
    assert "No commits." in (await ask("git_log", author="^Ann"))[0]


@pytest.mark.anyio
async def test_diffs_agree_with_git(repository: Path, ask: Ask) -> None:
    (repository / "readme.md").write_text("# Other\n")
    (repository / "src/main.py").write_text("print('five')\n")
    git(repository, "add", "readme.md")
    for arguments, options in (
        ({}, ()),
        ({"staged": True}, ("--cached",)),
        ({"from_revision": "HEAD~1"}, ("HEAD~1",)),
        ({"from_revision": "HEAD~1", "to_revision": "HEAD"}, ("HEAD~1", "HEAD")),
        ({"from_revision": "HEAD", "path": "src"}, ("HEAD", "--", "src")),
        ({"context": 0}, ("-U0",)),
    ):
        text, is_error = await ask("git_diff", **arguments)
        assert not is_error
        assert text == git(repository, "diff", *options)
    assert (await ask("git_diff", path="nothing"))[0] == "No changes."


@pytest.mark.anyio
async def test_arguments_that_do_not_fit_together_say_so(ask: Ask) -> None:
    assert "needs from_revision" in (await ask("git_diff", to_revision="HEAD"))[0]
    assert "one commit" in (await ask("git_diff", staged=True, from_revision="HEAD", to_revision="HEAD"))[0]
    assert "is a folder" in (await ask("git_show_file", path="src"))[0]
    assert "is a file" in (await ask("git_list_files", path="readme.md"))[0]
    assert "has only 2 lines" in (await ask("git_blame", path="src/main.py", first_line=9))[0]


@pytest.mark.anyio
async def test_a_commit_is_shown_with_its_patch(repository: Path, ask: Ask) -> None:
    text, _ = await ask("git_show", revision="HEAD~1")
    assert "Author: Ann Lee <ann@example.org>" in text
    assert "    First\n    \n    The body." in text
    assert "+print('two')" in text  # the first commit has no parent to be compared with
    assert "    The body.\n\ndiff --git " in text
    git(repository, "tag", "-a", "-m", "A tag", "v1")
    assert "-print('two')\n+print('three')" in (await ask("git_show", revision="v1"))[0]


@pytest.mark.anyio
async def test_a_merge_is_shown_against_its_first_parent(repository: Path, ask: Ask) -> None:
    git(repository, "switch", "-q", "-c", "topic")
    (repository / "topic.txt").write_text("t\n")
    commit_all(repository, "Topic")
    git(repository, "switch", "-q", "main")
    git(repository, "merge", "-q", "--no-ff", "-m", "Merge topic", "topic")
    text, _ = await ask("git_show")
    assert "Merge of" in text
    assert "+++ b/topic.txt" in text


@pytest.mark.anyio
async def test_files_are_read_as_they_were(repository: Path, ask: Ask) -> None:
    assert (await ask("git_show_file", path="src/main.py", revision="HEAD~1"))[0] == "print('one')\nprint('two')\n"
    assert (await ask("git_list_files"))[0] == "readme.md\nsrc/"
    (repository / "data.bin").write_bytes(b"\0\1")
    (repository / "link").symlink_to("readme.md")
    commit_all(repository, "More")
    assert (await ask("git_show_file", path="data.bin"))[0] == "data.bin is a binary file of 2 bytes."
    assert (await ask("git_show_file", path="link"))[0] == "link is a link to readme.md"


@pytest.mark.anyio
async def test_blame_names_the_commit_of_each_line(repository: Path, ask: Ask) -> None:
    first, second = git(repository, "log", "--format=%h", "--abbrev=10", "--reverse").split()
    text, _ = await ask("git_blame", path="src/main.py")
    assert text == f"{first} 2026-03-01 Ann Lee 1: print('one')\n{second} 2026-03-01 Ann Lee 2: print('three')"


@pytest.mark.anyio
async def test_long_answers_come_in_pages_that_lose_nothing(repository: Path) -> None:
    lines = [f"line {i} {'x' * 40}" for i in range(2_000)]
    (repository / "long.txt").write_text("\n".join(lines))
    commit_all(repository, "Long")
    async with Client(build_server(str(repository))) as client:
        pages = []
        while True:
            result = await client.call_tool("git_show_file", {"path": "long.txt", "page": len(pages) + 1})
            assert result.structured_content is not None
            pages.append(result.structured_content["text"])
            if len(pages) == result.structured_content["pages"]:
                break
        text, is_error = await asker(client)("git_show_file", path="long.txt", page=len(pages) + 1)
    assert len(pages) > 2
    assert "".join(pages) == "\n".join(lines)
    assert is_error
    assert f"there are {len(pages)}" in text


@pytest.mark.anyio
async def test_a_change_goes_from_the_working_tree_to_a_branch(repository: Path, ask: Ask) -> None:
    assert (await ask("git_create_branch", name="fix/typo"))[0].startswith("On branch fix/typo")
    (repository / "readme.md").write_text("# Fixed\n")
    (repository / "src/main.py").unlink()
    (repository / "new.txt").write_text("n\n")
    text, _ = await ask("git_add", paths=["."])
    assert text.startswith("new.txt, readme.md, src/main.py\n")
    text, _ = await ask("git_unstage", paths=["new.txt"])
    assert "Untracked:\n  new.txt" in text
    text, is_error = await ask("git_commit", message="Fix the title\n\nAnd drop a file.\n")
    assert not is_error
    assert git(repository, "log", "-1", "--format=%an <%ae>%n%B", "fix/typo").strip() == (
        "Bo Ek <bo@example.org>\nFix the title\n\nAnd drop a file."
    )
    assert git(repository, "status", "--porcelain") == "?? new.txt\n"
    assert git(repository, "show", "--name-status", "--format=", "HEAD") == "M\treadme.md\nD\tsrc/main.py\n"
    assert "commit: Fix the title" in git(repository, "reflog", "-1")
    assert (await ask("git_switch", name="main"))[0].startswith("On branch main")
    assert (repository / "readme.md").read_text() == "# Title\n"
    assert git(repository, "fsck", "--strict", "--no-dangling") == ""
    text, _ = await ask("git_branches")
    assert text.startswith("* main") or text.startswith("  fix/typo")


@pytest.mark.anyio
async def test_switching_never_loses_a_change(repository: Path, ask: Ask) -> None:
    git(repository, "branch", "old", "HEAD~1")
    (repository / "src/main.py").write_text("not committed\n")
    text, is_error = await ask("git_switch", name="old")
    assert is_error
    assert "would be overwritten" in text
    assert (repository / "src/main.py").read_text() == "not committed\n"


@pytest.mark.anyio
async def test_the_first_commit_can_be_made(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    async with Client(build_server(str(folder), write=True, author="Bo <bo@example.org>")) as client:
        ask = asker(client)
        assert "No commits yet" in (await ask("git_status"))[0]
        assert "no commit yet" in (await ask("git_log"))[0]
        assert "Nothing is staged" in (await ask("git_commit", message="x"))[0]
        assert "No branches yet." in (await ask("git_branches"))[0]
        (folder / "a.txt").write_text("a\n")
        assert "added: a.txt" in (await ask("git_add", paths=["a.txt"]))[0]
        assert "Untracked:\n  a.txt" in (await ask("git_unstage", paths=["."]))[0]
        await ask("git_add", paths=["."])
        assert (await ask("git_create_branch", name="trunk"))[0] == "On branch trunk at no commit yet"
        assert "on trunk" in (await ask("git_commit", message="First"))[0]
    assert git(folder, "log", "--format=%s") == "First\n"


@pytest.mark.anyio
async def test_mistakes_say_what_to_do(repository: Path, ask: Ask) -> None:
    (repository / ".gitignore").write_text("*.log\n")
    (repository / "a.log").write_text("x\n")
    assert "is ignored by .gitignore" in (await ask("git_add", paths=["a.log"]))[0]
    assert "There is no file 'gone'" in (await ask("git_add", paths=["gone"]))[0]
    assert "Name 1 to 200 files" in (await ask("git_add", paths=[]))[0]
    assert "git_add first" in (await ask("git_commit", message="x"))[0]
    assert "Say what changed" in (await ask("git_commit", message="  "))[0]
    assert "already. git_switch" in (await ask("git_create_branch", name="main", start="HEAD"))[0]
    assert "Its branches: main" in (await ask("git_switch", name="nothing"))[0]
    assert "cannot be a branch's name" in (await ask("git_create_branch", name="a..b"))[0]


@pytest.mark.anyio
async def test_who_commits_must_be_known(repository: Path) -> None:
    (repository / "readme.md").write_text("# Other\n")
    async with Client(build_server(str(repository), write=True)) as client:
        ask = asker(client)
        await ask("git_add", paths=["."])
        text, is_error = await ask("git_commit", message="x")
        assert is_error
        assert "--author" in text
        git(repository, "config", "user.name", "Cy")
        git(repository, "config", "user.email", "cy@example.org")
        assert not (await ask("git_commit", message="x"))[1]
    assert git(repository, "log", "-1", "--format=%an %ce") == "Cy cy@example.org\n"


@pytest.mark.anyio
async def test_nothing_can_be_changed_without_being_allowed(repository: Path) -> None:
    async with Client(build_server(str(repository))) as client:
        tools = (await client.list_tools()).tools
    assert {tool.name for tool in tools} == {
        "git_status", "git_log", "git_diff", "git_show", "git_show_file", "git_list_files", "git_blame",
        "git_branches",
    }  # fmt: skip
    assert all(tool.annotations is not None and tool.annotations.read_only_hint for tool in tools)


@pytest.mark.anyio
async def test_it_runs_as_a_child_process(repository: Path) -> None:
    parameters = StdioServerParameters(
        command=sys.executable, args=["-m", "mcp_servers.git", str(repository)], cwd=REPOSITORY
    )
    async with Client(stdio_client(parameters)) as client:
        assert "Second" in (await asker(client)("git_log"))[0]


def test_a_folder_without_a_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"has no folder '\.git'"):
        build_server(str(tmp_path))


def test_a_machine_without_git_is_told(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(StartError, match="not installed"):
        build_server(str(repository))


@given(st.text(max_size=60))
def test_a_branch_name_that_passes_is_one_that_git_takes(text: str) -> None:
    try:
        name = check_branch_name(text)
    except ToolFailure:
        return
    assert not git_refuses(name)


def git_refuses(name: str) -> bool:
    import subprocess

    asked = subprocess.run(
        ["git", "check-ref-format", f"refs/heads/{name}"], env=ENVIRONMENT, capture_output=True, check=False
    )
    return asked.returncode != 0


@pytest.mark.parametrize(
    "name", ["a.lock", "a/b.lock/c", ".a", "a/.b", "a.", "a b", "a~1", "a:b", "-a", "@", "HEAD", "a@{1}"]
)
def test_names_that_git_refuses_or_reads_as_something_else_are_refused(name: str) -> None:
    with pytest.raises(ToolFailure, match="cannot be a branch's name"):
        check_branch_name(name)


@given(st.text(max_size=300))
def test_a_revision_that_passes_is_one_word_for_git(text: str) -> None:
    try:
        revision = check_revision(text)
    except ToolFailure:
        return
    assert not revision.startswith("-")
    assert ".." not in revision
    assert revision.isprintable() or not any(ord(char) < 32 for char in revision)


@given(st.text(alphabet=st.sampled_from("ab/.git\\GIT\0\n -:(*"), max_size=40))
def test_a_path_that_passes_names_nothing_of_git_and_nothing_outside(text: str) -> None:
    try:
        parts = check_path(text)
    except ToolFailure:
        return
    assert all(part not in ("", ".", "..") and part.lower() != ".git" and "/" not in part for part in parts)


@given(st.text(max_size=40), st.booleans())
def test_a_time_that_passes_has_one_of_three_forms(text: str, is_end: bool) -> None:
    try:
        time = check_time(text, is_end=is_end)
    except ToolFailure:
        return
    assert time[0].isdigit()


@given(
    st.lists(
        st.tuples(st.sampled_from(["filter", "diff", "merge", "hook", "core"]), st.text(min_size=1, max_size=20))
    )
)
def test_every_program_that_a_key_names_is_switched_off(named: list[tuple[str, str]]) -> None:
    keys = [f"{kind}.{name}.clean" for kind, name in named]
    overridden = dict(named_overrides(keys))
    for kind, name in named:
        if kind == "filter":
            assert overridden[f"filter.{name}.process"] == ""
            assert overridden[f"filter.{name}.clean"] == ""
    numbered = numbered_config(overridden.items())
    assert int(numbered["GIT_CONFIG_COUNT"]) == len(overridden)


@given(st.binary(max_size=400))
def test_no_output_of_git_breaks_the_readers(output: bytes) -> None:
    assert isinstance(list(parse_log(output)), list)
    assert isinstance(list(parse_references(output)), list)
    assert isinstance(list(parse_blame(output)), list)


@given(
    st.lists(
        st.sampled_from([b"1 M. x x x x x x a", b"2 R. x x x x x x R1 b", b"? c", b"u UU x x x x x x x d", b"# x"])
    )
)
def test_a_cut_status_is_read_as_far_as_it_goes(records: list[bytes]) -> None:
    facts = parse_status(b"\0".join([*records, b"? cut"]))
    assert "cut" not in facts.untracked


def test_numstat_reads_renames_and_binary_files() -> None:
    output = b"1\t2\ta.txt\0-\t-\tb.bin\x000\t0\t\0old\0new\0"
    assert list(parse_numstat(output)) == [
        ("a.txt", "", 1, 2, False),
        ("b.bin", "", 0, 0, True),
        ("new", "old", 0, 0, False),
    ]


@given(st.binary(max_size=500), st.integers(min_value=1, max_value=60))
def test_pages_hold_the_whole_text(content: bytes, size: int) -> None:
    content = content.decode("ascii", "ignore").encode()
    _, n_pages = paged(content, 1, size)
    from mcp_servers.hidden import visible

    assert "".join(paged(content, page, size)[0] for page in range(1, n_pages + 1)) == visible(content.decode())


def test_every_fixed_setting_is_a_key_of_git() -> None:
    assert all(key.count(".") >= 1 and "\n" not in key + value for key, value in FIXED_CONFIG)
