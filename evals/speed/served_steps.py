"""CPU time of a step of a served agent beside the same step of the loop with its journal alone.

200 sessions at once, each with a run of ten steps: nine calls of a tool and an answer. The model takes no time.
Served, a client begins each run with `POST /runs` and reads its events to the end. The server is `agentkit serve`.
Alone, the same runs are tasks of one process, with journal and sessions in a SQLite file too. A process performs
several such rounds; the first warms it up and is not counted. Each repeat has new processes.

    python -m evals.speed.served_steps [--sessions 200] [--rounds 5] [--repeats 3]
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import httpx

from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, finish
from evals.speed.serving_agents_clients import cpu_s

if TYPE_CHECKING:
    from agentkit import Agent
    from agentkit.persistence import Checkpointer

N_CALLS = 9
MOST_RATIO = 2.0
"""Promised bound of the CPU time of a served step, in steps of the loop alone."""
SERVED, ALONE = "served", "loop with its journal"


def stepping_agent(checkpointer: Checkpointer | None = None) -> Agent[None, str]:
    """Return an agent that calls its tool nine times, then answers."""
    from agentkit import Agent, ModelResponse, TextPart
    from agentkit.messages import ToolReturnPart
    from agentkit.testing import FunctionModel, call

    def reply(messages: Sequence[Any], parameters: Any) -> ModelResponse:
        n_results = sum(isinstance(part, ToolReturnPart) for message in messages for part in message.parts)
        return ModelResponse((call("count", n=n_results) if n_results < N_CALLS else TextPart("counted"),))

    async def count(n: int) -> int:
        """Count one further."""
        return n + 1

    return Agent(FunctionModel(reply), tools=[count], name="counter", checkpointer=checkpointer)


async def alone(folder: Path, n_sessions: int, n_rounds: int) -> float:
    """Return the CPU seconds of the runs of `n_rounds` without a server, behind a round that warms up."""
    from agentkit import SQLiteSession
    from agentkit.persistence import SQLiteCheckpointer

    checkpointer = SQLiteCheckpointer(folder / "runs.db")
    agent = stepping_agent(checkpointer)

    async def run(name: str) -> None:
        session = SQLiteSession(checkpointer.database, name)
        result = await agent.run("Count.", session=session)
        assert result.output == "counted"

    await asyncio.gather(*map(run, _sessions(0, n_sessions)))
    started = time.process_time()
    for round_ in range(1, n_rounds + 1):
        await asyncio.gather(*map(run, _sessions(round_, n_sessions)))
    return time.process_time() - started


def _sessions(round_: int, n: int) -> list[str]:
    """Return new names of sessions."""
    return [f"{round_}-{number}" for number in range(n)]


async def served(pid: int, url: str, n_sessions: int, n_rounds: int) -> float:
    """Return the CPU seconds of the server for the runs of `n_rounds`, behind a round that warms up."""
    limits = httpx.Limits(max_connections=n_sessions, max_keepalive_connections=n_sessions)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120, trust_env=False) as client:

        async def run(name: str) -> None:
            begun = await client.post("/runs", json={"prompt": "Count.", "session": name})
            events = await client.get(f"/runs/{begun.json()['run_id']}/events")
            assert '"output":"counted"' in events.text, events.text[-300:]

        while True:
            try:
                if (await client.get("/health/ready")).is_success:
                    break
            except httpx.TransportError:
                await asyncio.sleep(0.05)
        await asyncio.gather(*map(run, _sessions(0, n_sessions)))
        before = cpu_s(pid)
        for round_ in range(1, n_rounds + 1):
            await asyncio.gather(*map(run, _sessions(round_, n_sessions)))
        return cpu_s(pid) - before


def measured(n_sessions: int, n_rounds: int) -> tuple[float, float]:
    """Return milliseconds of CPU a step, served and alone."""
    n_steps = n_sessions * n_rounds * (N_CALLS + 1)
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        agent, journal = "evals.speed.served_steps:stepping_agent", f"{folder}/runs.db"
        command = [sys.executable, "-m", "agentkit.cli.main", "serve", agent, "--journal", journal]
        with subprocess.Popen([*command, "--port", str(port), "--runs", str(n_sessions)]) as server:
            try:
                of_server = asyncio.run(served(server.pid, f"http://127.0.0.1:{port}", n_sessions, n_rounds))
            finally:
                server.terminate()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "evals.speed.served_steps", "--alone", "--folder", folder]
        command += ["--sessions", str(n_sessions), "--rounds", str(n_rounds)]
        of_loop = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return 1000 * of_server / n_steps, 1000 * of_loop / n_steps


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if the bound is broken, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    add_result_option(parser)
    options = parser.parse_args(argv)
    if options.alone:
        print(asyncio.run(alone(options.folder, options.sessions, options.rounds)))
        return 0
    pairs = [measured(options.sessions, options.rounds) for _ in range(options.repeats)]
    ratios = sorted(one / other for one, other in pairs)
    values = {SERVED: median(one for one, _ in pairs), ALONE: median(other for _, other in pairs)}
    for name, value in values.items():
        print(f"{name}: {value:.3f} ms of CPU a step")
    print(f"ratio: {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    figure = Figure(f"{SERVED} beside the {ALONE}", median(ratios), "x", ratios[0], ratios[-1], MOST_RATIO)
    comparison = Comparison("CPU time of a step", "ms", SERVED, values)
    return finish(options.result, BenchmarkResult((figure,), (comparison,)))


if __name__ == "__main__":
    sys.exit(main())
