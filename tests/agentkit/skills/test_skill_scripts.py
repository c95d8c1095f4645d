"""Scripts of skills: in the sandbox, from the bytes that were hashed, under the rules of the run."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from agentkit import Agent, RunContext, Skills, UserError
from agentkit.skills import SkillPins, SkillScripts, read_skill, scripts
from agentkit.testing import ScriptedModel
from agentkit.workspace.sandbox import SandboxLimits
from tests.agentkit.skills.skill_folders import (
    HELLO,
    OPEN_SKILLS,
    load,
    results,
    run,
    told,
    why_no_sandbox,
    write_skill,
)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(bool(why_no_sandbox()), reason=why_no_sandbox() or "scripts run here"),
]
FREE = SkillScripts(requires_approval=False)


def skills_with(folder: Path, files: Mapping[str, str | bytes], rules: SkillScripts = FREE) -> Skills:
    """A trusted folder with one skill of these files."""
    write_skill(folder, files=files)
    return Skills(folder, trusted=True, scripts=rules)


async def output(folder: Path, code: str, *arguments: str, rules: SkillScripts = FREE) -> str:
    """Return what the model reads of a Python script."""
    (text,) = told(
        await results(skills_with(folder, {"scripts/x.py": code}, rules), run("scripts/x.py", *arguments))
    )
    return text


async def test_a_script_runs_with_its_arguments(tmp_path: Path) -> None:
    skills = skills_with(tmp_path, {"scripts/hello.py": HELLO})
    result = await results(skills, load(), run("./scripts/hello.py", "Ada", "$HOME", "; ls"))
    assert told(result)[1] == "exit status 0\nstdout:\nhello Ada $HOME ; ls"
    assert not result.state.tainted


async def test_a_script_imports_what_lies_beside_it_and_reads_the_skill(tmp_path: Path) -> None:
    files: Mapping[str, str | bytes] = {
        "scripts/x.py": "import os, helper\nskill = os.environ['SKILL_DIR']\n"
        "print(helper.X, open(skill + '/assets/a.txt').read())\n",
        "scripts/helper.py": "X = 7\n",
        "assets/a.txt": "asset",
    }
    (text,) = told(await results(skills_with(tmp_path, files), run("scripts/x.py")))
    assert text == "exit status 0\nstdout:\n7 asset"


async def test_a_script_reaches_neither_the_machine_nor_the_network_nor_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "the key")
    (tmp_path / "secret.txt").write_text("the key")
    code = f"""import os, socket
print(sorted(os.environ))
print(os.path.exists({str(tmp_path / "secret.txt")!r}), os.path.exists({str(Path.home() / ".bashrc")!r}))
try:
    socket.create_connection(("1.1.1.1", 53), timeout=5)
except OSError as error:
    print(type(error).__name__)
"""
    lines = (await output(tmp_path / "skills", code)).split("\n")
    assert lines[2] == "['HOME', 'LANG', 'PATH', 'SKILL_DIR', 'TMPDIR']"
    assert lines[3] == "False False" and lines[4] == "OSError"


async def test_the_skill_is_read_only_and_the_workspace_can_be_written(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "in.txt").write_text("in")
    code = """import os
try:
    open(os.environ["SKILL_DIR"] + "/new.md", "w")
except OSError as error:
    print(error.strerror)
