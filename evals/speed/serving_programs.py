"""Programs of the serving comparison: each loads a model and continues prompts, greedily and without an end.

A program runs in its own process, by the interpreter of its environment, which holds one peer and nothing of this
project: all imports except the standard library's are inside the functions. Settings are those of a server for
eight requests. A peer's own choices stay (number type of the cache, kernels, rounding of activations).

The protocol is JSON, one object per line: first the version of the program, then one answer per input line with
the replies and the CPU seconds of the process and its children. Other output goes to the error stream.

    echo '{"prompts": [[5, 6, 7]], "n_reply": 2}' | python -P evals/speed/serving_programs.py openvino q8.gguf
"""

# pyright: reportMissingImports=false
# The peers are installed in separate environments.
from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelstack.inference.engine import BatchingEngine

N_ROWS = 8
"""Number of requests that a program runs together."""
WINDOW = 1024
"""Tokens that a request may hold."""
STEP_TOKENS = 512
"""Tokens of prompts that a program reads in one step, if it can be told."""

Write = Callable[[Sequence[Sequence[int]], int], list[list[int]]]
"""Returns the greedy continuations of some prompts of equal length, by a number of tokens."""


def torch_engine(source: Path, numbers: str, threads: int) -> Write:
    """Return modelstack's torch engine."""
    import torch

    from modelstack.inference.torch.engine import TorchEngine
    from modelstack.train.process import set_up_process

    set_up_process(threads)
    dtype = torch.float32 if numbers == "fp32" else torch.bfloat16
    products = "int8" if numbers == "int8" else "float"
    engine = TorchEngine.load(
        source,
        dtype=dtype,
        numbers=products,
        context_window=WINDOW,
        n_cached_tokens=N_ROWS * WINDOW,
        max_step_tokens=STEP_TOKENS,
    )
    return by_steps(engine)


def llama_cpp_engine(source: Path, numbers: str, threads: int) -> Write:
    """Return modelstack's engine on llama.cpp."""
    from modelstack.inference.llama.engine import LlamaCppEngine

    engine = LlamaCppEngine(
        source,
        context_window=WINDOW,
        n_cells=N_ROWS * WINDOW,
        max_conversations=N_ROWS,
        n_threads=threads,
        n_threads_prefill=threads,
        n_batch=STEP_TOKENS,
    )
    return by_steps(engine)


def by_steps(engine: BatchingEngine) -> Write:
    """Return the continuation by any engine of modelstack."""
    from modelstack.inference.engine import GenerateRequest

    def write(prompts: Sequence[Sequence[int]], n_reply: int) -> list[list[int]]:
        requests = [
            GenerateRequest(prompt, n_reply, conversation=str(n), end_ids=frozenset())
            for n, prompt in enumerate(prompts)
        ]
        submissions = [engine.submit(request) for request in requests]
        while not all(submission.is_done for submission in submissions):
            engine.step()
        return [submission.result().ids for submission in submissions]

    return write


def transformers(source: Path, numbers: str, threads: int) -> Write:
    """Return transformers' continuous batching, with one manager for all calls as `transformers serve` has."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    torch.set_num_threads(threads)
    dtype = torch.float32 if numbers == "fp32" else torch.bfloat16
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    page = 32
    manager = model.init_continuous_batching(
        GenerationConfig(max_new_tokens=WINDOW, do_sample=False, eos_token_id=-1, pad_token_id=0),
        ContinuousBatchingConfig(num_blocks=N_ROWS * WINDOW // page, page_size=page, max_batch_tokens=STEP_TOKENS),
    )
    manager.start()

    def write(prompts: Sequence[Sequence[int]], n_reply: int) -> list[list[int]]:
        ids = manager.add_requests(list(map(list, prompts)), max_new_tokens=n_reply)
        found: dict[str, list[int]] = {}
        while len(found) < len(ids):
            output = manager.get_result(timeout=1)
            if output is not None and output.error is not None:
                raise RuntimeError(output.error)
            if output is not None and output.is_finished():
                found[output.request_id] = list(output.generated_tokens)
            elif not manager.is_running():
                raise RuntimeError("the thread of the manager has ended")
        return [found[request] for request in ids]

    return write


def vllm(source: Path, numbers: str, threads: int) -> Write:
    """Return vLLM for CPUs."""
    os.environ |= {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }
    from vllm import LLM, SamplingParams

    dtype = {"bf16": "bfloat16", "fp32": "float32"}[numbers]
    model = LLM(str(source), dtype=dtype, max_model_len=WINDOW, max_num_seqs=N_ROWS, enforce_eager=True)

    def write(prompts: Sequence[Sequence[int]], n_reply: int) -> list[list[int]]:
        sampling = SamplingParams(temperature=0, max_tokens=n_reply, ignore_eos=True, detokenize=False)
        inputs: Any = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        found = model.generate(inputs, sampling, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in found]

    return write


def openvino(source: Path, numbers: str, threads: int) -> Write:
    """Return OpenVINO GenAI's continuous batching."""
    import numpy
    import openvino_genai
    from openvino import Tensor

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 1
    scheduler.max_num_seqs = N_ROWS
    scheduler.max_num_batched_tokens = STEP_TOKENS
    pipeline = openvino_genai.LLMPipeline(
        str(source), "CPU", scheduler_config=scheduler, INFERENCE_NUM_THREADS=threads
    )

    def write(prompts: Sequence[Sequence[int]], n_reply: int) -> list[list[int]]:
        ids = numpy.array(prompts, dtype=numpy.int64)
        settings = openvino_genai.GenerationConfig()
        settings.max_new_tokens = settings.min_new_tokens = n_reply
        settings.ignore_eos, settings.do_sample, settings.apply_chat_template = True, False, False
        inputs = openvino_genai.TokenizedInputs(Tensor(ids), Tensor(numpy.ones_like(ids)))
        return [list(reply) for reply in pipeline.generate(inputs, settings).tokens]

    return write


