"""Requests a CPU second of a served agent, beside pydantic-ai's AG-UI adapter and Google ADK's API server.

Every program serves the same agent (`serving_agents_worker`): a model that takes no time calls a tool once and
answers, streamed. A request begins a conversation of its own and is answered with the whole run as server-sent
events; the benchmark checks call, result and answer in each reply. The servers run side by side, each in a process
and environment of its own, all on uvicorn; in each round the same clients load one after the other, in an order
that turns around. Counted are the CPU seconds of the server during its requests, without its start.

- `agentkit, durable` is `POST /ag-ui` as `agentkit serve` has it: request, every step and every event are in a
  SQLite file before they are told, so that a run survives the server. This is more than the peers do.
- `agentkit, in memory` is the same route with journal and sessions in the memory of the process, where they stay.
- `pydantic-ai` is `AGUIAdapter.dispatch_request` in a Starlette route; it keeps nothing after the reply.
- `Google ADK` is `POST /run_sse` of the application of `adk api_server`, with its session service in memory, where
  sessions stay; the request creates its session.

Pieces of text that come within 50 ms are one event in both of ours, and one each in the peers; the model's answer
has four.

    python -m evals.speed.serving_agents [--repeats 3] [--requests 300] [--clients 20]
    python -m evals.speed.serving_agents --memory 10000   # memory of the durable server over so many runs
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from evals.speed.json_process import JsonProcess
from evals.speed.peers import peer_python
from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, finish
from evals.speed.running import child_environment
from evals.speed.serving_agents_clients import Load, Protocol, load, resident_bytes
from evals.speed.turns import ratio_by_turn

LEAST = 2.0
"""Promised ratio of the requests a CPU second of both forms to those of each peer."""
MOST_GROWTH_MB = 10.0
"""Largest growth of the durable server's memory after the first thousand runs."""
START_S = 120.0
"""Seconds in which a server must accept requests."""
MB = 1e6
UVICORN = ("uvicorn==0.54.0", "httptools==0.9.0")


@dataclass(frozen=True, slots=True)
class AgentServer:
    """A program of the comparison."""

    name: str
    server: str
    """Name in `serving_agents_worker.SERVERS`."""
    protocol: Protocol = "ag-ui"
    packages: tuple[str, ...] = ()
    """Packages of its environment; none: this project's own."""


DURABLE = AgentServer("agentkit, durable", "agentkit-durable")
IN_MEMORY = AgentServer("agentkit, in memory", "agentkit-memory")
PROGRAMS = (
    DURABLE,
    IN_MEMORY,
    AgentServer("pydantic-ai", "pydantic-ai", packages=("pydantic-ai-slim[ag-ui]==2.68.0", *UVICORN)),
    AgentServer("Google ADK", "google-adk", "adk", ("google-adk==2.13.0", *UVICORN)),
)


@dataclass(slots=True)
class MeasuredServer:
    """A running server, and its measurements."""

    pid: int
    port: int
    version: str
    loads: list[Load] = field(default_factory=list[Load])

    def requests_a_cpu_s(self) -> float:
        """Return the median over rounds of the requests a CPU second."""
        return statistics.median(len(each.latencies_s) / each.cpu_s for each in self.loads)

    def latency_ms(self) -> float:
        """Return the median time of a reply over all rounds, in milliseconds."""
        return statistics.median(s for each in self.loads for s in each.latencies_s) * 1e3

    @property
    def seconds(self) -> list[list[float]]:
        """CPU seconds of the rounds, as `ratio_by_turn` takes them."""
        return [[each.cpu_s] for each in self.loads]


def run(
    programs: Sequence[AgentServer], *, n_rounds: int, n_requests: int, n_clients: int, envs: Path
) -> BenchmarkResult:
    """Measure programs in turns; a peer that cannot be installed, started or asked is left out with its reason."""
    notes: list[str] = []
    found: dict[str, MeasuredServer] = {}
    with ExitStack() as stack:
        running: dict[AgentServer, MeasuredServer] = {}
        for program in programs:
            try:
                running[program] = stack.enter_context(serving(program, envs))
            except (RuntimeError, subprocess.CalledProcessError) as error:
                _leave_out(program, error, notes)
        for round_ in range(n_rounds + 1):
            for program in list(running) if round_ % 2 == 0 else list(reversed(running)):
                server = running[program]
                asked = load(
                    server.pid,
                    server.port,
                    program.protocol,
                    n_requests=n_requests,
                    n_clients=n_clients,
                    name=f"round {round_}",
                )
                try:
                    measured = asyncio.run(asked)
                except (RuntimeError, OSError, EOFError, TimeoutError) as error:
                    _leave_out(program, error, notes)
                    del running[program]
                    continue
                if round_:  # the first round warms up
                    server.loads.append(measured)
        found = {program.name: server for program, server in running.items()}
    report(found)
    parameters = {"requests": str(n_requests), "clients": str(n_clients), "rounds": str(n_rounds)}
    versions = {name: server.version for name, server in found.items()}
    return BenchmarkResult(figures_of(found), comparisons_of(found), (), parameters | versions, tuple(notes))


