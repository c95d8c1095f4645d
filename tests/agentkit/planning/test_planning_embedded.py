"""The embedded model follows a plan that code supplies, on real files, and goes another way where a step fails."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agentkit import Agent, MCPToolset, RunResult
from agentkit.messages import ModelRequest, ModelResponse, ToolReturnPart
from agentkit.models.resolve import resolve_model
from agentkit.planning import PlanTemplate, TemplateStep

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("smollm2_gguf"),
    pytest.mark.xdist_group("plans"),
]

TOOLS = {"create_directory", "write_file", "read_text_file", "list_directory", "file_info"}
"""Tools of the server that the model sees: those of the plans, and another one."""


async def follow(folder: Path, task: str, steps: list[TemplateStep]) -> RunResult[str]:
    """Run the embedded model with our filesystem server in a child process."""
    server = MCPToolset.stdio(sys.executable, "-m", "mcp_servers.filesystem", folder, "--write", id="files")
    tools = server.filtered(lambda tool: tool.name in TOOLS)
    agent = Agent(resolve_model("local:tiny"), toolsets=[tools], planner=PlanTemplate(steps), taint_rule=False)
    async with agent:
        return await agent.run(task)


def made(result: RunResult[str]) -> list[tuple[str, dict[str, object]]]:
    responses = [message for message in result.messages if isinstance(message, ModelResponse)]
    return [(call.tool_name, call.arguments_dict()) for each in responses for call in each.tool_calls]


async def test_three_steps_on_files_are_done_in_their_order(tmp_path: Path) -> None:
    result = await follow(
        tmp_path,
        "Make a folder called archive with a note in it that we are closed on Mondays.",
        [
            TemplateStep("Create the folder archive.", "create_directory"),
            TemplateStep("Write the file archive/note.md with the text: Closed on Mondays.", "write_file"),
            TemplateStep("Read the file archive/note.md.", "read_text_file"),
        ],
    )
    assert result.status == "completed" and result.output
    assert result.state.plan is not None
    assert [step.status for step in result.state.plan.steps] == ["done", "done", "done"]
    assert [name for name, _ in made(result)] == ["create_directory", "write_file", "read_text_file"]
    assert (tmp_path / "archive" / "note.md").read_text().rstrip(".\n") == "Closed on Mondays"


async def test_a_step_whose_tool_fails_twice_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "todo.md").write_text("# Todo\n\n- Repair the oven door\n")
    result = await follow(
        tmp_path,
        "Make a folder called archive and tell me the prices.",
        [
            TemplateStep("Create the folder archive.", "create_directory"),
            TemplateStep(
                "Read the file prices.md.",
                "read_text_file",
                otherwise=[TemplateStep("List the directory.", "list_directory")],
            ),
            TemplateStep("Read the file todo.md.", "read_text_file"),
        ],
    )
    assert result.status == "completed" and result.output
    assert result.state.plan is not None and result.state.plan.n_revisions == 1
    assert [step.tool for step in result.state.plan.steps if step.status == "done"] == [
        "create_directory",
        "list_directory",
        "read_text_file",
    ]
    assert (tmp_path / "archive").is_dir()
    parts = [part for m in result.messages if isinstance(m, ModelRequest) for part in m.parts]
    assert "Repair the oven door" in [part.content for part in parts if isinstance(part, ToolReturnPart)][-1]
