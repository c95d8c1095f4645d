"""Cost of a journal: time and bytes per step, up to a thousand steps, compared with LangGraph's SQLite saver.

The task is that of `agent_loop`: N steps, each one call of `add(a, b)`, then an answer, with a model that takes no
time. A run is made without a journal, with the journal, and with journal and trace. The database on the disk of
`--folder` is already open, as in an application. Bytes are the growth of the database after its log is merged. The
log is merged between run lengths, not between runs, because the first write after a merge starts a new log and
waits for the disk, which would be a cost of the measurement and not of the run.

The peer is LangGraph's prebuilt agent with `AsyncSqliteSaver`, in its own environment.

    python -m evals.speed.journal
    python -m evals.speed.journal --only agentkit        # no peer, no environment
"""

# pyright: reportMissingImports=false
# The peer is installed in a separate environment.
from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from evals.speed.agent_loop import add
from evals.speed.peers import peer_python, printed_by
from evals.speed.results import (
    BenchmarkResult,
    Comparison,
    Curves,
    Figure,
    add_result_option,
    write_result,
)

STEPS = (10, 50, 200, 1000)
PEERS = ("langgraph==1.2.24", "langgraph-checkpoint-sqlite==3.1.2")
LIMIT_WALL_MS = 1.0
"""Maximum wall milliseconds that the journal adds to a step."""
LIMIT_CPU_MS = 0.25
"""Maximum CPU milliseconds of a step with journal and trace; equal to the loop's own limit."""
LIMIT_GROWTH = 1.2
"""Maximum cost of a step in the longest run, relative to the shortest."""
LIMIT_BYTES_GROWTH = 1.1
"""Maximum bytes of a step in the longest run, relative to the shortest; single pages may differ."""

RunOnce = Callable[[int], Awaitable[None]]
Open = Callable[[Path], AbstractAsyncContextManager[RunOnce]]
"""Opens a program in a folder; its database there is `runs.db`."""


@dataclass(frozen=True, slots=True)
class Step:
    """Cost of a step in a run of some length."""

    cpu_ms: float
    wall_ms: float
    n_bytes: float
    """Bytes in the database; 0 without a database."""


@asynccontextmanager
async def agentkit_run(folder: Path, *, journal: bool, trace: bool) -> AsyncGenerator[RunOnce]:
    """Yield the task for agentkit."""
    from agentkit import Agent, ModelResponse, UsageLimits
    from agentkit.messages import TextPart, ToolCallPart
    from agentkit.persistence import SQLiteCheckpointer
    from agentkit.testing import FunctionModel

    keeper = SQLiteCheckpointer(folder / "runs.db")

    async def run(n: int) -> None:
        def model(messages: Any, parameters: Any) -> ModelResponse:
            if len(messages) // 2 < n:
                # Different numbers in each step, because the runtime does not repeat a call whose result did not
                # change.
                return ModelResponse((ToolCallPart("add", f'{{"a": 1, "b": {1000 + len(messages)}}}'),))
            return ModelResponse((TextPart("done"),))

        agent = Agent(
            FunctionModel(model),
            tools=[add],
            limits=UsageLimits(request_limit=None),
            checkpointer=keeper if journal else None,
            trace=folder / "traces" if trace else None,
        )
        result = await agent.run("add many times")
        assert (result.output, result.usage.tool_calls) == ("done", n)

    yield run
    keeper.close()


@asynccontextmanager
async def langgraph_run(folder: Path) -> AsyncGenerator[RunOnce]:
    """Yield the task for LangGraph's prebuilt agent with its SQLite saver."""
    from uuid import uuid4

    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    from evals.speed.agent_loop import langgraph_agent

    async with AsyncSqliteSaver.from_conn_string(str(folder / "runs.db")) as saver:

        async def run(n: int) -> None:
            graph, model = langgraph_agent(n, checkpointer=saver)
            config = {"recursion_limit": 3 * n + 20, "configurable": {"thread_id": str(uuid4())}}
            result = await graph.ainvoke({"messages": [("user", "add")]}, config)
            assert (result["messages"][-1].content, model.step) == ("done", n + 1)

        yield run


PROGRAMS: dict[str, Open] = {
    "agentkit": partial(agentkit_run, journal=True, trace=False),
    "agentkit, bare": partial(agentkit_run, journal=False, trace=False),
    "agentkit, with trace": partial(agentkit_run, journal=True, trace=True),
    "langgraph": langgraph_run,
}