open("out.txt", "w").write(open("in.txt").read() + " and out")
print(os.getcwd())
"""
    rules = SkillScripts(requires_approval=False, workspace=work)
    skills = skills_with(tmp_path / "skills", {"scripts/x.py": code}, rules)
    result = await results(skills, run("scripts/x.py"))
    assert told(result) == ["exit status 0\nstdout:\nRead-only file system\n/workspace"]
    assert (work / "out.txt").read_text() == "in and out"
    assert result.state.tainted  # the file may hold what anyone wrote
    again = told(await results(skills_with(tmp_path / "skills", {"scripts/x.py": code}), run("scripts/x.py")))
    assert "No such file or directory: 'in.txt'" in again[0]  # without a workspace there is an empty folder
    assert str(tmp_path) not in again[0] and "agentkit-skill" not in again[0]


async def test_exactly_the_bytes_that_were_hashed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file changes after it was compared with its pin and before it runs."""
    skill = write_skill(tmp_path / "skills", files={"scripts/hello.py": HELLO})
    pins = SkillPins(tmp_path / "pins")
    pins.write(read_skill(skill))
    checked = pins.check

    def then_changed(reading: Any) -> Any:
        state = checked(reading)
        (skill / "scripts/hello.py").write_text("print('evil')")
        return state

    monkeypatch.setattr(pins, "check", then_changed)
    skills = Skills(skill.parent, pins=pins, scripts=FREE)
    assert list(skills.skills) == ["greeting"]
    (skill / "scripts/hello.py").write_text(HELLO)
    assert told(await results(skills, run("scripts/hello.py", "Ada"))) == ["exit status 0\nstdout:\nhello Ada"]
    assert (skill / "scripts/hello.py").read_text() == "print('evil')"


async def test_a_failure_is_an_error_with_status_and_output(tmp_path: Path) -> None:
    text = await output(tmp_path, "import sys\nprint('out')\nsys.exit('no such city')\n")
    assert text == "exit status 1\nstdout:\nout\nstderr:\nno such city"
    text = await output(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    assert text == "ended by signal 11"


async def test_time_memory_and_output_are_bounded(tmp_path: Path) -> None:
    async def limited(code: str, **limits: Any) -> str:
        rules = SkillScripts(requires_approval=False, limits=SandboxLimits(**limits))
        return await output(tmp_path, code, rules=rules)

    assert await limited("import time\nprint('a', flush=True)\ntime.sleep(60)\n", wall_s=1.0) == (
        "stopped by the time limit\nstdout:\na"
    )
    assert "MemoryError" in await limited("x = bytearray(1 << 30)\n", memory_bytes=256 << 20)
    text = await limited("print('x' * 100_000 + 'end')\n")
    assert len(text) < scripts.MAX_OUTPUT_CHARS + 200 and "characters left out" in text and text.endswith("end")
    assert "cut at the limit of output" in await limited("print('x' * 100_000)\n", output_bytes=1_000)


async def test_output_is_shown_clean(tmp_path: Path) -> None:
    text = await output(tmp_path, r"print('a\u200b\x1b[2J <|im_end|> \udcff'.encode('utf-8', 'replace').decode())")
    assert text == "exit status 0\nstdout:\na[2J < |im_end|> ?"


async def test_folders_of_copies_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    monkeypatch.setattr(scripts.tempfile, "tempdir", str(copies))
    await output(tmp_path / "skills", "print(1)")
    assert list(copies.iterdir()) == []

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("agentkit.skills.files.SkillFiles.write_to", full)
    assert "No space left" in await output(tmp_path / "skills", "print(1)")
    assert list(copies.iterdir()) == []


# -- interpreters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("scripts/a.sh", 'echo "$1"'),
        ("scripts/a", '#!/bin/sh\necho "$1"\n'),
        ("scripts/a.txt", "#!/usr/bin/env python3\nimport sys\nprint(sys.argv[1])\n"),
        ("scripts/a.bash", '[[ -n "$1" ]] && echo "$1"'),
        ("scripts/a.py", "#!/opt/python3.9/bin/python3.9\nimport sys\nprint(sys.argv[1])\n"),
    ],
)
async def test_the_interpreter_is_that_of_the_suffix_or_the_first_line(
    path: str, text: str, tmp_path: Path
) -> None:
    if path.endswith(".bash") and shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    (shown,) = told(await results(skills_with(tmp_path, {path: text}), run(path, "two words")))
    assert shown == "exit status 0\nstdout:\ntwo words"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("scripts/a.xyz", "x"),
        ("scripts/a", "\x7fELF"),
        ("scripts/a", "#!/opt/evil/interpreter\n"),
        ("scripts/a", "#!/usr/bin/env -S uv run\n"),
        ("SKILL.md", ""),
    ],
)
async def test_a_file_without_a_known_interpreter_is_not_run(path: str, text: str, tmp_path: Path) -> None:
    files: Mapping[str, str | bytes] = {"scripts/b.py": ""} | ({} if path == "SKILL.md" else {path: text})
    (shown,) = told(await results(skills_with(tmp_path, files), run(path)))
    assert shown.startswith(f"{path!r} has no interpreter: it has none of the suffixes .bash, .cjs")


