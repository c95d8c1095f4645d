"""The tools of a workspace: files, shell commands, Python, and what the model reads of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from agentkit import Agent, AgentEvent, RunContext, ToolProgressEvent, ToolReturnPart, UserError, Workspace
from agentkit.testing import ScriptedModel, call
from agentkit.workspace import SandboxError, SandboxLimits, SandboxResult, run_in_sandbox
from agentkit.workspace import commands as command_tools
from agentkit.workspace import sandbox as sandbox_module
from agentkit.workspace.commands import shown_output, told
from modelstack.sandbox import commands as stack_commands
from tests.agentkit.arrangements import context

pytestmark = pytest.mark.anyio

COMMANDS = ("run_shell", "run_python")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "work"
    made.mkdir()
    return made


@pytest.fixture
async def isolated(folder: Path) -> None:
    try:
        await run_in_sandbox(["true"], folder=folder)
    except SandboxError as error:
        pytest.skip(str(error))


async def results(workspace: Workspace, *calls: Any) -> list[ToolReturnPart]:
    """Return the results of calls that a model makes one after the other."""
    agent = Agent(ScriptedModel([*calls, "done"]), toolsets=[workspace])
    result = await agent.run("go")
    assert result.status == "completed"
    return [part for message in result.messages for part in message.parts if isinstance(part, ToolReturnPart)]


async def test_tools_say_what_they_do(folder: Path) -> None:
    tools = {tool.name: tool for tool in await Workspace(folder).list_tools(context())}
    assert list(tools) == [
        "read_file", "list_files", "search_files", "write_file", "edit_file", "run_shell", "run_python",
    ]  # fmt: skip
    for name, tool in tools.items():
        reads = name in ("read_file", "list_files", "search_files")
        annotations = tool.definition.annotations
        assert (annotations.read_only, annotations.destructive, annotations.open_world) == (
            reads,
            not reads,
            False,
        )
        assert (tool.is_consequential, tool.is_repeatable, tool.sequential) == (not reads, reads, not reads)
        assert tool.is_untrusted
        assert tool.definition.description
        properties = tool.definition.parameters_json_schema["properties"]
        assert all("description" in each or key == "ignore_case" for key, each in properties.items())
    trusted = await Workspace(folder, trust="trusted").list_tools(context())
    assert not any(tool.is_untrusted for tool in trusted)


async def test_options_leave_tools_out(folder: Path) -> None:
    async def names(**options: Any) -> list[str]:
        return [tool.name for tool in await Workspace(folder, **options).list_tools(context())]

    reading = ["read_file", "list_files", "search_files"]
    assert await names(shell=False, python=False, writable=False) == reading
    assert await names(shell=False, writable=False) == [*reading, "run_python"]
    told = await Workspace(folder, shell=False).instructions(context())
    assert told is not None and "run_python" in told and "run_shell" not in told
    assert await Workspace(folder, shell=False, python=False).instructions(context()) == (
        "You have a folder with files. Paths are relative to it, like 'notes/todo.md'; '.' is the folder itself."
    )


async def test_a_model_works_with_files(folder: Path) -> None:
    found = await results(
        Workspace(folder, trust="trusted"),
        call("write_file", path="src/deep/a.py", text="x = 1\ny = 2\nz = 3\n"),
        call("edit_file", path="src/deep/a.py", old_text="y = 2", new_text="y = 5"),
        call("read_file", path="src/deep/a.py", offset=2, limit=1),
        call("list_files", depth=3),
        call("search_files", text="z ="),
        call("search_files", text="^[xy] = \\d", regex=True, files="*.py"),
        call("search_files", files="*.py"),
        call("write_file", path="log", text="one", append=True),
        call("write_file", path="log", text="two", append=True),
    )
    texts = [part.text for part in found]
    assert texts[0] == "created with 18 bytes: src/deep/a.py"
    assert texts[1] == "edited in 1 place: src/deep/a.py\n@@ -2,1 +2,1 @@\n-y = 2\n+y = 5"
    assert texts[2] == "src/deep/a.py: 3 lines, here 2 to 2; go on with offset=3\ny = 5\n"
    assert texts[3] == "src/\nsrc/deep/\nsrc/deep/a.py (18 bytes)"
    assert texts[4] == "src/deep/a.py:3: z = 3"
    assert texts[5] == "src/deep/a.py:1: x = 1\nsrc/deep/a.py:2: y = 5\n(2 lines)"
    assert texts[6] == "src/deep/a.py (18 bytes)"
    assert (folder / "log").read_text() == "one\ntwo"
    assert not any(part.is_error for part in found)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (call("read_file", path="../secret"), "'..' is not allowed"),
        (call("read_file", path="/etc/passwd"), "is absolute"),
        (call("read_file", path="link"), "is a link; links are not followed"),
        (call("read_file", path="through/secret"), "is a link; links are not followed"),
        (call("read_file", path="pipe"), "is a device, pipe or socket"),
        (call("read_file", path="."), "`list_files` shows them"),
        (call("read_file", path="binary"), "`list_files` shows its size"),
        (call("read_file", path="nots"), "Did you mean 'notes'?"),
        (call("read_file", path=".trash/x"), "It cannot be listed, read or changed"),
        (call("search_files", files="*.nothing"), "search_files with a text looks into the files"),
        (call("write_file", path="link", text="x", overwrite=True), "links are not followed"),
        (call("write_file", path="through/x", text="x"), "link"),
        (call("write_file", path="linked", text="x", overwrite=True), "hard links"),
        (call("edit_file", path="linked", old_text="s", new_text="x"), "hard links"),
        (call("write_file", path="notes", text="x"), "exists. Use edit_file"),
        (call("write_file", path="x", text="x", append=True, overwrite=True), "exclude each other"),
        (call("write_file", path=".git/hooks/post-commit", text="x"), "Use git itself"),
        (call("write_file", path="venv/lib/sitecustomize.py", text="x"), "is the Python that runs the agent"),
        (call("edit_file", path="notes", old_text="nothing", new_text="x"), "old_text was not found"),
        (call("search_files", text="(a+", regex=True), "not a regular expression"),
    ],
)  # fmt: skip
async def test_no_path_leaves_the_folder_and_failures_say_what_to_do(
    attempt: Any, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = folder.parent / "secret"
    secret.write_text("secret")
    (folder / "notes").write_text("text")
    (folder / "binary").write_bytes(b"\0\1")
    (folder / "link").symlink_to(secret)
    (folder / "through").symlink_to(folder.parent)
    os.link(secret, folder / "linked")
    os.mkfifo(folder / "pipe")
    (folder / ".git").mkdir()
    (folder / "venv").mkdir()
    monkeypatch.setattr(stack_commands, "_pythons", lambda: [str(folder / "venv")])
    (part,) = await results(Workspace(folder), attempt)
    assert message in part.text.replace("They cannot", "It cannot")
    assert part.is_error or attempt.tool_name == "search_files"
    assert secret.read_text() == "secret"
    assert sorted(os.listdir(folder)) == [".git", "binary", "link", "linked", "notes", "pipe", "through", "venv"]


async def test_hidden_characters_of_files_and_outputs_are_removed(folder: Path, isolated: None) -> None:
    (folder / "notes").write_text("plain\U000e0041\u202etext")
    read, ran = await results(
        Workspace(folder, trust="trusted"), call("read_file", path="notes"), call("run_shell", command="cat notes")
    )
    assert read.text == "notes: 1 lines\nplaintext\n[2 hidden characters removed]"
    assert ran.text == "Exit status 0.\nplaintext\n[2 hidden characters removed]"


async def test_commands_and_file_tools_work_on_the_same_files(folder: Path, isolated: None) -> None:
    found = await results(
        Workspace(folder, trust="trusted", environment={"GIVEN": "5"}),
        [call("write_file", path="a.py", text="print(6 * 7)\n"), call("run_shell", command="python3 a.py; pwd")],
        call("run_python", code="open('out', 'w').write('made')\nimport os\nprint(os.environ['GIVEN'])"),
        call("read_file", path="out"),
        call("run_python", code="1/0"),
        call("run_shell", command="false"),
    )
    texts = [part.text for part in found]
    assert texts[1] == "Exit status 0.\n42\n/workspace"
    assert texts[2] == "Exit status 0.\n5"
    assert texts[3] == "out: 1 lines\nmade"
    assert texts[4].startswith("Exit status 1.\n[standard error]\nTraceback") and "ZeroDivisionError" in texts[4]
    assert texts[5] == "Exit status 1.\n(no output)"
    assert found[1].data["stdout"] == "42\n/workspace"
    assert not any(part.is_error for part in found)


async def test_git_in_the_folder_can_be_asked_but_not_changed(folder: Path, isolated: None) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q", str(folder)], check=True)
    (folder / "a").write_text("x")
    subprocess.run([*git, "-C", str(folder), "add", "a"], check=True)
    status, change = await results(
        Workspace(folder, trust="trusted"),
        call("run_shell", command="git status --short"),
        call(
            "run_shell",
            command="git config core.fsmonitor ./evil; echo x > .git/hooks/post-index-change",
        ),
    )
    assert "A  a" in status.text
    assert "Read-only file system" in change.text or "could not" in change.text
    assert "evil" not in (folder / ".git/config").read_text()
    assert not (folder / ".git/hooks/post-index-change").exists()


async def test_a_command_ends_at_the_time_that_the_model_gives(folder: Path, isolated: None) -> None:
    limits = SandboxLimits(wall_s=30)
    workspace = Workspace(folder, trust="trusted", limits=limits)
    (part,) = await results(workspace, call("run_shell", command="echo begun; sleep 60", timeout_s=1))
    assert part.is_error
    assert part.text == "Stopped by the time limit: 1 s. What it did until then has taken effect.\nbegun"


async def test_a_command_that_cannot_be_given_is_told(folder: Path) -> None:
    from agentkit import RetryPromptPart

    agent = Agent(ScriptedModel([call("run_shell", command="x" * 200_000), "done"]), toolsets=[Workspace(folder)])
    result = await agent.run("go")
    (part,) = [p for message in result.messages for p in message.parts if isinstance(p, RetryPromptPart)]
    assert "Write a script to a file and run it." in part.content


def test_long_output_is_cut_in_the_middle() -> None:
    text = "\n".join(map(str, range(1000))).encode()
    shown = shown_output(text, 0, 100)
    assert shown.startswith("0\n1\n2\n") and shown.endswith("998\n999")
    assert f"... ({len(text) - 100:,} characters left out; write long output" in shown
    halves = shown_output(b"a" * 60 + b"b" * 60, 1_000_000, 100)
    assert halves.startswith("a" * 50 + "\n...") and halves.endswith("...\n" + "b" * 50)
    assert "1,000,020 characters left out" in halves
    assert shown_output("ö".encode()[:1], 0, 100) == "�"
    assert shown_output(b"", 0, 100) == ""


@pytest.mark.parametrize(
    ("stopped_by", "message"),
    [
        ("memory limit", "Stopped by the memory limit: 1,024 MiB of memory."),
        ("disk limit", "Stopped by the disk limit: 1,024 MiB or 50,000 files added."),
        ("CPU limit", "Stopped by the CPU limit: 120 s of computing."),
        ("output limit", "Stopped by the output limit: more output than is read."),
        (None, "Ended by signal 11 (SIGSEGV)."),
    ],
)
def test_ends_are_told_in_words(stopped_by: str | None, message: str) -> None:
    result = SandboxResult(None, None if stopped_by else 11, stopped_by, b"", b"", 0, 0, 1.0)
    output = told(result, SandboxLimits(), 100)
    assert str(output.content).startswith(message)
    assert output.is_error == (stopped_by is not None)


async def test_a_long_command_reports_its_progress(
    folder: Path, isolated: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_module, "PROGRESS_S", 0.05)
    seen: list[ToolProgressEvent] = []

    def hear(event: AgentEvent) -> None:
        if isinstance(event, ToolProgressEvent):
            seen.append(event)
            if event.message == "first":
                (folder / "go").touch()

    agent = Agent(
        ScriptedModel([call("run_shell", command="echo first; while [ ! -e go ]; do sleep 0.05; done"), "done"]),
        toolsets=[Workspace(folder)],
        on_event=hear,
    )
    await agent.run("go")
    assert [event.tool_name for event in seen] == ["run_shell"] * len(seen)
    assert seen[-1].message == "first" and seen[-1].total == 60
    assert all(one.progress <= two.progress for one, two in zip(seen, seen[1:], strict=False))


async def test_a_cancelled_command_is_ended_before_the_caller_goes_on(folder: Path, isolated: None) -> None:
    async def wait_for(name: str) -> None:
        while not (folder / name).exists():
            await anyio.sleep(0.01)

    script = "echo x > begun; trap '' TERM; while :; do echo x >> beat; sleep 0.01; done"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: run_in_sandbox(["sh", "-c", script], folder=folder))
        await wait_for("beat")
        tasks.cancel_scope.cancel()
    n_beats = (folder / "beat").stat().st_size
    await anyio.sleep(0.1)
    assert (folder / "beat").stat().st_size == n_beats


async def test_an_error_of_a_listener_ends_the_command_and_is_raised_as_it_is(
    folder: Path, isolated: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_module, "PROGRESS_S", 0.01)

    def fail(elapsed_s: float, line: str) -> None:
        raise LookupError("listener")

    with pytest.raises(LookupError, match="listener"):
        await run_in_sandbox(["sleep", "50"], folder=folder, on_progress=fail)


async def test_many_commands_run_at_once(folder: Path, isolated: None) -> None:
    found: list[SandboxResult] = []

    async def run(number: int) -> None:
        found.append(
            await run_in_sandbox(
                ["sh", "-c", f"echo {number}; hostname; ls /proc | grep -c '^[0-9]'"], folder=folder
            )
        )

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(run, number)
    assert sorted(result.stdout[:1] for result in found) == [b"0", b"1", b"2", b"3", b"4", b"5"]


async def test_a_machine_without_a_sandbox_ends_the_run_by_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = '{"ended": "not isolated", "reason": "unshare: Operation not permitted"}'
    monkeypatch.setattr(stack_commands, "COMMAND", [sys.executable, "-c", f"print({said!r})"])
    agent = Agent(ScriptedModel([call("run_shell", command="touch x"), "done"]), toolsets=[Workspace(folder)])
    with pytest.raises(
        SandboxError, match=r"unshare: Operation not permitted.*Allow unprivileged user namespaces"
    ):
        await agent.run("go")
    assert os.listdir(folder) == []


async def test_a_sandbox_that_was_ended_from_outside_is_a_failure_of_the_call(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_commands, "COMMAND", [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    (part,) = await results(Workspace(folder), call("run_shell", command="touch x"))
    assert part.is_error and "what the command has changed is unknown" in part.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folder": "no/such/folder"}, "Create the folder first"),
        ({"trust": "yes"}, 'must be "untrusted" or "trusted"'),
        ({"max_output_chars": 0}, "must be above zero"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(UserError, match=message):
        Workspace(**{"folder": folder, **options})


async def test_the_instructions_stay_equal_during_a_run(folder: Path) -> None:
    workspace = Workspace(folder)
    first = await workspace.instructions(context())
    again = await workspace.instructions(RunContext(deps=None, step=3, tainted=True))
    assert first == again and first is not None and "/workspace" in first
    assert command_tools.SHELLS[-1] == "/bin/sh"
