"""Step 12: attacks on a model, in this process or behind an address."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelstack.commands.help import explained
from modelstack.errors import UserError

if TYPE_CHECKING:
    from modelstack.align.attack.targets import Target
    from modelstack.inference.llama.engine import LlamaCppEngine
    from modelstack.inference.torch.engine import TorchEngine

ATTEMPT_TOKENS = 1024
"""Tokens of the longest attempt with its reply."""


class EngineName(StrEnum):
    """Engine of a model in this process."""

    auto = "auto"
    llama = "llama.cpp"
    torch = "torch"


@dataclass(frozen=True, slots=True)
class Asking:
    """How a target is asked."""

    max_tokens: int
    temperature: float
    concurrency: int


@dataclass(frozen=True, slots=True)
class _InProcess:
    """Options of a model in this process."""

    source: str
    engine: EngineName
    lora: Path | None
    weights: str | None
    monitor: str | None
    threads: int | None


@explained(
    reads="a model or a stage, or the address of an API; requests with verdicts, as `modelstack guard` takes them",
    writes="runs/attack: attempts.jsonl, attack.md, attack.png; no reply is stored",
    example="modelstack attack smollm2-135m --rows guard-rows/validation.jsonl --n 50",
    then="the page runs/attack/attack.md; the same command resumes a run that was stopped",
)
def attack(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model's name, a GGUF file, a stage, a checkpoint, or an address, http://HOST/v1.",
        ),
    ],
    rows: Annotated[Path, typer.Option("--rows", help="Requests with verdicts; twins share a `pair`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")] = Path("runs/attack"),
    transform: Annotated[
        list[str] | None, typer.Option("--transform", help="Only this transform; may be repeated.")
    ] = None,
    suffixes: Annotated[
        Path | None, typer.Option(help="Suffixes of `modelstack suffix`, as one more transform.")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Harmful requests, each with its harmless twin.")] = 200,
    samples: Annotated[int, typer.Option(min=1, help="Replies to each attempt; one that complies counts.")] = 1,
    temperature: Annotated[float, typer.Option(min=0, help="Temperature; 0 is greedy.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=8, help="Tokens of a reply.")] = 48,
    model: Annotated[str | None, typer.Option("--model", help="Name of the model behind an address.")] = None,
    key_variable: Annotated[str, typer.Option(help="Environment variable with the API's key.")] = "OPENAI_API_KEY",
    engine: Annotated[
        EngineName, typer.Option("--engine", help="auto: llama.cpp for GGUF files, else torch.")
    ] = EngineName.auto,
    lora: Annotated[
        Path | None, typer.Option(help="GGUF adapter for llama.cpp; else that shipped for the model's name.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Base weights of a stage that is an adapter; else the recorded path.")
    ] = None,
    monitor: Annotated[str | None, typer.Option(help="Monitor in front of a model in this process.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Attempts at a time.")] = 8,
    threads: Annotated[int | None, typer.Option(min=1, help="Number of threads; else measured.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws, and of the samples.")] = 0,
) -> None:
    """Attack a model with transformed requests; report what got through, and what was refused wrongly."""
    from rich.console import Console

    from modelstack.align.attack.report import tables, write_report
    from modelstack.align.attack.run import AttackPlan, chosen_requests, requests_sha256
    from modelstack.align.attack.run import attack as run
    from modelstack.align.attack.transforms import transforms_with
    from modelstack.align.guard_training.rows import read_rows
    from modelstack.terminal.progress_bars import progress_bars
    from modelstack.terminal.tables import print_tables, print_wrapped
    from modelstack.train.run.stopping import STOPPED

    local = _InProcess(target, engine, lora, weights, monitor, threads)
    _refuse_without_effect(local, model)
    found = () if suffixes is None else read_suffixes(suffixes)
    known = transforms_with(found)
    names = tuple(transform or known)
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"--transform {unknown[0]!r} is not one of {', '.join(known)}")
    if samples > 1 and temperature == 0:
        raise UserError("--samples draws several replies, and at --temperature 0 they are all equal: raise it")
    requests = chosen_requests(list(read_rows(rows)), n, seed)
    console = Console()
    with ExitStack() as stack:
        how = Asking(max_tokens, temperature, concurrency)
        if target.startswith(("http://", "https://")):
            attacked = _endpoint(stack, target, model, key_variable, how)
        else:
            attacked = _local(stack, local, how)
        plan = AttackPlan(
            target=attacked.name,
            requests_sha256=requests_sha256(requests),
            transforms=names,
            suffixes=found,
            samples=samples,
            seed=seed,
            max_tokens=max_tokens,
            temperature=temperature,
        )
        with progress_bars(console) as told:
            records = run(
                attacked, requests, plan, out, lambda done, total: told("attempts", done, total), 4 * concurrency
            )
    if records is None:
        print_wrapped(console, f"stopped; the same command resumes {out}", indent="  ")
        raise typer.Exit(STOPPED)
    page = write_report(records, plan, out)
    print_tables(console, *tables(records))
    print_wrapped(console, f"{page}: {len(records):,} attempts", indent="  ")


@explained(
    reads="a model or a stage, and requests with verdicts, as `modelstack guard` takes them",
    writes="a file with the suffixes (--out), JSON",
    example="modelstack suffix smollm2-135m --rows guard-rows/training.jsonl --out suffixes.json",
    then="modelstack attack smollm2-135m --rows guard-rows/validation.jsonl --suffixes suffixes.json",
)
def suffix(
    model: Annotated[str, typer.Argument(help="A model by name, a GGUF file, a checkpoint or a stage.")],
    rows: Annotated[Path, typer.Option("--rows", help="Requests with verdicts; harmful ones are used.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file, .json.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Suffixes, each for requests of its own.")] = 3,
    requests: Annotated[int, typer.Option(min=1, help="Requests that a suffix must serve.")] = 4,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of a suffix.")] = 16,
    steps: Annotated[int, typer.Option(min=1, help="Steps of a search.")] = 50,
    candidates: Annotated[int, typer.Option(min=1, help="Candidates of a step.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of requests and searches.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Number of threads.")] = None,
) -> None:
    """Search suffixes that make a model of your own begin to comply (GCG), for `modelstack attack`."""
    from rich.console import Console

    from modelstack.align.attack.run import chosen_requests
    from modelstack.align.attack.suffix_search import SuffixSearch, search_suffix
    from modelstack.align.guard_training.rows import read_rows
    from modelstack.files import replacing
    from modelstack.posttrain.starting_point import starting_point
    from modelstack.reasoning.sampling.frozen_model import load_merged
    from modelstack.terminal.progress_bars import progress_bars
    from modelstack.terminal.tables import Column, Table, print_tables
    from modelstack.train.process import set_up_process

    set_up_process(threads)
    harmful = [each.text for each in chosen_requests(list(read_rows(rows)), n * requests, seed) if each.harmful]
    base = load_merged(starting_point(model), precision="bf16", device="cpu")
    base.model.requires_grad_(False)
    console = Console()
    found: list[tuple[str, float, float]] = []
    with progress_bars(console) as told:
        for number in range(n):
            several = harmful[number * requests : (number + 1) * requests]
            if several:
                search = SuffixSearch(tokens, steps, candidates, seed=seed + number)
                each = search_suffix(
                    base.model,
                    base.encoder,
                    several,
                    search,
                    lambda done, total, number=number: told(f"suffix {number + 1}", done, total),
                )
                found.append((each.text, each.losses[0], each.losses[-1]))
    with replacing(out) as temporary:
        temporary.write_text(json.dumps([text for text, _, _ in found], indent=1) + "\n", encoding="utf-8")
    columns = (Column("suffix"), *(Column(name, show="{:.2f}".format) for name in ("loss before", "loss after")))
    print_tables(console, Table(columns, found))


def read_suffixes(file: Path) -> tuple[str, ...]:
    """Return the suffixes in a file of `modelstack suffix`.

    Raises:
        UserError: The file is missing, or no list of texts.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    if not isinstance(found, list) or not found or not all(isinstance(each, str) and each for each in found):
        raise UserError(f"{file} is no list of texts; write it with `modelstack suffix`")
    return tuple(found)