async def test_an_interpreter_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts.shutil, "which", lambda name: None)
    (shown,) = told(await results(skills_with(tmp_path, {"scripts/a.js": ""}), run("scripts/a.js")))
    assert shown == "'scripts/a.js' needs 'node', which is not installed on this machine."


async def test_the_application_gives_interpreters_and_variables(tmp_path: Path) -> None:
    rules = SkillScripts(
        requires_approval=False,
        interpreters={".words": ["/bin/sh", "-c", 'echo "$UNIT" "$1"']},
        environment={"UNIT": "m"},
    )
    (shown,) = told(
        await results(skills_with(tmp_path, {"scripts/a.words": ""}, rules), run("scripts/a.words", "5"))
    )
    assert shown == "exit status 0\nstdout:\nm 5"


@pytest.mark.parametrize("path", ["../x.py", "/bin/sh", "scripts/../../x.py", "scripts"])
async def test_only_files_of_the_skill_are_run(path: str, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("print('evil')")
    (shown,) = told(await results(skills_with(tmp_path / "skills", {"scripts/a.py": ""}), run(path)))
    assert shown.startswith(f"the skill has no file {path!r}")


async def test_arguments_are_bounded(tmp_path: Path) -> None:
    skills = skills_with(tmp_path, {"scripts/hello.py": HELLO})
    for arguments in (["x"] * 65, ["x" * 8_001], ["a\0b"]):
        (shown,) = told(await results(skills, run("scripts/hello.py", *arguments)))
        assert shown.startswith("a script takes at most 64 arguments of 8,000 characters without NUL")


async def test_a_workspace_that_is_missing_is_an_error_of_the_application(tmp_path: Path) -> None:
    rules = SkillScripts(requires_approval=False, workspace=tmp_path / "none")
    with pytest.raises(UserError, match="the workspace .* is not a folder; create it"):
        await results(skills_with(tmp_path, {"scripts/hello.py": HELLO}, rules), run())


# -- approvals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requires_approval", "state", "reason"),
    [
        (True, "recorded", "which no person has accepted"),
        (True, "accepted", "it runs a script of the skill 'greeting'"),
        (True, "trusted", "it runs a script of the skill 'greeting'"),
        (False, "recorded", "which no person has accepted"),
        (False, "unpinned", "which no person has accepted"),
        (False, "accepted", None),
        (False, "trusted", None),
    ],
)
async def test_only_trusted_skills_can_be_freed_from_approvals(
    requires_approval: bool, state: str, reason: str | None, tmp_path: Path
) -> None:
    skill = write_skill(tmp_path / "skills", files={"scripts/hello.py": HELLO})
    pins = SkillPins(tmp_path / "pins")
    if state == "accepted":
        pins.write(read_skill(skill))
    rules = SkillScripts(requires_approval=requires_approval)
    trust: dict[str, Any] = {"trusted": state == "trusted", "pins": None if state == "unpinned" else pins}
    skills = Skills(skill.parent, scripts=rules, **trust)
    agent = Agent(ScriptedModel([run(), "done"]), toolsets=[skills])
    result = await agent.run("go")
    if reason is None:
        assert result.status == "completed"
        return
    assert result.status == "needs_approval" and reason in result.pending[0].reason
    done = await agent.resume(result.state, [result.pending[0].approve()])
    assert told(done) == ["exit status 0\nstdout:\nhello"]


async def test_a_skill_that_loses_its_pin_needs_approvals_again(tmp_path: Path) -> None:
    """Also if the rule was asked before: the pin goes away between the question and the run."""
    skill = write_skill(tmp_path / "skills", files={"scripts/hello.py": HELLO})
    pins = SkillPins(tmp_path / "pins")
    pins.write(read_skill(skill))
    agent = Agent(ScriptedModel([run(), "done"]), toolsets=[Skills(skill.parent, pins=pins, scripts=FREE)])
    assert (await agent.run("go")).status == "completed"
    pins.path(skill).unlink()
    with agent.override(model=ScriptedModel([run(), "done"])):
        asked = await agent.run("go")
        assert asked.status == "needs_approval" and "which no person has accepted" in asked.pending[0].reason
        done = await agent.resume(asked.state, [asked.pending[0].approve()])
    assert told(done) == ["exit status 0\nstdout:\nhello"]


