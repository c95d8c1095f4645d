"""Programs of the comparison of drafts by multi-token prediction: each loads a GGUF file and continues prompts.

A program runs in its own process, by the interpreter of its environment; all imports except the standard library's
are inside the functions. The protocol is JSON, one object per line: first the version of the program, then one
answer per input line with the reply, the draft tokens that were evaluated and accepted, and the CPU seconds.

    python -P evals/speed/mtp_programs.py torch model.gguf --drafts
"""

# pyright: reportMissingImports=false
# The peer is installed in a separate environment.
from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

MAX_AHEAD = 3
"""Maximum length of a draft, llama.cpp's default."""
Continue = Callable[[list[int], int], dict[str, Any]]
"""Takes a prompt and a number of tokens; returns `reply`, `n_drafted` and `n_accepted`."""


def torch_engine(source: Path, threads: int, window: int, drafts: bool, *, always: bool = False) -> Continue:
    """Return modelstack's torch engine in float32; `always`: it drafts, also where that does not pay."""
    from modelstack.inference.engine import GenerateRequest
    from modelstack.inference.torch.engine import TorchEngine
    from modelstack.train.process import set_up_process

    set_up_process(threads)
    engine = TorchEngine.load(source, context_window=window, drafter="mtp" if drafts else None)

    if drafts and always:
        from modelstack.inference.speculation.draft_lengths import StepCosts

        class NoCosts(StepCosts):
            def seconds(self, sizes: Any) -> Any:
                return sizes * 0.0 + 1.0

        assert engine._speculation is not None  # pyright: ignore[reportPrivateUsage]
        engine._speculation.costs = NoCosts()  # pyright: ignore[reportPrivateUsage]

    def answer(prompt: list[int], n_reply: int) -> dict[str, Any]:
        reply = engine.generate(GenerateRequest(prompt, n_reply, end_ids=frozenset()))
        drafted, accepted = reply.stats.drafted_tokens, reply.stats.accepted_tokens
        return {"reply": reply.ids, "n_drafted": drafted, "n_accepted": accepted}

    return answer


def llama_cpp_server(source: Path, threads: int, window: int, drafts: bool) -> Continue:
    """Return llama.cpp's server with its own drafts by multi-token prediction."""
    from urllib.request import Request, urlopen

    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(source)
    settings.n_ctx, settings.n_parallel, settings.cache_ram_mib = window, 1, 0
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    for cpu in (settings.cpuparams, settings.cpuparams_batch):
        cpu.n_threads, cpu.poll = threads, 0
    if drafts:
        settings.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_MTP]
        settings.speculative.draft.n_max = MAX_AHEAD
        for cpu in (settings.speculative.draft.cpuparams, settings.speculative.draft.cpuparams_batch):
            cpu.n_threads, cpu.poll = threads, 0
    server = xllamacpp.Server(settings)

    def answer(prompt: list[int], n_reply: int) -> dict[str, Any]:
        fixed = {"temperature": 0, "top_k": 1, "ignore_eos": True, "return_tokens": True, "cache_prompt": False}
        data = json.dumps({"prompt": prompt, "n_predict": n_reply} | fixed).encode()
        url, headers = f"{server.listening_address}/completion", {"Content-Type": "application/json"}
        with urlopen(Request(url, data, headers)) as response:
            found = json.load(response)
        timings = found["timings"]
        drafted, accepted = timings.get("draft_n", 0), timings.get("draft_n_accepted", 0)
        return {"reply": found["tokens"], "n_drafted": drafted, "n_accepted": accepted}

    return answer


PROGRAMS: dict[str, tuple[str, Callable[[Path, int, int, bool], Continue]]] = {
    "torch": ("torch", torch_engine),
    "torch, always": ("torch", partial(torch_engine, always=True)),
    "llama.cpp server": ("xllamacpp", llama_cpp_server),
}
"""Distribution whose version is reported, and function, by name."""


def main() -> int:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", choices=list(PROGRAMS))
    parser.add_argument("source", type=Path, help="a GGUF file")
    parser.add_argument("--drafts", action="store_true", help="draft tokens with the model's module")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--window", type=int, default=512, help="tokens of a prompt and its reply")
    options = parser.parse_args()

    out, sys.stdout = sys.stdout, sys.stderr  # programs print, too
    distribution, program = PROGRAMS[options.program]
    answer = program(options.source, options.threads, options.window, options.drafts)
    print(json.dumps({"version": f"{distribution} {version(distribution)}"}), file=out, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        started = time.process_time()
        found = answer(asked["prompt"], asked["n_reply"])
        print(json.dumps(found | {"cpu_s": time.process_time() - started}), file=out, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
