"""Compares this project's MCP servers with the reference servers for git, fetch and time: calls and connecting.

Both are driven by the plain `mcp.Client` of this process over stdio, as in a user's host. agentkit's servers are
also called over HTTP (the reference servers have no HTTP). Each server is also called in one process with a
client, in its own environment. A call is the smallest of its kind. Programs alternate, so that other activity on
the machine affects all of them. Fetching requests a loopback page with a new URL each time, without checking
robots.txt. Connecting is the time from starting the process to receiving the list of tools.

    python -m evals.speed.mcp_servers
    python -m evals.speed.mcp_servers --only agentkit        # no peers, no environment
"""

# pyright: reportMissingImports=false
# The peers are installed in a separate environment.
from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

from evals.speed.peers import peer_python, printed_by
from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, write_result

PEERS = ("mcp-server-git==2026.10.19", "mcp-server-fetch==2026.10.24", "mcp-server-time==2026.10.19")
LIMIT_CALL = 1.0
"""Maximum ratio of agentkit's median call to the reference server's."""
LIMIT_CONNECT = 0.7
WARM_CALLS = 5
N_COMMITS = 50

ROOT = Path(__file__).resolve().parents[2]
Arguments = Callable[[int], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class World:
    """Content that the servers serve."""

    repository: str
    page: str
    """URL of a page on loopback."""

    @property
    def origin(self) -> str:
        """Origin of the page's URL."""
        return self.page.rsplit("/", 1)[0]


@dataclass(frozen=True, slots=True)
class Program:
    """A server and its smallest call."""

    module: str
    """Module to run with `python -m`."""
    options: Callable[[World], list[str]]
    tool: str
    arguments: Callable[[World, int], dict[str, Any]]
    """Arguments of the n-th call."""
    is_ours: bool = True


def _build(name: str, world: World) -> Any:
    """Return a server to be called in one process with its client."""
    module = import_module(f"{PROGRAMS[name].module}.server")
    if name == "agentkit git":
        return module.build_server(world.repository)
    if name == "agentkit fetch":
        return module.build_server(allow=[world.origin], ignore_robots=True)
    if name == "agentkit time":
        return module.build_server("Europe/Berlin")
    if name == "reference git":
        return module.create_server(Path(world.repository))
    if name == "reference fetch":
        return module.create_server(None, True, None, True)
    return module.create_server("Europe/Berlin")


PROGRAMS: dict[str, Program] = {
    "agentkit git": Program(
        "mcp_servers.git", lambda world: [world.repository], "git_log", lambda world, n: {"limit": 10}
    ),
    "reference git": Program(
        "mcp_server_git",
        lambda world: ["--repository", world.repository],
        "git_log",
        lambda world, n: {"repo_path": world.repository, "max_count": 10},
        is_ours=False,
    ),
    "agentkit fetch": Program(
        "mcp_servers.fetch",
        lambda world: ["--allow", world.origin, "--ignore-robots"],
        "fetch",
        lambda world, n: {"url": f"{world.page}?{n}"},
    ),
    "reference fetch": Program(
        "mcp_server_fetch",
        lambda world: ["--ignore-robots-txt", "--allow-private-ips"],
        "fetch",
        lambda world, n: {"url": f"{world.page}?{n}"},
        is_ours=False,
    ),
    "agentkit time": Program(
        "mcp_servers.time",
        lambda world: ["--zone", "Europe/Berlin"],
        "convert_time",
        lambda world, n: {"time": "14:30", "to_zone": "Asia/Tokyo"},
    ),
    "reference time": Program(
        "mcp_server_time",
        lambda world: ["--local-timezone", "Europe/Berlin"],
        "convert_time",
        lambda world, n: {"time": "14:30", "source_timezone": "Europe/Berlin", "target_timezone": "Asia/Tokyo"},
        is_ours=False,
    ),
}
KINDS = ("git", "fetch", "time")
SETTLING_S = 2.5
"""Seconds from the repository's last commit to the first call."""


@contextmanager
def a_world() -> Generator[World]:
    """Create a repository and serve a page."""
    with tempfile.TemporaryDirectory() as folder, a_page() as page:
        _make_repository(Path(folder))
        # Measures a repository at rest, as most are: folders that changed within the file system's clock
        # resolution are read again at each call (`mcp_servers.git.links`).
        time.sleep(SETTLING_S)
        yield World(folder, page)


def _make_repository(folder: Path) -> None:
    environment = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": "/dev/null",
        **{f"GIT_{role}_{key}": "a@example.org" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")},
    }

    def git(*arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)

    git("init", "-q", "-b", "main")
    for i in range(N_COMMITS):
        (folder / f"file{i % 7}.txt").write_text(f"line {i}\n" * 20)
        git("add", "-A")
        git("commit", "-q", "-m", f"Commit {i}")


@contextmanager
def a_page() -> Generator[str]:
    """Serve an article of a few kilobytes; yield its URL."""
    paragraphs = "".join(
        f"<p>Paragraph {i}: <a href='/{i}'>a link</a> and {'some words ' * 20}</p>" for i in range(20)
    )
    head = "<html><head><title>Page</title></head>"
    body = f"{head}<body><main><h1>Page</h1>{paragraphs}</main></body></html>".encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/page"
    finally:
        server.shutdown()
        server.server_close()


@dataclass(frozen=True, slots=True)
class Times:
    """Times of one program over one transport, in milliseconds."""

    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: list[float]) -> Times:
        """Return the quantiles of single times."""
        cuts = statistics.quantiles(seconds, n=100, method="inclusive")
        return cls(statistics.median(seconds) * 1e3, cuts[98] * 1e3)


