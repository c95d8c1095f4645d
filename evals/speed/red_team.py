"""Our red team beside garak on one server: attempts a minute, and processor time of the attacker for each.

    python -m evals.speed.red_team [--model smollm2-135m] [--n 25] [--cap 20]

`modelstack serve` serves the model. `modelstack attack` sends twins of requests under each transform, and garak
its probes that need no further model, both with eight connections and replies of 48 tokens. The questions differ,
so shares of successful attacks are not compared; what is compared is the cost of an attempt, and what a report
says: garak's has no harmless requests, so that a model that refuses everything passes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from evals.speed.peers import peer_python
from evals.speed.ports import free_port
from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, finish
from evals.speed.running import ROOT
from modelstack.align.attack.run import read_records
from modelstack.align.guard_training.rows import GuardRow, Turn
from modelstack.zstd_files import open_unpacked

PAIRS = ROOT / "tools" / "guard_model" / "near_boundary.jsonl.zst"
GARAK = ("garak==0.17.1",)
PROBES = (
    "phrasing.PastTense",
    "phrasing.FutureTense",
    "encoding.InjectBase64",
    "encoding.InjectROT13",
    "encoding.InjectLeet",
    "smuggling.HypotheticalResponse",
    "smuggling.FunctionMasking",
    "suffix.GCGCached",
    "grandma.Win10",
)
"""Probes with prompts of at most some hundred tokens, whose detectors are programs, not models."""
CONNECTIONS, REPLY_TOKENS, START_S = 8, 48, 180.0
OURS, PEER = "modelstack attack", "garak"


@dataclass(frozen=True, slots=True)
class Ran:
    """An attacker's run."""

    attempts: int
    wall_s: float
    cpu_s: float
    """Processor time of the attacker, without the server's."""
    report: str


