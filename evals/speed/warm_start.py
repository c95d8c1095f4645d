"""Time to first token of a cold process and of later ones, which restore the prompt's fixed part from disk.

Each process is a new interpreter that loads the model, asks one question with 15 tools, and reports the time to
the first token: from the request (with the engine loaded), and from the start of the process. The replies of the
first and the second process must be equal, token for token. `prefix_reuse` runs this benchmark too.

    python -m evals.speed.warm_start --gguf MODEL.gguf
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, write_result

MAX_FIRST_TOKEN_S, MIN_RATIO = 0.3, 10.0
"""Bounds for the processes after the first one, on two idle cores."""
REPLY_TOKENS = 24
INSTRUCTIONS = "You work in a small company's office. Use the tools; answer in one or two sentences."
QUESTIONS = ("Which files are in the folder invoices?", "How many customers does the table customers have?")
TOOLS: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    ("list_directory", "List the files and folders in a folder.", {"path": "string", "pattern": "string"}),
    ("read_file", "Read a text file, or some of its lines.", {"path": "string", "start": "integer"}),
    ("write_file", "Create a file or replace its content.", {"path": "string", "content": "string"}),
    ("move_file", "Move or rename a file or folder.", {"source": "string", "destination": "string"}),
    ("search_files", "Find lines that match a pattern.", {"pattern": "string", "path": "string"}),
    ("list_tables", "List the tables of the database and their columns.", {"schema": "string"}),
    ("query", "Run a read-only SQL query and return its rows.", {"sql": "string", "limit": "integer"}),
    ("execute", "Run an SQL statement that changes data.", {"sql": "string"}),
    ("current_time", "Return the time in a time zone.", {"timezone": "string"}),
    ("convert_time", "Convert a time between zones.", {"time": "string", "source": "string", "target": "string"}),
    ("convert_units", "Convert a quantity.", {"value": "number", "source": "string", "target": "string"}),
    ("fetch", "Fetch a web page as text.", {"url": "string", "max_characters": "integer"}),
    ("git_log", "Show commits.", {"repository": "string", "since": "string", "limit": "integer"}),
    ("send_message", "Send a message to a person.", {"to": "string", "subject": "string", "body": "string"}),
    ("remember", "Keep a fact for later conversations.", {"topic": "string", "fact": "string"}),
)


@dataclass(frozen=True, slots=True)
class ProcessTimes:
    """Report of one process; times in seconds."""

    imported_s: float
    """From the start of the process to the end of the imports."""
    loaded_s: float
    """From the end of the imports until the engine is loaded."""
    first_token_s: float
    """From the request to the first token, with the engine loaded; includes building grammar and prompt."""
    since_start_s: float
    """From the start of the process to the first token."""
    engine_s: float
    """Part of `first_token_s` within the engine: restoring, evaluating, sampling."""
    n_prompt: int
    n_restored: int
    n_prefilled: int
    reply_ids: list[int]


@dataclass(frozen=True, slots=True)
class WarmStart:
    """Reports of one model, by process."""

    model: str
    cold: ProcessTimes
    second: ProcessTimes
    """Asks the same question."""
    third: ProcessTimes
    """Asks another question."""
    state_bytes: int

    @property
    def ratio(self) -> float:
        """Ratio of the cold process's time to first token to that of the slower later process."""
        return self.cold.first_token_s / max(self.second.first_token_s, self.third.first_token_s)


def measure(model: str) -> WarmStart:
    """Start three processes one after another on one new prompt cache.

    Raises:
        RuntimeError: a process failed, or the second one's reply differs from the first one's.
    """
    with tempfile.TemporaryDirectory() as folder:
        cold, second, third = (_process(model, folder, question) for question in (0, 0, 1))
        state_bytes = sum(path.stat().st_size for path in Path(folder).glob("*.kv"))
    if cold.reply_ids != second.reply_ids:
        raise RuntimeError(f"{model}: the reply is {second.reply_ids} after a restore, {cold.reply_ids} without")
    return WarmStart(Path(model).name, cold, second, third, state_bytes)


def _process(model: str, folder: str, question: int) -> ProcessTimes:
    command = [sys.executable, "-m", "evals.speed.warm_start", "--worker", model, folder, str(question)]
    done = subprocess.run([*command, str(time.time())], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"the process for {model} ended with status {done.returncode}")
    return ProcessTimes(**json.loads(done.stdout.splitlines()[-1]))


