"""CPU time of a step of a served agent beside the same step of the loop with its journal alone.

200 sessions at once, each with a run of ten steps: nine calls of a tool and an answer. The model takes no time.
Served, a client begins each run with one request, `POST /runs`, and reads its events to the end from the response.
The server is `agentkit serve`.
Alone, the same runs are tasks of one process, with journal and sessions in a SQLite file too. Rounds of both
alternate, because the speed of a machine changes; the first of each warms up and is not counted. Each repeat has
new processes.

    python -m evals.speed.served_steps [--sessions 200] [--rounds 5] [--repeats 3]
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import httpx

from evals.speed.ports import free_port
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


async def alone(folder: Path, n_sessions: int) -> None:
    """Perform a round without a server for each line of standard input; answer with its CPU seconds."""
    from agentkit import SQLiteSession
    from agentkit.persistence import SQLiteCheckpointer

    checkpointer = SQLiteCheckpointer(folder / "runs.db")
    agent = stepping_agent(checkpointer)

    async def run(name: str) -> None:
        session = SQLiteSession(checkpointer.database, name)
        result = await agent.run("Count.", session=session)
        assert result.output == "counted"

    for line in sys.stdin:
        started = time.process_time()
        await asyncio.gather(*map(run, _sessions(int(line), n_sessions)))
        print(time.process_time() - started, flush=True)


def _sessions(round_: int, n: int) -> list[str]:
    """Return new names of sessions."""
    return [f"{round_}-{number}" for number in range(n)]


async def served(client: httpx.AsyncClient, pid: int, round_: int, n_sessions: int) -> float:
    """Perform a round with a server; return the CPU seconds of its process."""

    async def run(name: str) -> None:
        asked = {"prompt": "Count.", "session": name}
        events = await client.post("/runs", json=asked, headers={"Accept": "text/event-stream"})
        assert '"output":"counted"' in events.text, events.text[-300:]

    before = cpu_s(pid)
    await asyncio.gather(*map(run, _sessions(round_, n_sessions)))
    return cpu_s(pid) - before


async def _until_ready(client: httpx.AsyncClient, server: subprocess.Popen[bytes]) -> None:
    while True:
        if server.poll() is not None:
            raise RuntimeError(f"The server did not start: it ended with status {server.returncode}.")
        try:
            if (await client.get("/health/ready")).is_success:
                return
        except httpx.TransportError:
            await asyncio.sleep(0.05)


async def measured(n_sessions: int, n_rounds: int) -> tuple[float, float]:
    """Return milliseconds of CPU a step, served and alone."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        port = free_port()
        command = [sys.executable, "-m", "agentkit.cli.main", "serve", "evals.speed.served_steps:stepping_agent"]
        command += ["--journal", f"{folder}/served.db", "--port", str(port), "--runs", str(n_sessions)]
        server = stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        stack.callback(server.terminate)
        command = [sys.executable, "-m", "evals.speed.served_steps", "--alone", "--folder", folder]
        command += ["--sessions", str(n_sessions)]
        loop = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        stack.callback(loop.terminate)
        assert loop.stdin is not None and loop.stdout is not None
        limits = httpx.Limits(max_connections=n_sessions, max_keepalive_connections=n_sessions)
        url, spent = f"http://127.0.0.1:{port}", [0.0, 0.0]
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120, trust_env=False) as client:
            await _until_ready(client, server)
            for round_ in range(n_rounds + 1):
                of_server = await served(client, server.pid, round_, n_sessions)
                print(round_, file=loop.stdin, flush=True)
                of_loop = float(loop.stdout.readline())
                if round_ > 0:  # the first warms up
                    spent = [spent[0] + of_server, spent[1] + of_loop]
    n_steps = n_sessions * n_rounds * (N_CALLS + 1)
    return 1000 * spent[0] / n_steps, 1000 * spent[1] / n_steps


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
        asyncio.run(alone(options.folder, options.sessions))
        return 0
    pairs = [asyncio.run(measured(options.sessions, options.rounds)) for _ in range(options.repeats)]
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