@contextmanager
def served(model: str, threads: int) -> Iterator[str]:
    """Serve a model; yield the address of its API.

    Raises:
        RuntimeError: The server did not start.
    """
    port = free_port()
    command = [sys.executable, "-m", "modelstack", "serve", model, "--port", str(port), "--threads", str(threads)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        deadline = time.monotonic() + START_S
        while server.poll() is None and time.monotonic() < deadline:
            try:
                if httpx.get(f"{url}/models").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        else:
            raise RuntimeError(f"the server of {model} did not start")
        yield url
    finally:
        server.terminate()
        server.wait()


def rows_file(folder: Path) -> Path:
    """Write the project's own twins as rows for `modelstack attack`."""
    rows: list[GuardRow] = []
    with open_unpacked(PAIRS) as lines:
        for number, line in enumerate(lines):
            pair = json.loads(line)
            for unsafe in (True, False):
                text = pair["unsafe" if unsafe else "safe"]
                rows.append(
                    GuardRow(
                        id=f"{number}-{unsafe}",
                        turns=(Turn(role="user", content=text),),
                        unsafe=unsafe,
                        categories=(pair["hazard"],) if unsafe else (),
                        source="near_boundary",
                        license="Apache-2.0",
                        pair=str(number),
                    )
                )
    file = folder / "rows.jsonl"
    file.write_text("".join(f"{row.model_dump_json()}\n" for row in rows), encoding="utf-8")
    return file


def attack(url: str, model: str, n: int, folder: Path) -> Ran:
    """Run our attack."""
    out = folder / "attack"
    command = [
        sys.executable,
        "-m",
        "modelstack",
        "attack",
        url,
        "--model",
        model,
        "--rows",
        str(rows_file(folder)),
    ]
    command += ["--n", str(n), "--max-tokens", str(REPLY_TOKENS), "--concurrency", str(CONNECTIONS)]
    wall_s, cpu_s = _timed([*command, "--out", str(out)], os.environ)
    records = read_records(out)
    kinds = Counter((each.harmful, each.succeeded) for each in records if "unable" not in each.kinds)
    harmful, harmless = (kinds[which, True] + kinds[which, False] for which in (True, False))
    report = (
        f"{len({each.transform for each in records})} transforms; harmful requests answered "
        f"{kinds[True, True]} of {harmful}, harmless twins answered {kinds[False, True]} of {harmless}"
    )
    return Ran(harmful + harmless, wall_s, cpu_s, report)


def garak(url: str, model: str, cap: int, python: Path, folder: Path) -> Ran:
    """Run garak's probes, each with at most `cap` prompts."""
    options = {"uri": f"{url}/", "max_tokens": REPLY_TOKENS, "temperature": 0, "stop": []}
    config = {
        "system": {"parallel_attempts": CONNECTIONS, "lite": True},
        "run": {"generations": 1, "soft_probe_prompt_cap": cap, "seed": 0},
        "plugins": {
            "target_type": "openai.OpenAICompatible",
            "target_name": model,
            "generators": {"openai": {"OpenAICompatible": options}},
        },
        "reporting": {"report_prefix": "run", "report_dir": str(folder / "garak")},
    }
    file = folder / "garak.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    command = [str(python), "-m", "garak", "--config", str(file), "--probes", ",".join(PROBES)]
    own = {"XDG_DATA_HOME": str(folder), "XDG_CACHE_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    wall_s, cpu_s = _timed(command, {**os.environ, **own, "OPENAICOMPATIBLE_API_KEY": "none"})
    (found,) = folder.rglob("run.report.jsonl")
    entries = [json.loads(line) for line in found.read_text(encoding="utf-8").splitlines()]
    attempts = {each["uuid"] for each in entries if each.get("entry_type") == "attempt"}
    probes = {each["probe"] for each in entries if each.get("entry_type") == "eval"}
    return Ran(len(attempts), wall_s, cpu_s, f"{len(probes)} probes; no harmless requests")


def _timed(command: Sequence[str], environment: os._Environ[str] | dict[str, str]) -> tuple[float, float]:
    """Return wall-clock and processor seconds of a command.

    Raises:
        RuntimeError: The command failed; the message ends with its output.
    """
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    wall_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed\n{(done.stdout + done.stderr)[-2000:]}")
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(options: argparse.Namespace) -> BenchmarkResult:
    """Run both attackers against the same server."""
    python = None if options.only == "modelstack" else peer_python(options.env, GARAK)
    ran: dict[str, Ran] = {}
    with tempfile.TemporaryDirectory() as work, served(options.model, options.threads) as url:
        ran[OURS] = attack(url, options.model, options.n, Path(work))
        if python is not None:
            ran[PEER] = garak(url, options.model, options.cap, python, Path(work))
    figures: list[Figure] = []
    for name, run in ran.items():
        print(f"{name}: {run.attempts:,} attempts in {run.wall_s:.0f} s, {run.cpu_s:.0f} s of the attacker's CPU")
        print(f"  {run.report}")
        figures += [
            Figure(f"{name}, attempts", run.attempts, ""),
            Figure(f"{name}, attempts a minute", 60 * run.attempts / run.wall_s, "1/min"),
            Figure(f"{name}, processor time of an attempt", 1000 * run.cpu_s / run.attempts, "ms"),
        ]
    costs = {name: 1000 * run.cpu_s / run.attempts for name, run in ran.items()}
    comparison = Comparison("processor time of the attacker for an attempt", "ms", OURS, costs)
    parameters = {"model": options.model, "n": str(options.n), "cap": str(options.cap)}
    notes = tuple(f"{name}: {run.report}" for name, run in ran.items())
    return BenchmarkResult(tuple(figures), (comparison,), parameters=parameters, notes=notes)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="id of the catalog")
    parser.add_argument("--n", type=int, default=25, help="harmful requests of our attack, each with its twin")
    parser.add_argument("--cap", type=int, default=20, help="prompts of each probe of garak")
    parser.add_argument("--only", choices=["modelstack"], help="leave the peer out")
    parser.add_argument("--env", type=Path, default=Path(".venv-peers-red-team"), help="environment of the peer")
    parser.add_argument("--threads", type=int, default=2, help="threads of the server")
    add_result_option(parser)
    options = parser.parse_args(argv)
    return finish(options.result, measure(options))


if __name__ == "__main__":
    raise SystemExit(main())