def work(model: str, folder: str, question: int, started: float) -> ProcessTimes:
    """Load a model, ask one question, and report; the work of one process."""
    import asyncio

    from agentkit.messages import ModelRequest, SystemPromptPart, UserPromptPart
    from agentkit.models.base import ModelRequestParameters, ModelSettings
    from agentkit.models.local.model import LocalModel
    from agentkit.models.local.shipped import ADAPTER_FILE, PRIOR_FILE, shipped_folder
    from agentkit.tools.definition import ToolDefinition
    from modelstack.inference.state_store import StateStore

    shipped = shipped_folder(model)
    options: dict[str, Any] = {}
    if shipped is not None:
        options = {"lora": shipped / ADAPTER_FILE, "abstain": True}
        options |= {"prior": shipped / PRIOR_FILE} if (shipped / PRIOR_FILE).is_file() else {}
    local = LocalModel(model, states=StateStore(folder), **options)
    imported_s = time.time() - started
    begun = time.perf_counter()
    engine: Any = local.load()
    loaded_s = time.perf_counter() - begun

    first: list[float] = []
    reply: list[Any] = []
    generate = engine.generate

    def timed(request: Any, *, on_tokens: Any = None, cancelled: Any = None) -> Any:
        def hear(ids: list[int]) -> None:
            first.append(time.perf_counter())
            on_tokens(ids)

        reply.append(generate(request, on_tokens=hear, cancelled=cancelled))
        return reply[-1]

    engine.generate = timed
    tools = tuple(
        ToolDefinition(
            name,
            description,
            {
                "type": "object",
                "properties": {key: {"type": kind} for key, kind in parameters.items()},
                "required": [next(iter(parameters))],
            },
        )
        for name, description, parameters in TOOLS
    )
    messages = [ModelRequest((SystemPromptPart(INSTRUCTIONS), UserPromptPart(QUESTIONS[question])))]
    settings = ModelSettings(max_tokens=REPLY_TOKENS)
    begun = time.perf_counter()
    response = asyncio.run(local.request(messages, ModelRequestParameters(tools=tools, settings=settings)))
    since_start_s = time.time() - started - (time.perf_counter() - first[0])
    local.close()
    stats = reply[0].stats
    return ProcessTimes(
        imported_s=imported_s,
        loaded_s=loaded_s,
        first_token_s=first[0] - begun,
        since_start_s=since_start_s,
        engine_s=stats.first_token_s,
        n_prompt=response.usage.input_tokens,
        n_restored=stats.restored_tokens,
        n_prefilled=stats.prefilled_tokens,
        reply_ids=reply[0].ids,
    )


def report(found: WarmStart) -> bool:
    """Print a table; return whether the bounds hold."""
    print(f"\n{found.model}: a prompt of {found.cold.n_prompt} tokens with {len(TOOLS)} tools, fresh processes")
    print(f"{'process':<22}{'restored':>9}{'prefilled':>10}{'first token s':>15}{'engine':>8}", end="")
    print(f"{'since start':>13}{'imports':>9}{'load':>7}")
    for name, times in (("cold", found.cold), ("second", found.second), ("another question", found.third)):
        print(
            f"{name:<22}{times.n_restored:9}{times.n_prefilled:10}{times.first_token_s:15.3f}{times.engine_s:8.3f}"
            f"{times.since_start_s:13.2f}{times.imported_s:9.2f}{times.loaded_s:7.2f}"
        )
    good = all(figure.holds is not False for figure in to_result(found).figures)
    print(
        f"state on disk {found.state_bytes / 1e6:.1f} MB, "
        f"{found.state_bytes / max(found.second.n_restored, 1) / 1e3:.0f} KB a token; cold {found.ratio:.1f}x the "
        f"later ones (bounds {MAX_FIRST_TOKEN_S} s, {MIN_RATIO:g}x): {'ok' if good else 'BROKEN'}"
    )
    return good


def to_result(found: WarmStart) -> BenchmarkResult:
    """Convert the figures of one model to the common result type."""
    later = max(found.second.first_token_s, found.third.first_token_s)
    title = f"first token of a process with {len(TOOLS)} tools, {found.model}"
    return BenchmarkResult(
        figures=(
            Figure(f"{title}, prompt on disk", later, "s", bound=MAX_FIRST_TOKEN_S),
            Figure(f"{title}, cold", found.ratio, "x later ones", bound=MIN_RATIO, bound_kind="at least"),
            Figure(f"{title}, prompt on disk, since the start of the process", found.second.since_start_s, "s"),
            Figure(f"state on disk, {found.model}", found.state_bytes / 1e6, "MB"),
        ),
        comparisons=(
            Comparison(title, "s", "prompt on disk", {"prompt on disk": later, "cold": found.cold.first_token_s}),
        ),
    )


def main() -> int:
    """Measure the named models, or run as one of their processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", action="append", metavar="FILE", help="a model's file; default: smollm2-135m")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    add_result_option(parser)
    options = parser.parse_args()
    if options.worker:
        model, folder, question, started = options.worker
        print(json.dumps(asdict(work(model, folder, int(question), float(started)))))
        return 0
    found = [measure(model) for model in options.gguf or ["smollm2-135m"]]
    verdicts = [report(one) for one in found]
    results = [to_result(one) for one in found]
    write_result(
        options.result,
        BenchmarkResult(
            figures=tuple(figure for one in results for figure in one.figures),
            comparisons=tuple(comparison for one in results for comparison in one.comparisons),
            parameters={"models": ", ".join(one.model for one in found)},
        ),
    )
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
