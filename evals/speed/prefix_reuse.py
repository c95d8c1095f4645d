"""Evaluated tokens and time to first token over the turns of a conversation, with and without the prefix cache.

A 20-turn conversation, then three interleaved conversations. Each is run with agentkit's engine, with the same
engine after its cache was cleared (no reuse), and with llama-cpp-python's own `create_chat_completion`, on the
same model file with the same thread counts and reply lengths. Bound: every turn evaluates only its new tokens,
plus at most one (the last token of the previous reply, which was not evaluated before).

Then the same across processes: the first token of a cold process and of later ones, which restore the prompt's
fixed part from disk (`warm_start`).

    python -m evals.speed.prefix_reuse [--gguf MODEL.gguf]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from agentkit import Agent, LocalModel, ModelSettings
from agentkit.messages import ModelMessage, ModelResponse, messages_from_json, messages_to_json
from agentkit.models.catalog.entries import local_path
from evals.speed import warm_start
from evals.speed.results import (
    BenchmarkResult,
    Comparison,
    Curves,
    Figure,
    add_result_option,
    write_result,
)

QUESTIONS = (
    "What is the capital of France, and what is the city known for?",
    "Tell me about the river that runs through it.",
    "Which museums should I visit there if I have only two days?",
    "How do I get from the airport to the centre in the evening?",
    "What should I eat for breakfast?",
)
REPLY_TOKENS = 24
MIN_RATIO = 5.0
"""Minimum ratio of the time to first token without reuse to that with reuse, at the last turn."""


@dataclass
class Turn:
    """Measurements of one turn."""

    n_prompt: int
    n_new: int
    n_prefilled: int
    n_reused: int
    first_token_s: float


@dataclass
class Conversation:
    """A conversation with its own system prompt, so that conversations share no prefix."""

    name: str
    messages: tuple[ModelMessage, ...] = ()
    n_known: int = 0
    """Tokens of prompt and reply after the last turn."""
    turns: list[Turn] = field(default_factory=list)

    @property
    def instructions(self) -> str:
        """System prompt of the conversation."""
        return f"Conversation {self.name}. You are a travel guide. Answer in one or two sentences. " * 8


async def ask(model: LocalModel, conversation: Conversation, *, cold: bool) -> None:
    """Ask the next question; `cold` clears the cache first."""
    question = QUESTIONS[len(conversation.turns) % len(QUESTIONS)]
    history = conversation.messages
    if cold:
        engine = model.load()
        for known in list(getattr(engine, "cached_tokens", {})):
            engine.forget(known)
        history = messages_from_json(messages_to_json(history))
    agent = Agent(model, instructions=conversation.instructions, settings=ModelSettings(max_tokens=REPLY_TOKENS))
    result = await agent.run(question, message_history=history)
    response = result.messages[-1]
    assert isinstance(response, ModelResponse)
    assert response.decoding is not None
    conversation.messages = result.messages
    conversation.turns.append(
        Turn(
            n_prompt=response.usage.input_tokens,
            n_new=response.usage.input_tokens - conversation.n_known,
            n_prefilled=response.decoding.prefilled_tokens,
            n_reused=response.decoding.reused_tokens,
            first_token_s=response.decoding.first_token_s,
        )
    )
    conversation.n_known = response.usage.input_tokens + response.usage.output_tokens


async def converse(model: LocalModel, names: str, n_turns: int, *, cold: bool) -> list[Conversation]:
    """Hold the conversations interleaved: all first questions, then all second ones, and so on."""
    conversations = [Conversation(name) for name in names]
    for _ in range(n_turns):
        for conversation in conversations:
            await ask(model, conversation, cold=cold)
    return conversations


def high_level(path: str, threads: Any, names: str, n_turns: int) -> list[list[float]]:
    """Return the seconds to the first token of each turn with `create_chat_completion`."""
    from llama_cpp import Llama

    llama = Llama(
        path, n_ctx=8192, n_threads=threads.decode, n_threads_batch=threads.prefill, n_batch=512, verbose=False
    )
    histories: list[list[Any]] = [
        [{"role": "system", "content": Conversation(name).instructions}] for name in names
    ]
    times: list[list[float]] = [[] for _ in names]
    for turn in range(n_turns):
        for history, seconds in zip(histories, times, strict=True):
            history.append({"role": "user", "content": QUESTIONS[turn % len(QUESTIONS)]})
            start = time.perf_counter()
            text, first = "", None
            chunks: Any = llama.create_chat_completion(
                history, max_tokens=REPLY_TOKENS, temperature=0.0, stream=True
            )
            for chunk in chunks:
                piece = chunk["choices"][0]["delta"].get("content")
                if piece:
                    first = first or time.perf_counter() - start
                    text += piece
            seconds.append(first if first is not None else time.perf_counter() - start)
            history.append({"role": "assistant", "content": text})
    llama.close()
    return times


def main() -> int:
    """Measure, print the tables, and return 1 if a bound is broken, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument(
        "--gguf", action="append", default=[], metavar="FILE", help="further model for the test across processes"
    )
    add_result_option(parser)
    options = parser.parse_args()
    model = LocalModel(options.model, prompt_cache_bytes=0)
    engine: Any = model.load()
    print(f"{options.model}, threads {engine.threads}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")

    good = True
    parts: list[BenchmarkResult] = []
    for names in ("A", "BCD"):
        warm = asyncio.run(converse(model, names, options.turns, cold=False))
        cold = asyncio.run(converse(model, names.lower(), options.turns, cold=True))
        peer = high_level(str(local_path(options.model)), engine.threads, names, options.turns)
        good &= report(names, warm, cold, peer)
        parts.append(to_result(names, warm, cold, peer))
    model.close()
    for other in (options.model, *options.gguf):
        found = warm_start.measure(other)
        good &= warm_start.report(found)
        parts.append(warm_start.to_result(found))
    parameters = {"model": options.model, "turns": str(options.turns), "threads": str(engine.threads)}
    write_result(
        options.result,
        BenchmarkResult(
            figures=tuple(figure for part in parts for figure in part.figures),
            comparisons=tuple(comparison for part in parts for comparison in part.comparisons),
            curves=tuple(curves for part in parts for curves in part.curves),
            parameters=parameters,
        ),
    )
    return 0 if good else 1


