"""Step 10: replies of a torch model."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelstack.commands.help import AsJson, explained
from modelstack.commands.recipe_arguments import Arguments, Keys, Out, run_recipe
from modelstack.commands.torch_engines import DRAFTER_HELP, Drafter, Numbers, load_torch_base, torch_engine
from modelstack.errors import UserError

if TYPE_CHECKING:
    from modelstack.architecture.decoder import CausalLM
    from modelstack.posttrain.base import Base


class KVType(StrEnum):
    """Numbers of the KV cache: the model's own, int8, or keys in int8 and values in 4 bits."""

    model = "model"
    int8 = "int8"
    k8v4 = "k8v4"


@explained(
    reads="a checkpoint, a stage, a GGUF file or a model by name; texts, or a file with one text per line",
    writes="the continuations on the terminal; JSON lines with --json",
    example='modelstack infer runs/nano/model "Once upon a time" "The river"',
    then="modelstack export gguf runs/nano/model nano.gguf, for agentkit chat --model local:nano.gguf",
)
def infer(
    source: Annotated[str, typer.Argument(help="Checkpoint folder, stage, GGUF file, or a model's name.")],
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT...", help="Texts to continue.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Also continue each line of this file.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Texts are questions in the model's chat format.")] = False,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Maximum tokens of a reply.")] = 128,
    temperature: Annotated[float, typer.Option("--temperature", help="0: the most probable token.")] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", help="Share of the probability that is drawn from.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same replies.")] = 0,
    weights: Annotated[
        Path | None, typer.Option(help="Base weights of a stage's adapter; if not given, the recorded path.")
    ] = None,
    precision: Annotated[
        Numbers | None, typer.Option("--precision", help="If not given, int8 for int8 weights, else bf16.")
    ] = None,
    kv_type: Annotated[
        KVType, typer.Option("--kv-type", help="Numbers of the KV cache; k8v4: keys in 8 bits, values in 4.")
    ] = KVType.model,
    drafter_name: Annotated[
        str,
        typer.Option("--drafter", help=DRAFTER_HELP),
    ] = "none",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads of torch.")] = None,
    as_json: AsJson = False,
) -> None:
    """Continue texts with a torch model, all of them in one batch."""
    from modelstack.inference.engine import EngineError, GenerateRequest, SamplingParams
    from modelstack.train.process import set_up_process

    prompts = [*(texts or ()), *_lines(file)]
    if not prompts:
        raise UserError("there is no text to continue; give one or more, or a file with --file")
    set_up_process(threads)
    draft = Drafter.parse(drafter_name)
    base = load_torch_base(source, weights, precision, draft.folder)
    sampling = [SamplingParams(temperature, top_p=top_p, seed=seed + n) for n in range(len(prompts))]
    try:
        with torch_engine(base, precision, kv_type=kv_type.value, drafter=draft.name) as engine:
            started = time.perf_counter()
            submissions = [
                engine.submit(GenerateRequest(_prompt_ids(base, text, chat=chat), max_tokens, sampling=each))
                for text, each in zip(prompts, sampling, strict=True)
            ]
            while not all(submission.is_done for submission in submissions):
                engine.step()
            seconds = time.perf_counter() - started
    except EngineError as error:
        raise UserError(str(error)) from error
    n_tokens = n_prompt = n_reused = 0
    for text, submission in zip(prompts, submissions, strict=True):
        reply = submission.result()
        stats = reply.stats
        n_tokens += len(reply.ids)
        n_prompt, n_reused = n_prompt + len(submission.request.prompt_ids), n_reused + stats.reused_tokens
        written = base.tokenizer.vocabulary.decode(reply.ids)
        if as_json:
            typer.echo(json.dumps({"text": text, "reply": written, "finish_reason": reply.finish_reason}))
        else:
            typer.echo(_shown(written if chat else text + written) + "\n")
    print(
        f"{n_tokens:,} tokens in {seconds:.1f} s, {n_tokens / seconds:,.0f} a second; "
        f"{n_reused:,} of {n_prompt:,} prompt tokens were shared",
        file=sys.stderr,
    )