def onnxruntime(source: Path, numbers: str, threads: int) -> Write:
    """Return ONNX Runtime GenAI, which has static batches only."""
    import numpy
    import onnxruntime_genai

    config = onnxruntime_genai.Config(str(source))
    session = {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
    model = onnxruntime_genai.Model(config)

    def write(prompts: Sequence[Sequence[int]], n_reply: int) -> list[list[int]]:
        ids = numpy.array(prompts, dtype=numpy.int32)
        n_rows, length = len(prompts), ids.shape[1] + n_reply
        parameters = onnxruntime_genai.GeneratorParams(model)
        parameters.set_search_options(max_length=length, min_length=length, do_sample=False, batch_size=n_rows)
        generator = onnxruntime_genai.Generator(model, parameters)
        generator.append_tokens(ids)
        while not generator.is_done():
            generator.generate_next_token()
        return [[int(token) for token in generator.get_sequence(row)[-n_reply:]] for row in range(n_rows)]

    return write


def ctranslate2(source: Path, numbers: str, threads: int) -> Write:
    """Return CTranslate2, which has static batches only."""
    from ctranslate2 import Generator

    model = Generator(str(source), device="cpu", intra_threads=threads, inter_threads=1)
    names = json.loads((source / "vocabulary.json").read_text(encoding="utf-8"))

    def write(prompts: Sequence[Sequence[int]], n_reply: int) -> list[list[int]]:
        found = model.generate_batch(
            [[names[token] for token in prompt] for prompt in prompts],
            max_length=n_reply,
            min_length=n_reply,
            sampling_topk=1,
            include_prompt_in_result=False,
            end_token=[],
        )
        return [list(result.sequences_ids[0]) for result in found]

    return write


def llama_cpp_server(source: Path, numbers: str, threads: int) -> Write:
    """Return llama.cpp's own server, in this process; only its HTTP interface tells the tokens of a reply."""
    from concurrent.futures import ThreadPoolExecutor
    from urllib.request import Request, urlopen

    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(source)
    settings.n_ctx, settings.n_parallel, settings.n_ubatch = N_ROWS * WINDOW, N_ROWS, STEP_TOKENS
    settings.cache_ram_mib = 0  # no prompt comes twice
    for cpu in (settings.cpuparams, settings.cpuparams_batch):
        cpu.n_threads, cpu.poll = threads, 0
    server = xllamacpp.Server(settings)
    clients = ThreadPoolExecutor(N_ROWS)

    def write(prompts: Sequence[Sequence[int]], n_reply: int) -> list[list[int]]:
        fixed = {"n_predict": n_reply, "temperature": 0, "top_k": 1, "ignore_eos": True, "return_tokens": True}

        def one(prompt: Sequence[int]) -> list[int]:
            body = json.dumps({"prompt": list(prompt), "cache_prompt": False} | fixed).encode()
            url, headers = f"{server.listening_address}/completion", {"Content-Type": "application/json"}
            with urlopen(Request(url, body, headers)) as reply:
                return json.load(reply)["tokens"]

        return list(clients.map(one, prompts))

    return write


PROGRAMS: dict[str, tuple[str, Callable[[Path, str, int], Write]]] = {
    "torch": ("torch", torch_engine),
    "llama.cpp": ("llama_cpp_python", llama_cpp_engine),
    "transformers": ("transformers", transformers),
    "vllm": ("vllm-cpu", vllm),
    "openvino": ("openvino-genai", openvino),
    "onnxruntime": ("onnxruntime-genai", onnxruntime),
    "ctranslate2": ("ctranslate2", ctranslate2),
    "llama.cpp server": ("xllamacpp", llama_cpp_server),
}
"""Distribution whose version is reported, and function, by name."""


def cpu_s() -> float:
    """Return the CPU seconds of this process, its children that ended and, on Linux, those that run."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime + sum(map(_clock_s, _descendants("self")))


def _descendants(process: str) -> Iterator[int]:
    for task in Path("/proc", process, "task").glob("*/children"):
        try:
            children = task.read_text(encoding="ascii").split()
        except OSError:  # the thread has ended
            continue
        for child in children:
            yield int(child)
            yield from _descendants(child)


def _clock_s(process: int) -> float:
    """Return the CPU seconds of a process of Linux; 0 if it has ended."""
    try:
        return time.clock_gettime(~process << 3 | 2)  # clock_getcpuclockid(3), which Python lacks
    except OSError:
        return 0.0


def answers(write: Write, lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Yield the answer to each line of the protocol."""
    for line in lines:
        request = json.loads(line)
        started = cpu_s()
        replies = write(request["prompts"], request["n_reply"])
        yield {"cpu_s": cpu_s() - started, "replies": replies}


def main() -> int:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", choices=list(PROGRAMS))
    parser.add_argument("source", type=Path, help="weights in the program's own form")
    parser.add_argument("--numbers", default="", help="number type, if the weights do not decide it")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1, encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    distribution, load = PROGRAMS[options.program]
    write = load(options.source, options.numbers, options.threads)
    out.write(json.dumps({"version": version(distribution)}) + "\n")
    for answer in answers(write, sys.stdin):
        out.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    status = 1
    try:
        status = main()
    except Exception:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)  # a peer's threads would keep the process
