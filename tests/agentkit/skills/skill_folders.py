"""Skills that tests write, and agents that use them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import anyio

from agentkit import Agent, Skills
from agentkit.messages import ModelRequest, RetryPromptPart, ToolReturnPart
from agentkit.results import RunResult
from agentkit.testing import ScriptedModel, call

OPEN_SKILLS = Path(__file__).with_name("open_skills")
"""Skills that others published; see SOURCES.md there."""
HELLO = """import sys
print("hello", *sys.argv[1:])
"""


@cache
def why_no_sandbox() -> str:
    """Return the reason why scripts cannot run on this machine; "" if they can."""
    from agentkit.workspace.sandbox import SandboxError, run_in_sandbox

    with tempfile.TemporaryDirectory() as folder:
        try:
            anyio.run(lambda: run_in_sandbox(["true"], folder=Path(folder)))
        except SandboxError as error:
            return str(error)
    return ""


def write_skill(
    folder: Path,
    name: str = "greeting",
    *,
    description: str = "Greets people. Use it when somebody is to be greeted.",
    body: str = "# Greeting\n\nRun scripts/hello.py with the name.\n",
    files: Mapping[str, str | bytes] | None = None,
    head: str | None = None,
) -> Path:
    """Write a skill below `folder` and return its folder; `head` replaces the whole front matter."""
    skill = folder / name
    skill.mkdir(parents=True, exist_ok=True)
    head = f"name: {name}\ndescription: {description}\n" if head is None else head
    written: dict[str, str | bytes] = {"SKILL.md": f"---\n{head}---\n{body}"} | dict(files or {})
    for path, data in written.items():
        (skill / path).parent.mkdir(parents=True, exist_ok=True)
        (skill / path).write_bytes(data.encode() if isinstance(data, str) else data)
    return skill


def load(name: str = "greeting") -> Any:
    return call("load_skill", name=name)


def run(script: str = "scripts/hello.py", *arguments: str, name: str = "greeting") -> Any:
    return call("run_skill_script", name=name, script=script, arguments=list(arguments))


async def results(skills: Skills, *calls: Any) -> RunResult[str]:
    """Let an agent make calls, one in each step."""
    return await Agent(ScriptedModel([*calls, "done"]), toolsets=[skills]).run("go")


def told(result: RunResult[Any]) -> list[str]:
    """Return what the model read of its calls."""
    parts = [part for m in result.messages if isinstance(m, ModelRequest) for part in m.parts]
    return [part.text for part in parts if isinstance(part, ToolReturnPart | RetryPromptPart)]