def to_result(
    names: str, warm: list[Conversation], cold: list[Conversation], peer: list[list[float]]
) -> BenchmarkResult:
    """Convert the measurements of one table to the common result type."""
    n_turns = len(warm[0].turns)
    kind = "one conversation" if len(names) == 1 else f"{len(names)} interleaved conversations"

    def by_turn(conversations: list[Conversation]) -> tuple[float, ...]:
        return tuple(
            1e3 * statistics.median(c.turns[turn].first_token_s for c in conversations) for turn in range(n_turns)
        )

    high = tuple(1e3 * statistics.median(times[turn] for times in peer) for turn in range(n_turns))
    lines = {"agentkit": by_turn(warm), "without reuse": by_turn(cold), "llama-cpp-python chat call": high}
    last = {name: values[-1] for name, values in lines.items()}
    surplus = max(t.n_prefilled - t.n_new for c in warm for t in c.turns)
    saved = last["without reuse"] / last["agentkit"]
    title = f"time to first token, {kind}"
    return BenchmarkResult(
        figures=(
            Figure(f"tokens evaluated beyond the new ones, {kind}", float(surplus), "tokens a turn", bound=1.0),
            Figure(
                f"time to first token without reuse, turn {n_turns}, {kind}",
                saved,
                "x ours",
                bound=MIN_RATIO,
                bound_kind="at least",
            ),
        ),
        comparisons=(Comparison(f"{title}, turn {n_turns}", "ms", "agentkit", last),),
        curves=(
            Curves(
                title, "turn", "time to first token (ms)", tuple(float(turn + 1) for turn in range(n_turns)), lines
            ),
        ),
    )


def report(names: str, warm: list[Conversation], cold: list[Conversation], peer: list[list[float]]) -> bool:
    """Print one table; return whether the bounds hold."""
    print(f"\n{len(names)} conversation{'s, interleaved' if len(names) > 1 else ''} of {len(warm[0].turns)} turns")
    print(f"{'turn':>5}{'prompt':>8}{'new':>6}{'prefilled':>11}{'reused':>8}", end="")
    print(f"{'TTFT ms':>9}{'no reuse':>10}{'high-level':>12}")
    last = len(warm[0].turns) - 1
    for turn in sorted({0, 1, last // 2, last}):
        rows = [c.turns[turn] for c in warm]
        first = rows[0]
        print(
            f"{turn + 1:5}{first.n_prompt:8}{first.n_new:6}{first.n_prefilled:11}{first.n_reused:8}"
            f"{1e3 * statistics.median(r.first_token_s for r in rows):9.0f}"
            f"{1e3 * statistics.median(c.turns[turn].first_token_s for c in cold):10.0f}"
            f"{1e3 * statistics.median(times[turn] for times in peer):12.0f}"
        )
    surplus = [t.n_prefilled - t.n_new for c in warm for t in c.turns]
    ours = statistics.median(c.turns[last].first_token_s for c in warm)
    without = statistics.median(c.turns[last].first_token_s for c in cold) / ours
    beside = statistics.median(times[last] for times in peer) / ours
    good = max(surplus) <= 1 and without >= MIN_RATIO
    print(
        f"tokens evaluated beyond the new ones: at most {max(surplus)} per turn (bound 1), in {len(surplus)} turns"
    )
    print(
        f"time to first token at turn {last + 1}: without reuse {without:.1f}x ours (bound {MIN_RATIO:g}x), "
        f"llama-cpp-python's chat call {beside:.1f}x ours: {'ok' if good else 'BROKEN'}"
    )
    return good


if __name__ == "__main__":
    sys.exit(main())
