"""Improves an agent on one server and prints the verdict: `python -m evals.improvement workshop --out FOLDER`.

`--harmful` on the same folder then holds the gate for a candidate that is worse than the version accepted there.
The rollouts of that version are in the folder's journal, so only the candidate runs.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import anyio
import typer

from agentkit import Agent, MCPToolset
from agentkit.improve import (
    BudgetLimits,
    GateOptions,
    ImproveOptions,
    Pieces,
    Progress,
    Rule,
    SearchOptions,
    Version,
    Wanted,
    improve,
)
from agentkit.limits import UsageLimits
from agentkit.models.base import Model, ModelSettings
from agentkit.tools.toolset import Toolset
from evals.improvement import society, tariff, workshop

LIMITS = UsageLimits(request_limit=6, tool_calls_limit=6)
SETTINGS = ModelSettings(temperature=0.0, seed=0, max_tokens=64)
CONNECT_TIMEOUT_S = 120.0
HARMFUL = Pieces(rules=(Rule(text="Answer at once, in one word, without calling a tool.", source="template"),))
"""A candidate that the gate must refuse."""
MAX_COST_INCREASE = 1.0
"""Allowed rise of the tokens of a task: an answer without a call is cheap, but wrong in these tasks."""
TIMEOUT_S = 1800.0
"""Long, because a rollout beside other work is not a failure of the model."""

app = typer.Typer(add_completion=False)
Subject = Literal["workshop", "society", "tariff"]
SUBJECTS = {"workshop": workshop, "society": society, "tariff": tariff}


def server(name: Subject, folder: Path) -> Toolset:
    """Return the MCP server of a subject on a folder."""
    match name:
        case "workshop":
            return _child("sqlite", folder / workshop.DATABASE)
        case "society":
            return _child("filesystem", folder)
        case "tariff":
            return _child("python")


def _child(module: str, *words: Any) -> Toolset:
    command = ("-m", f"mcp_servers.{module}", *map(str, words))
    return MCPToolset.stdio("python", *command, id=module, connect_timeout_s=CONNECT_TIMEOUT_S, pins=None)


async def improved(
    name: Subject, model: Model | str, out: Path, options: ImproveOptions, candidate: Pieces | None, told: Progress
) -> Version:
    """Improve an agent on one subject, or hold the gate for a candidate that is given."""
    subject = SUBJECTS[name]
    with TemporaryDirectory(prefix="improvement-") as made:
        folder = Path(made)
        subject.build(folder)
        agent = Agent(
            model,
            name=name,
            instructions=subject.INSTRUCTIONS,
            toolsets=[server(name, folder)],  # it only reads, so all rollouts share it
            limits=LIMITS,
            settings=SETTINGS,
            taint_rule=False,  # nobody is there to be asked, and no content comes from outside
        )
        wanted = Wanted(agent, subject.tasks(), candidate=candidate)
        async with agent:
            return await improve(wanted, out, options, told)


@app.command()
def main(
    name: Annotated[Subject, typer.Argument(metavar="workshop|society|tariff")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the improvement; a started one is resumed.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Model as for `agentkit run`.")] = "local:small",
    rollouts: Annotated[int, typer.Option(help="Budget of rollouts, the gate included.")] = 120,
    seed: Annotated[int, typer.Option(help="Seed of split, search and bootstrap.")] = 0,
    parallel: Annotated[int, typer.Option(help="Rollouts at once; a local model decodes them together.")] = 8,
    harmful: Annotated[
        bool, typer.Option("--harmful", help="Hold the gate for a candidate that is worse.")
    ] = False,
) -> None:
    """Improve an agent and print the verdict of the gate."""
    options = ImproveOptions(
        seed=seed,
        search=SearchOptions(minibatch=4),
        budget=BudgetLimits(rollouts=rollouts),
        gate=GateOptions(max_cost_increase=MAX_COST_INCREASE),
        timeout_s=TIMEOUT_S,
        parallel=parallel,
    )
    told = Progress(
        lambda part, done, total, each: print(
            f"{done}/{total} {part} {each.task_id} {each.score:g} {each.seconds:.1f} s: {each.explanation}",
            flush=True,
        ),
        lambda text: print(text, flush=True),
    )
    version = anyio.run(improved, name, model, out, options, HARMFUL if harmful else None, told)
    print("\n".join(version.pieces.lines()))
    print(version.verdict.model_dump_json(indent=1) if version.verdict else "no candidate was better")


if __name__ == "__main__":
    app()