async def _call(client: Any, program: Program, world: World, n: int) -> float:
    started = time.perf_counter()
    result = await client.call_tool(program.tool, program.arguments(world, n))
    taken = time.perf_counter() - started
    if result.is_error:
        raise RuntimeError(f"{program.module} {program.tool}: {result.content}")
    return taken


async def in_process(name: str, world: World, n_calls: int) -> Times:
    """Call a server that shares this process, and its environment, with the client."""
    from mcp import Client

    numbers = itertools.count(1_000_000)
    async with Client(_build(name, world)) as client:
        for _ in range(WARM_CALLS):
            await _call(client, PROGRAMS[name], world, next(numbers))
        return Times.of([await _call(client, PROGRAMS[name], world, next(numbers)) for _ in range(n_calls)])


@asynccontextmanager
async def _connected(name: str, world: World, python: str) -> AsyncGenerator[Any]:
    from mcp import Client, StdioServerParameters, stdio_client

    program = PROGRAMS[name]
    parameters = StdioServerParameters(
        command=python, args=["-m", program.module, *program.options(world)], cwd=str(ROOT)
    )
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        async with Client(stdio_client(parameters, errlog=nowhere)) as client:
            yield client


async def over_stdio(names: list[str], world: World, pythons: Mapping[str, str], n_calls: int) -> dict[str, Times]:
    """Call servers in their own processes, alternately."""
    from contextlib import AsyncExitStack

    found: dict[str, Times] = {}
    for kind in KINDS:  # only two child processes at a time; more would wait for a core
        together = [name for name in names if name.endswith(kind)]
        async with AsyncExitStack() as stack:
            clients = {
                name: await stack.enter_async_context(_connected(name, world, pythons[name])) for name in together
            }
            times: dict[str, list[float]] = {name: [] for name in together}
            for n in range(WARM_CALLS + n_calls):
                for name, client in clients.items():
                    taken = await _call(client, PROGRAMS[name], world, n)
                    if n >= WARM_CALLS:
                        times[name].append(taken)
        found.update({name: Times.of(each) for name, each in times.items()})
    return found


async def connecting(names: list[str], world: World, pythons: Mapping[str, str], n_times: int) -> dict[str, float]:
    """Return the median seconds from starting a server to its list of tools; programs alternate."""
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(n_times + 1):
        for name in names:
            started = time.perf_counter()
            async with _connected(name, world, pythons[name]) as client:
                await client.list_tools()
                times[name].append(time.perf_counter() - started)
    return {
        name: statistics.median(each[1:]) for name, each in times.items()
    }  # the first connection reads from disk