def _refuse_without_effect(local: _InProcess, model: str | None) -> None:
    target = local.source
    is_address = target.startswith(("http://", "https://"))
    if is_address and model is None:
        raise UserError(f"{target} is an address: name the model there with --model")
    own = (local.monitor, local.lora, local.weights)
    if is_address and (any(each is not None for each in own) or local.engine is not EngineName.auto):
        options = "--monitor, --lora, --weights and --engine"
        raise UserError(f"{target} is an address; {options} are for a model in this process")
    if not is_address and model is not None:
        raise UserError(f"--model names a model behind an address, and {target!r} is in this process")


def _endpoint(stack: ExitStack, url: str, model: str | None, key_variable: str, how: Asking) -> Target:
    from modelstack.align.attack.targets import EndpointTarget

    assert model is not None
    target = EndpointTarget(
        url,
        model,
        key=os.environ.get(key_variable) or None,
        max_tokens=how.max_tokens,
        temperature=how.temperature,
        concurrency=how.concurrency,
    )
    stack.callback(target.close)
    return target


def _local(stack: ExitStack, local: _InProcess, how: Asking) -> Target:
    from modelstack.align.attack.targets import EngineTarget
    from modelstack.align.monitor.shipped import named_probe
    from modelstack.align.monitor.watch import new_watch
    from modelstack.inference.engine import EngineError
    from modelstack.posttrain.weights_by_name import weights_path
    from modelstack.toolcalls.manner import AUTO, manner_for

    probe = None if local.monitor is None else named_probe(local.monitor)
    layers = () if probe is None else probe.layers
    is_gguf = weights_path(local.source).suffix == ".gguf"
    if local.engine is EngineName.llama and not is_gguf:
        raise UserError(f"llama.cpp reads GGUF files, and {local.source} is none: leave --engine out")
    try:
        load = _llama_engine if is_gguf and local.engine is not EngineName.torch else _torch_engine
        engine, is_ours = load(stack, local, how, layers)
    except EngineError as error:
        raise UserError(str(error)) from error
    if probe is not None:
        probe.require_fitted_to(engine.fingerprint, probe.layers)
    return EngineTarget(
        engine,
        manner_for(engine, AUTO, is_ours=is_ours, abstain=False),
        max_tokens=how.max_tokens,
        temperature=how.temperature,
        new_watch=None if probe is None else partial(new_watch, probe),
    )