def measure(name: str, repeats: int, folder: Path, sizes: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """Return the cost of a step for each N of `sizes`, measured in this process."""

    async def one(run: RunOnce, n: int) -> tuple[float, float]:
        cpu, wall = time.process_time(), time.perf_counter()
        await run(n)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return cpu / n * 1e3, wall / n * 1e3

    async def all_sizes(new: Path) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        async with PROGRAMS[name](new) as run:
            await run(sizes[0])
            for n in sizes:  # a short run is repeated more often, so that every figure covers equally many steps
                before = _merged_size(new / "runs.db")
                await run(n)  # starts a new log
                steps = [await one(run, n) for _ in range(max(1, repeats * 200 // n))]
                n_new = _merged_size(new / "runs.db") - before
                found[str(n)] = {
                    "cpu_ms": statistics.median(cpu for cpu, _ in steps),
                    "wall_ms": statistics.median(wall for _, wall in steps),
                    "n_bytes": n_new / n / (len(steps) + 1),
                }
        return found

    with tempfile.TemporaryDirectory(dir=folder) as new:
        return asyncio.run(all_sizes(Path(new)))


def _merged_size(path: Path) -> int:
    if not path.exists():
        return 0
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file.close()
    return path.stat().st_size


def main() -> int:
    """Measure, print the table, and return 1 if a bound is broken, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", choices=("agentkit", "langgraph"), help="measure one program in the current environment"
    )
    parser.add_argument("--program", choices=sorted(PROGRAMS), help="print the figures of one program as JSON")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(STEPS), metavar="N")
    parser.add_argument("--env", type=Path, default=Path(".venv-peers-journal"), help="environment of the peer")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="folder of the databases")
    add_result_option(parser)
    options = parser.parse_args()
    sizes = tuple(sorted(options.sizes))
    if options.program:
        print(json.dumps(measure(options.program, options.repeats, options.folder, sizes)))
        return 0
    figures: dict[str, dict[str, Step]] = {}
    for name in PROGRAMS:
        if options.only and not name.startswith(options.only):
            continue
        python = sys.executable
        if name == "langgraph" and not options.only:
            try:
                python = str(peer_python(options.env, PEERS))
            except subprocess.CalledProcessError as error:
                print(f"the peer cannot be installed (pip ended with {error.returncode}); it is left out")
                continue
        found = _measured(python, name, options.repeats, options.folder, sizes)
        if found is not None:
            figures[name] = found
    result = to_result(figures, sizes, options.repeats)
    write_result(options.result, result)
    return report(figures, sizes, result)


def _measured(
    python: str, name: str, repeats: int, folder: Path, sizes: tuple[int, ...]
) -> dict[str, Step] | None:
    arguments = ["--program", name, "--folder", str(folder), "--repeats", str(repeats)]
    arguments += ["--sizes", *map(str, sizes)]
    try:
        found = printed_by(python, "evals.speed.journal", *arguments)
    except RuntimeError as error:
        print(f"{name}: {error}")
        return None
    return {n: Step(**step) for n, step in found.items()}


def to_result(figures: dict[str, dict[str, Step]], sizes: tuple[int, ...], repeats: int) -> BenchmarkResult:
    """Convert the figures to the common result type."""
    first, last = str(sizes[0]), str(sizes[-1])
    bounds: list[Figure] = []
    journal, bare, traced = (
        figures.get(name, {}) for name in ("agentkit", "agentkit, bare", "agentkit, with trace")
    )
    if journal and bare and traced:
        added = max(journal[n].wall_ms - bare[n].wall_ms for n in journal)
        growth = traced[last].cpu_ms / traced[first].cpu_ms
        in_bytes = journal[last].n_bytes / journal[first].n_bytes
        bounds = [
            Figure("journal, added to a step, worst N", added, "ms", bound=LIMIT_WALL_MS),
            Figure(
                "CPU time of a step with journal and trace, worst N",
                max(step.cpu_ms for step in traced.values()),
                "ms",
                bound=LIMIT_CPU_MS,
            ),
            Figure(f"growth of that, N={last} to N={first}", growth, "x", bound=LIMIT_GROWTH),
            Figure("growth of a step's bytes with the run's length", in_bytes, "x", bound=LIMIT_BYTES_GROWTH),
        ]
    lines = {name: row for name, row in figures.items() if name != "agentkit, bare"}
    wall = {name: row[last].wall_ms for name, row in lines.items()}
    n_bytes = {name: row[last].n_bytes for name, row in lines.items()}
    x = tuple(map(float, sizes))
    return BenchmarkResult(
        figures=tuple(bounds),
        comparisons=(
            Comparison(f"wall time of a step, N={last}", "ms", "agentkit", wall),
            Comparison(f"bytes of a step, N={last}", "B", "agentkit", n_bytes),
        ),
        curves=(
            Curves(
                "wall time of a step with a journal",
                "steps of the run",
                "wall time of a step (ms)",
                x,
                {name: tuple(row[str(n)].wall_ms for n in sizes) for name, row in lines.items()},
            ),
            Curves(
                "bytes of a step in the journal",
                "steps of the run",
                "bytes of a step",
                x,
                {name: tuple(row[str(n)].n_bytes for n in sizes) for name, row in lines.items()},
            ),
        ),
        parameters={"repeats": str(repeats)},
    )


def report(figures: dict[str, dict[str, Step]], sizes: tuple[int, ...], result: BenchmarkResult) -> int:
    """Print the tables; return 1 if a bound is broken, else 0."""
    print(f"a step, Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for key, unit in (("cpu_ms", "CPU ms"), ("wall_ms", "wall ms"), ("n_bytes", "bytes")):
        print(f"{unit:22}" + "".join(f"{'N=' + str(n):>10}" for n in sizes))
        for name, row in figures.items():
            values = [asdict(row[str(n)])[key] for n in sizes]
            print(f"  {name:20}" + "".join(f"{v:10.0f}" if key == "n_bytes" else f"{v:10.3f}" for v in values))
    for figure in result.figures:
        print(f"{figure.name}: {figure.value:.3f} {figure.unit} (bound {figure.bound}): {_verdict(figure)}")
    return 1 if result.broken or not result.figures else 0


def _verdict(figure: Figure) -> str:
    return "ok" if figure.holds else "BROKEN"


if __name__ == "__main__":
    sys.exit(main())