@explained(
    reads="a checkpoint, a stage, a GGUF file or a model by name; text to calibrate and to measure on",
    writes="a folder that vLLM and transformers read, or a GGUF file for llama.cpp; a report on each tensor",
    example="modelstack quantise runs/nano/model nano-int4.gguf --text documents",
    then="agentkit eval natural -m local:nano-int4.gguf",
)
def quantise(
    source: Annotated[str, typer.Argument(help="Checkpoint folder, stage, GGUF file, or a model's name.")],
    out: Annotated[Path, typer.Argument(help="Folder to write, or file, OUT.gguf.")],
    text: Annotated[
        list[Path] | None,
        typer.Option("--text", help="File or folder with text; a fifth of it measures."),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="int4-g32, int4-g128, int8, fp8, fp8-block, ...; several with --bits."),
    ] = None,
    bits: Annotated[
        float | None, typer.Option("--bits", help="Average bits per weight; the formats are chosen per tensor.")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="rtn, awq, gptq, awq-gptq; else gptq with text, rtn without.")
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Tokens to calibrate on.")] = 32_768,
    held_out: Annotated[int, typer.Option("--held-out", min=1, help="Tokens to measure on.")] = 8_192,
    length: Annotated[int, typer.Option("--length", min=16, help="Tokens of a row of text.")] = 512,
    tasks: Annotated[
        Path | None,
        typer.Option("--tasks", help="Tasks with gold calls: shares of right tool calls before and after."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Base weights of a stage's adapter; if not given, the recorded path.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads of torch.")] = None,
    as_json: AsJson = False,
) -> None:
    """Quantise a model: fewer bits per weight, at the least change of what it computes."""
    from rich.console import Console

    from modelstack.inference.quantise import quantisation
    from modelstack.posttrain.starting_point import starting_point
    from modelstack.reasoning.sampling.frozen_model import load_merged
    from modelstack.terminal.progress_bars import progress_bars
    from modelstack.terminal.tables import Column, Table, print_json, print_tables, print_wrapped
    from modelstack.train.process import set_up_process

    set_up_process(threads)
    settings = quantisation.Settings(
        formats=tuple(quantisation.named_format(name) for name in formats or ("int4-g32",)),
        method=method or ("gptq" if text else "rtn"),
        bits=bits,
        n_tokens=tokens,
        n_held_out=held_out,
        length=length,
    )
    start = starting_point(source, weights)
    with progress_bars(Console(stderr=True)) as told:
        told("model")
        base = load_merged(start, precision="fp32", device="cpu")
        measure = None if tasks is None else _share_of_right_calls(base, tasks)
        result = quantisation.run(base.model, base.tokenizer, out, text or (), settings, told, measure)
    if as_json:
        print_json(quantisation.as_json(result, settings))
        return
    share = "{:.3%}".format
    columns = (
        Column("layers"),
        Column("format"),
        Column("tensors"),
        Column("bits", show="{:.2f}".format),
        Column("weights' error", "weight_error", share),
        Column("outputs' error", "output_error", lambda value: "" if value is None else share(value)),
    )
    print_tables(Console(), Table(columns, quantisation.summary_rows(result.quantised)))
    for sentence in quantisation.sentences(result):
        print_wrapped(Console(stderr=True), sentence, indent="  ")


@explained(
    reads="the model, which stays as it is; conversations of the kind that it will write",
    writes="runs/NAME: drafter/, card.md, metrics.jsonl",
    example="modelstack drafter chat base=smollm2-135m 'data.training=[\"chat.jsonl\"]'",
    then="modelstack serve smollm2-135m --engine torch --drafter runs/drafter",
)
def drafter(arguments: Arguments, out: Out = None, keys: Keys = None) -> None:
    """Train a module that drafts tokens for a model, so that it writes faster; the same command resumes it."""
    from modelstack.reasoning.drafter.run import train_drafter

    run_recipe(train_drafter, "drafter", arguments, out)


def _share_of_right_calls(base: Base, file: Path) -> Callable[[CausalLM], Mapping[str, float]]:
    """Return a measurement of a model's tool calls on a file's tasks, which is read at once.

    Raises:
        UserError: The file is broken, or has no tasks.
    """
    from modelstack.reasoning.rollouts.call_shares import call_shares
    from modelstack.reasoning.sampling.continuing import TorchPolicy
    from modelstack.reasoning.tasks.task import read_tasks

    asked = [task.judged_by("calls") for task in read_tasks(file) if not task.item.is_canary]
    if not asked:
        raise UserError(f"{file} has no tasks; --tasks needs some with gold calls")

    def measure(model: CausalLM) -> Mapping[str, float]:
        found = call_shares(TorchPolicy(model), base.encoder, asked)
        return {
            "valid calls": found.valid,
            "right calls": found.right,
            "right calls under a grammar": found.right_with_grammar,
        }

    return measure


def _lines(file: Path | None) -> Sequence[str]:
    if file is None:
        return ()
    return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _prompt_ids(base: Base, text: str, *, chat: bool) -> list[int]:
    if not chat:
        from modelstack.train.samples import prompt_ids

        return prompt_ids(base.tokenizer, text)
    from modelstack.tokenizer.chat import ChatMessage

    ids = base.encoder.encode([ChatMessage("user", text)]).ids
    return [*ids, *base.encoder.generation_ids("user")]


def _shown(text: str) -> str:
    """Return a text without characters that would act on a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
