"""Time to first token over interleaved conversations with a long common beginning, beside llama.cpp's server.

Eight conversations share a system prompt of 2,048 tokens and take turns, one request at a time. A turn adds 64
tokens and a reply of 16. After some turns the program is ended and started again, and the conversations go on.
Each program has its own process and one thread; the same requests go to each program in turn. A ratio is that of
the times of a turn, its interval a bootstrap over conversations. Beside it stands the number of tokens evaluated
beyond the new ones: at first the common beginning, later the last token of each reply and rests of blocks.

    python -m evals.speed.first_token [--model smollm2-135m] [--gguf FILE] [--peer]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from agentkit.models.catalog.entries import local_path
from evals.speed.json_process import JsonProcess
from evals.speed.model_forward import ratio_of
from evals.speed.peers import peer_python
from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, finish
from evals.speed.running import ROOT, child_environment
from evals.speed.serving_peers import ENVIRONMENTS

OURS = ("llama.cpp", "torch")
PEER = "llama.cpp server"
N_NEW, N_REPLY = 64, 16
"""Tokens that a turn adds to a conversation."""
RESTARTED = "after a restart"
TOKENS = range(20, 250)
"""Tokens of the prompts, which are not special in the vocabularies of the catalog's models."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the conversations."""

    n_conversations: int
    n_shared: int
    n_turns: int

    @property
    def window(self) -> int:
        """Tokens that a conversation may hold."""
        return self.n_shared + (self.n_turns + 2) * (N_NEW + N_REPLY)


@dataclass(slots=True)
class Run:
    """A program and its conversations."""

    name: str
    command: list[str]
    environment: dict[str, str]
    errors: Path
    histories: list[list[int]]
    first_s: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """Seconds to the first token of each conversation, by turn."""
    n_beyond: dict[str, int] = field(default_factory=dict[str, int])
    """Number of tokens evaluated beyond the new ones of all conversations, by turn."""
    version: str = ""

    def start(self) -> JsonProcess:
        """Start the program.

        Raises:
            RuntimeError: the program ended before it was ready.
        """
        process = JsonProcess(self.command, self.name, self.environment, errors=self.errors)
        self.version = process.first["version"]
        return process

    def take_turn(self, process: JsonProcess, turn: str, new: Sequence[Sequence[int]], n_shared: int) -> None:
        """Send one request of each conversation."""
        self.first_s[turn], self.n_beyond[turn] = [], 0
        for number, (history, ids) in enumerate(zip(self.histories, new, strict=True)):
            history += ids
            asked = {
                "conversation": str(number),
                "prompt": history,
                "n_fixed": n_shared,
                "n_reply": N_REPLY,
            }
            answer = process.ask(json.dumps(asked))
            if len(answer["reply"]) != N_REPLY:
                raise RuntimeError(f"{self.name} wrote {len(answer['reply'])} tokens, not {N_REPLY}")
            self.first_s[turn].append(answer["first_s"])
            self.n_beyond[turn] += answer["n_evaluated"] - len(ids)
            history += answer["reply"]


def measure(runs: Sequence[Run], sizes: Sizes, seed: int = 0) -> list[str]:
    """Run the conversations of all programs, turn by turn; return the names of the turns."""
    rng = random.Random(seed)
    shared = rng.choices(TOKENS, k=sizes.n_shared)
    for run in runs:
        run.histories = [list(shared) for _ in range(sizes.n_conversations)]
    turns = [f"turn {n}" for n in range(1, sizes.n_turns + 1)]

    def new() -> list[list[int]]:
        return [rng.choices(TOKENS, k=N_NEW) for _ in range(sizes.n_conversations)]

    with ExitStack() as stack:
        processes = {run.name: stack.enter_context(run.start()) for run in runs}
        for turn in turns:
            ids = new()
            for run in runs:
                run.take_turn(processes[run.name], turn, ids, sizes.n_shared)
        for process in processes.values():
            process.ask("close")
    with ExitStack() as stack:
        processes = {run.name: stack.enter_context(run.start()) for run in runs}
        ids = new()
        for run in runs:
            run.take_turn(processes[run.name], RESTARTED, ids, sizes.n_shared)
    return [*turns, RESTARTED]


def report(runs: Sequence[Run], turns: Sequence[str], model: str) -> BenchmarkResult:
    """Print the measurements, and return them."""
    figures, comparisons = list[Figure](), list[Comparison]()
    peer = next((run for run in runs if run.name == PEER), None)
    for turn in turns:
        print(f"{model}, {turn}: milliseconds to the first token, tokens evaluated beyond the new ones")
        for run in runs:
            median = statistics.median(run.first_s[turn])
            line = f"  {run.name:20}{1e3 * median:10.1f}{run.n_beyond[turn]:8}"
            if peer is not None and run is not peer:
                ratio, low, high = ratio_of(run.first_s[turn], peer.first_s[turn])
                figures.append(Figure(f"{turn}: {PEER} to {run.name}", ratio, "x", low, high))
                line += f"   {PEER} takes {ratio:.2f}x ({low:.2f}-{high:.2f})"
            figures.append(Figure(f"{turn}: {run.name}, evaluated beyond", run.n_beyond[turn], "tokens"))
            print(line, flush=True)
        values = {run.name: 1e3 * statistics.median(run.first_s[turn]) for run in runs}
        comparisons.append(Comparison(f"first token, {turn}", "ms", runs[0].name, values))
    return BenchmarkResult(
        tuple(figures), tuple(comparisons), parameters={"model": model} | {run.name: run.version for run in runs}
    )


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="name in the catalog")
    parser.add_argument("--gguf", type=Path, help="a GGUF file in place of the catalog's model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--conversations", type=int, default=8)
    parser.add_argument("--shared", type=int, default=2048, help="tokens of the common beginning")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--peer", action="store_true", help="measure llama.cpp's server too")
    parser.add_argument("--envs", type=Path, default=ROOT, help="folder of the peer's environment")
    add_result_option(parser)
    options = parser.parse_args()

    file: Path = options.gguf or local_path(options.model)
    sizes = Sizes(options.conversations, options.shared, options.turns)
    script = Path(__file__).with_name("first_token_programs.py")
    openmp = {"OMP_NUM_THREADS": str(options.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    with tempfile.TemporaryDirectory(prefix="first-token.") as folder:
        runs = list[Run]()
        for name in (*OURS, *([PEER] if options.peer else [])):
            settings, python = child_environment(os.environ, openmp), Path(sys.executable)
            if name == PEER:
                wanted = ENVIRONMENTS["llama-cpp"]
                python = peer_python(options.envs.resolve() / ".venv-peers-serving-llama-cpp", wanted.packages)
                del settings["PYTHONPATH"]
            arguments = ["--store", str(Path(folder, name)), "--threads", str(options.threads)]
            arguments += ["--conversations", str(sizes.n_conversations), "--window", str(sizes.window)]
            command = [str(python), "-P", str(script), name, str(file), *arguments]
            runs.append(Run(name, command, settings, Path(folder, f"{name}.log"), []))
        try:
            turns = measure(runs, sizes)
        except (RuntimeError, subprocess.CalledProcessError) as error:
            print(error, file=sys.stderr)
            return 1
    return finish(options.result, report(runs, turns, options.model if options.gguf is None else file.name))


if __name__ == "__main__":
    raise SystemExit(main())