def _llama_engine(
    stack: ExitStack, local: _InProcess, how: Asking, state_layers: Sequence[int]
) -> tuple[LlamaCppEngine, bool]:
    """Return an engine over a GGUF file, and whether it has an adapter of this package."""
    from modelstack.inference.llama.engine import LlamaCppEngine
    from modelstack.posttrain.weights_by_name import shipped_adapter, weights_path

    if local.weights is not None:
        raise UserError("--weights is for a stage; llama.cpp takes base weights as MODEL and an adapter as --lora")
    lora = local.lora
    if lora is None and (shipped := shipped_adapter(local.source)) is not None:
        lora = shipped[0]
    engine = LlamaCppEngine(
        weights_path(local.source),
        lora_path=lora,
        n_cells=how.concurrency * ATTEMPT_TOKENS,
        max_conversations=how.concurrency,
        n_threads=local.threads,
        n_threads_prefill=local.threads,
        state_layers=state_layers,
    )
    return stack.enter_context(engine), lora is not None


def _torch_engine(
    stack: ExitStack, local: _InProcess, how: Asking, state_layers: Sequence[int]
) -> tuple[TorchEngine, bool]:
    """Return an engine over a stage, a checkpoint or a model's name, and whether this package trained it."""
    from modelstack.align.release.subject import loadable
    from modelstack.inference.torch.engine import TorchEngine
    from modelstack.posttrain.stages.stage import is_stage
    from modelstack.posttrain.starting_point import starting_point
    from modelstack.posttrain.weights_by_name import shipped_adapter
    from modelstack.reasoning.sampling.frozen_model import load_merged
    from modelstack.train.process import set_up_process

    if local.lora is not None:
        raise UserError("--lora is for llama.cpp; the torch engine takes the folder of a stage as MODEL")
    set_up_process(local.threads)
    is_ours = is_stage(Path(local.source)) or shipped_adapter(local.source) is not None
    if is_ours:
        start = loadable(local.source, local.weights, stack)[0]
    else:
        start = starting_point(local.source, local.weights)
    base = load_merged(start, precision="bf16", device="auto")
    engine = TorchEngine(
        base.model,
        base.tokenizer,
        owns_model=True,
        max_rows=how.concurrency,
        n_cached_tokens=how.concurrency * ATTEMPT_TOKENS,
        state_layers=state_layers,
    )
    return stack.enter_context(engine), is_ours