async def over_http(name: str, world: World, n_calls: int) -> Times:
    """Call one of agentkit's servers over Streamable HTTP on loopback."""
    import httpx2
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

    program = PROGRAMS[name]
    process = subprocess.Popen(
        [sys.executable, "-m", program.module, *program.options(world), "--http"],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        url = process.stderr.readline().split(": ", 1)[1].strip()
        token = process.stderr.readline().removeprefix("token: ").strip()
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            httpx2.AsyncClient(headers=headers) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            for n in range(WARM_CALLS):
                await _call(client, program, world, 2_000_000 + n)
            return Times.of([await _call(client, program, world, 3_000_000 + n) for n in range(n_calls)])
    finally:
        process.terminate()
        process.communicate()


def _in_process(name: str, python: str, world: World, n_calls: int) -> Times:
    arguments = ("--program", name, "--calls", str(n_calls), "--world", json.dumps(asdict(world)))
    return Times(**printed_by(python, "evals.speed.mcp_servers", *arguments))


def measure(names: list[str], pythons: Mapping[str, str], n_calls: int, n_connects: int) -> dict[str, Any]:
    """Return all times."""
    import anyio

    with a_world() as world:
        print("in one process ...", flush=True)
        inside = {name: _in_process(name, pythons[name], world, n_calls) for name in names}
        print("over stdio ...", flush=True)
        stdio = anyio.run(over_stdio, names, world, pythons, n_calls)
        print("over HTTP ...", flush=True)
        http = {name: anyio.run(over_http, name, world, n_calls) for name in names if PROGRAMS[name].is_ours}
        print("connecting ...", flush=True)
        connects = anyio.run(connecting, names, world, pythons, n_connects)
    return {"in one process": inside, "stdio": stdio, "HTTP": http, "connect": connects}


def to_result(found: Mapping[str, Any], n_calls: int, n_connects: int) -> BenchmarkResult:
    """Convert the figures to the common result type."""
    figures: list[Figure] = []
    comparisons: list[Comparison] = []
    for way in ("in one process", "stdio", "HTTP"):
        for name, times in found[way].items():
            figures.append(Figure(f"call, {way}, {name}, p50", times.p50, "ms"))
            figures.append(Figure(f"call, {way}, {name}, p99", times.p99, "ms"))
    for kind in KINDS:
        ours, theirs = f"agentkit {kind}", f"reference {kind}"
        if theirs not in found["connect"]:
            continue
        for way in ("in one process", "stdio"):
            values = {name: found[way][name].p50 for name in (ours, theirs)}
            ratio = values[ours] / values[theirs]
            figures.append(Figure(f"call, {way}, {kind}: ours to theirs", ratio, "x", bound=LIMIT_CALL))
            comparisons.append(Comparison(f"{kind}: a call, {way}", "ms", ours, values))
        connects = {name: found["connect"][name] * 1e3 for name in (ours, theirs)}
        ratio = connects[ours] / connects[theirs]
        figures.append(Figure(f"connect, {kind}: ours to theirs", ratio, "x", bound=LIMIT_CONNECT))
        comparisons.append(Comparison(f"{kind}: connect", "ms", ours, connects))
    return BenchmarkResult(
        figures=tuple(figures),
        comparisons=tuple(comparisons),
        parameters={"calls": str(n_calls), "connects": str(n_connects), "peers": ", ".join(PEERS)},
    )


def report(found: Mapping[str, Any], result: BenchmarkResult) -> int:
    """Print the tables; return 1 if a bound is broken, else 0."""
    for way in ("in one process", "stdio", "HTTP"):
        for name, times in found[way].items():
            print(f"{way:15} {name:18} p50 {times.p50:8.2f} ms   p99 {times.p99:8.2f} ms")
    for name, seconds in found["connect"].items():
        print(f"{'connect':15} {name:18} {seconds * 1e3:12.0f} ms")
    broken = [figure for figure in result.figures if figure.holds is False]
    for figure in result.figures:
        if figure.bound is not None:
            print(f"{figure.name}: {figure.value:.2f} (at most {figure.bound:g})")
    return 1 if broken else 0


def main() -> int:
    """Measure, print the tables, and return 1 if a bound is broken, else 0."""
    import anyio

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("agentkit",), help="measure without the reference servers")
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--connects", type=int, default=9)
    parser.add_argument("--env", type=Path, default=Path(".venv-peers-mcp"), help="environment of the peers")
    parser.add_argument("--program", choices=sorted(PROGRAMS), help=argparse.SUPPRESS)
    parser.add_argument("--world", help=argparse.SUPPRESS)
    add_result_option(parser)
    options = parser.parse_args()
    if options.program:
        world = World(**json.loads(options.world))
        print(json.dumps(asdict(anyio.run(in_process, options.program, world, options.calls))))
        return 0
    names = [name for name, program in PROGRAMS.items() if program.is_ours or not options.only]
    theirs = "" if options.only else str(peer_python(options.env, PEERS).absolute())
    pythons = {name: sys.executable if PROGRAMS[name].is_ours else theirs for name in names}
    found = measure(names, pythons, options.calls, options.connects)
    result = to_result(found, options.calls, options.connects)
    write_result(options.result, result)
    return report(found, result)


if __name__ == "__main__":
    sys.exit(main())
