"""Servers that are killed with SIGKILL at drawn moments, and a client that must not notice.

    python -m tests.agentkit.serving.killed_servers --trials 200 --seed 0

A trial has one journal, two servers and one client. The client begins a run, follows it over whichever server
answers, and decides about its calls; meanwhile servers are killed and started again. Afterwards the client must
have seen each event once and in order, and each tool call must have had its effect once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PIECE_S, PAUSE_S = 0.01, 0.03
"""Seconds between two pieces of a streamed answer, and before and after an effect and a reply."""
PROMPT = "one two shred-three four"
ANSWER = f"done: {PROMPT}"
LATEST_S = 1.0
"""Latest moment of a kill, after the run was asked for; without kills it takes about as long."""
N_KILLS = 3


def serve(journal: Path, world: Path, port: int) -> None:
    """Serve the clerk until the process is killed; each effect is a line in the file `world`."""
    import uvicorn

    from agentkit.messages import ModelMessage, ModelResponse
    from agentkit.models.base import ModelRequestParameters, OnDelta, TextDelta
    from agentkit.serving import app
    from agentkit.testing import FunctionModel
    from mcp_servers.uvicorn_settings import uvicorn_settings
    from tests.agentkit.serving.served_agents import clerk, clerks_reply

    class Typist(FunctionModel):
        async def request(
            self,
            messages: Sequence[ModelMessage],
            parameters: ModelRequestParameters,
            *,
            on_delta: OnDelta | None = None,
        ) -> ModelResponse:
            await asyncio.sleep(PAUSE_S)
            response = await super().request(messages, parameters)
            for letter in response.text:
                if on_delta is not None:
                    on_delta(TextDelta(letter))
                await asyncio.sleep(PIECE_S)
            await asyncio.sleep(PAUSE_S)
            return response

    def note(word: str) -> None:
        descriptor = os.open(world, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, f"{word}\n".encode())
        os.close(descriptor)

    served = app(clerk(note, Typist(clerks_reply), PAUSE_S), journal=journal)
    uvicorn.run(served, host="127.0.0.1", port=port, **uvicorn_settings(log_level="critical"))


def main_of_forks() -> None:
    """Fork a server for each line of standard input, `JOURNAL WORLD PORT` as JSON, and answer with its pid."""
    import uvicorn  # noqa: F401 - all that a server needs, so that a fork is ready

    import tests.agentkit.serving.served_agents  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # a killed server leaves no zombie
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            journal, world, port = json.loads(line)
            try:
                serve(Path(journal), Path(world), port)
            finally:
                os._exit(1)
        print(child, flush=True)


@dataclass
class Servers:
    """Two servers of one journal."""

    forks: subprocess.Popen[str]
    folder: Path
    ports: list[int] = field(default_factory=lambda: [free_port(), free_port()])
    pids: list[int] = field(default_factory=lambda: [0, 0])

    @property
    def world(self) -> list[str]:
        """Effects so far."""
        file = self.folder / "world.txt"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def journal(self) -> Path:
        """The journal's file."""
        return self.folder / "runs.db"

    def start(self, n: int) -> None:
        """Start a server."""
        assert self.forks.stdin is not None and self.forks.stdout is not None
        line = json.dumps([str(self.journal), str(self.folder / "world.txt"), self.ports[n]])
        self.forks.stdin.write(line + "\n")
        self.forks.stdin.flush()
        self.pids[n] = int(self.forks.stdout.readline())

    def kill(self, n: int) -> None:
        """Kill a server."""
        os.kill(self.pids[n], signal.SIGKILL)

    def url(self, n: int) -> str:
        """Return the address of a server."""
        return f"http://127.0.0.1:{self.ports[n % 2]}"


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Patient:
    """A client that asks the next server when one does not answer."""

    def __init__(self, servers: Servers) -> None:
        """Ask two servers in turn."""
        import httpx

        self._servers, self._n = servers, 0
        self._http = httpx.AsyncClient(timeout=20)
        self.events: list[dict[str, Any]] = []
        """Events in the order in which they were read."""

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Return status and body of the first response."""
        import httpx

        while True:
            try:
                response = await self._http.request(method, self._servers.url(self._n) + path, **options)
                if response.status_code != 503:
                    return response.status_code, response.json()
            except httpx.TransportError:
                pass
            self._n += 1
            await asyncio.sleep(0.02)

    async def perform(self, key: str) -> Any:
        """Begin a run and see it through; return its last view."""
        asked: dict[str, Any] = {"json": {"prompt": PROMPT}, "headers": {"Idempotency-Key": key}}
        status, begun = await self.ask("POST", "/runs", **asked)
        assert status == 201, begun
        run_id = begun["run_id"]
        while True:
            await self._follow(run_id)
            _, view = await self.ask("GET", f"/runs/{run_id}")
            if view["status"] == "needs_approval":
                await self._decide(run_id, view["pending"])
            elif view["status"] != "running":
                await self._http.aclose()
                return view

    async def _follow(self, run_id: str) -> None:
        """Read events until the stream ends or breaks."""
        import httpx

        after = self.events[-1]["number"] if self.events else 0
        url = f"{self._servers.url(self._n)}/runs/{run_id}/events"
        try:
            async with self._http.stream("GET", url, headers={"Last-Event-ID": str(after)}) as response:
                async for line in response.aiter_lines():
                    if line.startswith("data: "):
                        self.events.append(json.loads(line.removeprefix("data: ")))
                        if self.events[-1]["event_kind"] in ("run_finished", "run_failed"):
                            return
        except (httpx.TransportError, ValueError):  # a line that was cut is read again
            self._n += 1
            await asyncio.sleep(0.02)

    async def _decide(self, run_id: str, pending: list[dict[str, Any]]) -> None:
        decisions: list[dict[str, Any]] = []
        for each in pending:
            same = {"tool_call_id": each["tool_call_id"], "digest": each["digest"]}
            word = json.loads(each["arguments"])["word"]
            if each["kind"] == "unknown" and word in self._servers.world:
                decisions.append({"decision": "settle", "content": f"filed {word}", **same})
            else:
                decisions.append({"decision": "approve", **same})
        status, told = await self.ask("POST", f"/runs/{run_id}/decisions", json={"decisions": decisions})
        # A decision whose acknowledgement was lost has been applied: the run no longer waits for it.
        assert status == 202 or told["error"]["code"] in ("not_waiting", "stale_decision", "held"), told


async def trial(forks: subprocess.Popen[str], folder: Path, draw: random.Random) -> int:
    """Kill servers at drawn moments of one run; return how often it was taken up again.

    Raises:
        AssertionError: an event was lost or doubled, or an effect.
    """
    from agentkit.persistence import SQLiteCheckpointer

    servers = Servers(forks, folder)
    for n in (0, 1):
        servers.start(n)
    client = Patient(servers)

    async def kill() -> None:
        for moment in sorted(draw.uniform(0, LATEST_S) for _ in range(N_KILLS)):
            await asyncio.sleep(max(0.0, began + moment - asyncio.get_running_loop().time()))
            n = draw.randrange(2)
            servers.kill(n)
            servers.start(n)

    await client.ask("GET", "/health/ready")
    began = asyncio.get_running_loop().time()
    killing = asyncio.create_task(kill())
    try:
        view = await asyncio.wait_for(client.perform("trial"), 60)
        await killing
    finally:
        killing.cancel()
        for n in (0, 1):
            servers.kill(n)
    assert (view["status"], view["output"]) == ("completed", ANSWER), view
    assert servers.world == PROMPT.split(), f"effects: {servers.world}"
    seen = [event["number"] for event in client.events]
    assert seen == list(range(1, len(seen) + 1)), f"numbers: {seen}"
    stored = await SQLiteCheckpointer(servers.journal).events(view["run_id"])
    bodies = [
        {key: value for key, value in event.items() if key not in ("number", "time")} for event in client.events
    ]
    assert bodies == [json.loads(each.body) for each in stored], "the client saw other events than the journal has"
    kinds = [event["event_kind"] for event in client.events]
    results = [event["tool_call_id"] for event in client.events if event["event_kind"] == "tool_result"]
    assert len(results) == len(set(results)), f"results: {results}"
    assert kinds.count("run_requested") == kinds.count("run_started") == 1, f"kinds: {kinds}"
    responses = [event["step"] for event in client.events if event["event_kind"] == "model_response"]
    assert responses == list(range(1, len(PROMPT.split()) + 2)), f"steps: {responses}"
    for at, event in enumerate(client.events):
        if event["event_kind"] == "run_resumed":
            assert event["step"] == kinds[:at].count("model_response"), f"resumed at {event['step']}: {kinds}"
    told = text_after_last_request(client.events)
    assert told == ANSWER, f"text: {told!r}, kinds: {kinds}"
    return kinds.count("run_resumed")


def text_after_last_request(events: Sequence[dict[str, Any]]) -> str:
    """Return the answer as a client shows it: pieces behind the last request of the model.

    A resumed run takes back the pieces of a response that was not stored, and of no other one.
    """
    text, is_stored = "", False
    for event in events:
        match event["event_kind"]:
            case "model_request":
                text, is_stored = "", False
            case "text_delta":
                text += event["text"]
            case "model_response":
                is_stored = True
            case "run_resumed" if not is_stored:
                text = ""
            case _:
                pass
    return text


def begin_forks() -> subprocess.Popen[str]:
    """Start the process that forks servers."""
    command = [sys.executable, "-m", "tests.agentkit.serving.killed_servers", "--forks"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def main() -> None:
    """Run trials and print how many held."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--forks", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.forks:
        main_of_forks()
        return
    failed = resumed = 0
    with begin_forks() as forks:
        for n in range(options.trials):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    resumed += asyncio.run(trial(forks, Path(folder), random.Random(f"{options.seed} {n}")))
                except (AssertionError, TimeoutError) as error:
                    failed += 1
                    print(f"trial {n}: {type(error).__name__}: {error}", flush=True)
            print(f"{n + 1} of {options.trials}, {failed} failed, {resumed} runs taken up again", flush=True)
        forks.terminate()
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