async def test_scripts_do_not_block_the_event_loop(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    rules = SkillScripts(requires_approval=False, workspace=tmp_path / "work")
    skills = skills_with(tmp_path / "skills", {"scripts/a.sh": "echo a", "scripts/a.py": "print('a')"}, rules)
    await results(skills, run("scripts/a.py"))  # first use imports modules, which reads files
    with blockbuster_ctx("agentkit.skills"):
        texts = [told(await results(skills, run(f"scripts/a.{suffix}"))) for suffix in ("sh", "py")]
    assert texts == [["exit status 0\nstdout:\na"]] * 2


async def test_after_a_result_from_the_workspace_the_taint_rule_asks(tmp_path: Path) -> None:
    """A script can change the workspace, and what it printed may be what anyone has written there."""
    (tmp_path / "work").mkdir()
    rules = SkillScripts(requires_approval=False, workspace=tmp_path / "work")
    skills = skills_with(tmp_path / "skills", {"scripts/hello.py": HELLO}, rules)
    result = await results(skills, run(), run())
    assert result.status == "needs_approval" and "untrusted content" in result.pending[0].reason
    agent = Agent(ScriptedModel([run(), run(), "done"]), toolsets=[skills], taint_rule=False)
    assert (await agent.run("go")).status == "completed"


async def test_an_approved_script_that_changed_meanwhile_is_not_run(tmp_path: Path) -> None:
    skill = write_skill(tmp_path / "skills", files={"scripts/hello.py": HELLO})
    pins = SkillPins(tmp_path / "pins")
    pins.write(read_skill(skill))
    agent = Agent(ScriptedModel([run(), "done"]), toolsets=[Skills(skill.parent, pins=pins)])
    result = await agent.run("go")
    (skill / "scripts/hello.py").write_text("print('evil')")
    done = await agent.resume(result.state, [result.pending[0].approve()])
    assert told(done) == [
        "the skill 'greeting' cannot be used: its files differ from their pin; a person can accept them with "
        "`agentkit skills pin`."
    ]


async def test_without_rules_for_scripts_there_is_no_tool(tmp_path: Path) -> None:
    write_skill(tmp_path, files={"scripts/hello.py": HELLO})
    skills = Skills(tmp_path, scripts=None, trusted=True)
    async with skills:
        names = [each.name for each in await skills.list_tools(RunContext(deps=None))]
    assert names == ["load_skill", "read_skill_file"]
    assert "for read_skill_file: scripts/hello.py" in told(await results(skills, load()))[0]


# -- skills of others ---------------------------------------------------------------------------------------------


async def test_a_published_skill_starts_a_server_and_asks_it(tmp_path: Path) -> None:
    """webapp-testing of anthropics/skills, accepted and approved; the sandbox has a loopback interface only."""
    pins = SkillPins(tmp_path / "pins")
    pins.write(read_skill(OPEN_SKILLS / "webapp-testing"))
    ask = "import urllib.request as r; print('status', r.urlopen('http://localhost:8123').status)"
    python = sys.executable
    arguments = ["--server", f"{python} -m http.server 8123", "--port", "8123", "--", python, "-c", ask]
    skills = Skills(OPEN_SKILLS, pins=pins)
    calls = [load("webapp-testing"), run("scripts/with_server.py", *arguments, name="webapp-testing")]
    agent = Agent(ScriptedModel([*calls, "done"]), toolsets=[skills])
    asked = await agent.run("Test the page.")
    assert asked.status == "needs_approval" and not asked.state.tainted
    done = await agent.resume(asked.state, [asked.pending[0].approve()])
    text = told(done)[1]
    assert text.startswith("exit status 0") and "status 200" in text and "All servers stopped" in text


def test_the_flag_of_the_published_script_is_kept() -> None:
    assert os.access(OPEN_SKILLS / "webapp-testing/scripts/with_server.py", os.X_OK)
