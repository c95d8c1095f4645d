"""Programs of the first-token comparison: each loads a model and answers requests of conversations, one at a time.

A program runs in its own process, by the interpreter of its environment; all imports except the standard library's
are inside the functions. The protocol is JSON, one object per line: first the version of the program, then one
answer per input line with the seconds to the first token, the number of prompt tokens that were evaluated, and the
reply. The line "close" ends the program in order, so that what it stores is whole.

    python -P evals/speed/first_token_programs.py llama.cpp model.gguf --store FOLDER
"""

# pyright: reportMissingImports=false
# The peer is installed in a separate environment.
from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

Answer = dict[str, Any]
Program = Callable[[Path, Path, int, int, int], tuple[Callable[[Answer], Answer], Callable[[], None]]]
"""Takes weights, store, threads, conversations and window; returns functions that answer and that close."""


def llama_cpp_engine(
    source: Path, store: Path, threads: int, n_conversations: int, window: int
) -> tuple[Callable[[Answer], Answer], Callable[[], None]]:
    """Return modelstack's engine on llama.cpp, whose cells hold one window per conversation."""
    from modelstack.inference.llama.engine import LlamaCppEngine
    from modelstack.inference.state_store import StateStore

    engine = LlamaCppEngine(
        source,
        n_threads=threads,
        n_threads_prefill=threads,
        context_window=window,
        n_cells=n_conversations * window,
        max_conversations=n_conversations,
        states=StateStore(store),
    )
    return by_engine(engine), engine.close


def torch_engine(
    source: Path, store: Path, threads: int, n_conversations: int, window: int
) -> tuple[Callable[[Answer], Answer], Callable[[], None]]:
    """Return modelstack's torch engine in bf16."""
    import torch

    from modelstack.inference.state_store import StateStore
    from modelstack.inference.torch.engine import TorchEngine
    from modelstack.train.process import set_up_process

    set_up_process(threads)
    engine = TorchEngine.load(
        source,
        dtype=torch.bfloat16,
        context_window=window,
        n_cached_tokens=n_conversations * window,
        store=StateStore(store),
        stores_conversations=True,
    )
    return by_engine(engine), engine.close


def by_engine(engine: Any) -> Callable[[Answer], Answer]:
    """Return a function that answers with an engine of this project."""
    from modelstack.inference.engine import GenerateRequest

    def answer(asked: Answer) -> Answer:
        started, first = time.perf_counter(), list[float]()

        def told(_: list[int]) -> None:
            first.append(time.perf_counter() - started)

        request = GenerateRequest(
            asked["prompt"],
            asked["n_reply"],
            fixed_tokens=asked["n_fixed"],
            conversation=asked["conversation"],
            end_ids=frozenset(),
        )
        reply = engine.generate(request, on_tokens=told)
        return {"first_s": first[0], "n_evaluated": reply.stats.prefilled_tokens, "reply": reply.ids}

    return answer


def llama_cpp_server(
    source: Path, store: Path, threads: int, n_conversations: int, window: int
) -> tuple[Callable[[Answer], Answer], Callable[[], None]]:
    """Return llama.cpp's server with a slot for each conversation, and its cache of prompts in memory."""
    from urllib.request import Request, urlopen

    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(source)
    settings.n_ctx, settings.n_parallel = n_conversations * window, n_conversations
    for cpu in (settings.cpuparams, settings.cpuparams_batch):
        cpu.n_threads, cpu.poll = threads, 0
    server = xllamacpp.Server(settings)

    def completed(prompt: list[int], n_reply: int) -> Answer:
        # A stream would hold tokens back until their bytes are whole characters.
        fixed = {"temperature": 0, "top_k": 1, "ignore_eos": True, "return_tokens": True, "cache_prompt": True}
        data = json.dumps({"prompt": prompt, "n_predict": n_reply} | fixed).encode()
        url, headers = f"{server.listening_address}/completion", {"Content-Type": "application/json"}
        with urlopen(Request(url, data, headers)) as reply:
            return json.load(reply)

    def answer(asked: Answer) -> Answer:
        started = time.perf_counter()
        first = completed(asked["prompt"], 1)
        first_s = time.perf_counter() - started
        rest = completed(asked["prompt"] + first["tokens"], asked["n_reply"] - 1)
        reply = first["tokens"] + rest["tokens"]
        return {"first_s": first_s, "n_evaluated": first["timings"]["prompt_n"], "reply": reply}

    return answer, lambda: None


PROGRAMS: dict[str, tuple[str, Program]] = {
    "torch": ("torch", torch_engine),
    "llama.cpp": ("llama_cpp_python", llama_cpp_engine),
    "llama.cpp server": ("xllamacpp", llama_cpp_server),
}
"""Distribution whose version is reported, and function, by name."""


def answers(
    answer: Callable[[Answer], Answer], close: Callable[[], None], lines: Iterator[str]
) -> Iterator[Answer]:
    """Yield the answer to each line of the protocol."""
    for line in lines:
        if line.strip() == "close":
            close()
            yield {}
            return
        yield answer(json.loads(line))


def main() -> int:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", choices=list(PROGRAMS))
    parser.add_argument("source", type=Path, help="weights")
    parser.add_argument("--store", type=Path, required=True, help="folder for what outlives the process")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--conversations", type=int, default=8)
    parser.add_argument("--window", type=int, default=4096, help="tokens that a conversation may hold")
    options = parser.parse_args()

    out, sys.stdout = sys.stdout, sys.stderr  # programs print, too
    distribution, program = PROGRAMS[options.program]
    functions = program(options.source, options.store, options.threads, options.conversations, options.window)
    print(json.dumps({"version": f"{distribution} {version(distribution)}"}), file=out, flush=True)
    for each in answers(*functions, sys.stdin):
        print(json.dumps(each), file=out, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