def _leave_out(program: AgentServer, error: Exception, notes: list[str]) -> None:
    notes.append(f"{program.name} not measured: {error}")
    print(notes[-1], flush=True)


@contextmanager
def serving(program: AgentServer, envs: Path) -> Iterator[MeasuredServer]:
    """Yield a server that accepts requests, and end it on exit.

    Raises:
        subprocess.CalledProcessError: its packages cannot be installed.
        RuntimeError: it does not start.
    """
    python, environment = Path(sys.executable), child_environment(os.environ, {})
    if program.packages:
        python = peer_python(envs.resolve() / f".venv-peers-agents-{program.server}", program.packages)
        del environment["PYTHONPATH"]
    script = Path(__file__).with_name("serving_agents_worker.py")
    with tempfile.TemporaryDirectory() as folder:
        # -P: modules beside the script must not replace a peer's.
        command = [str(python), "-P", str(script), program.server]
        errors = Path(folder, "errors.log")
        with JsonProcess(command, "it", environment, errors=errors, limit_s=START_S) as process:
            yield MeasuredServer(process.pid, process.first["port"], process.first["version"])


def figures_of(found: Mapping[str, MeasuredServer]) -> tuple[Figure, ...]:
    """Return the ratio of both of ours to each peer."""
    ours = [name for name in (DURABLE.name, IN_MEMORY.name) if name in found]
    figures: list[Figure] = []
    for mine in ours:
        for theirs in (name for name in found if name not in ours):
            ratio, low, high = ratio_by_turn(found[mine].seconds, found[theirs].seconds)
            name = f"requests a CPU second: {mine} beside {theirs}"
            figures.append(Figure(name, ratio, "x", low, high, LEAST, "at least"))
    return tuple(figures)


def comparisons_of(found: Mapping[str, MeasuredServer]) -> tuple[Comparison, ...]:
    """Return requests a CPU second and the median latency of all programs."""
    if IN_MEMORY.name not in found:
        return ()
    speeds = {name: server.requests_a_cpu_s() for name, server in found.items()}
    latencies = {name: server.latency_ms() for name, server in found.items()}
    return (
        Comparison("requests a CPU second of a served agent", "requests/CPU s", IN_MEMORY.name, speeds),
        Comparison("median time of a reply under load", "ms", IN_MEMORY.name, latencies),
    )


def report(found: Mapping[str, MeasuredServer]) -> None:
    """Print the measurements and ratios."""
    for name, server in found.items():
        speed, latency = server.requests_a_cpu_s(), server.latency_ms()
        print(f"{name:20} {speed:8.1f} requests/CPU s  {latency:8.1f} ms median", flush=True)
    for figure in figures_of(found):
        print(f"{figure.name}: {figure.value:.2f}x ({figure.low:.2f}-{figure.high:.2f})", flush=True)


def memory(n_runs: int, n_clients: int, envs: Path) -> BenchmarkResult:
    """Return the memory of the durable server after each thousand of runs."""
    after: dict[int, float] = {}
    with serving(DURABLE, envs) as server:
        step = min(1000, n_runs)
        for n in range(step, n_runs + 1, step):
            name = f"until {n}"
            asked = load(
                server.pid, server.port, DURABLE.protocol, n_requests=step, n_clients=n_clients, name=name
            )
            asyncio.run(asked)
            after[n] = resident_bytes(server.pid) / MB
            print(f"{n:8,} runs {after[n]:8.1f} MB", flush=True)
    growth = after[max(after)] - after[min(after)]
    figures = (
        *(Figure(f"memory after {n:,} runs", mb, "MB") for n, mb in after.items()),
        Figure("growth after the first runs", growth, "MB", bound=MOST_GROWTH_MB),
    )
    return BenchmarkResult(figures, parameters={"runs": str(n_runs), "clients": str(n_clients)})


def main(argv: Sequence[str] | None = None) -> int:
    """Print the measurements; return 1 if a bound is broken, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [program.server for program in PROGRAMS]
    parser.add_argument("--program", action="append", choices=names, help="default: all")
    parser.add_argument("--repeats", type=int, default=3, help="counted rounds")
    parser.add_argument("--requests", type=int, default=300, help="requests to each program in a round")
    parser.add_argument("--clients", type=int, default=20, help="clients that ask at once")
    parser.add_argument("--memory", type=int, metavar="RUNS", help="instead: memory of the durable server")
    parser.add_argument("--envs", type=Path, default=Path(), help="folder of the peers' environments")
    add_result_option(parser)
    options = parser.parse_args(argv)
    if options.memory:
        return finish(options.result, memory(options.memory, options.clients, options.envs))
    programs = [program for program in PROGRAMS if options.program is None or program.server in options.program]
    result = run(
        programs,
        n_rounds=options.repeats,
        n_requests=options.requests,
        n_clients=options.clients,
        envs=options.envs,
    )
    return finish(options.result, result)


if __name__ == "__main__":
    sys.exit(main())
