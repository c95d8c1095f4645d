"""Step 10: replies of a torch model."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelstack.commands.help import AsJson, explained
from modelstack.errors import UserError

if TYPE_CHECKING:
    from modelstack.posttrain.base import Base


class Numbers(StrEnum):
    """Number types of weights in memory."""

    bf16 = "bf16"
    fp32 = "fp32"


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
    precision: Annotated[Numbers, typer.Option("--precision", help="Number type of the weights.")] = Numbers.bf16,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads of torch.")] = None,
    as_json: AsJson = False,
) -> None:
    """Continue texts with a torch model, all of them in one batch."""
    from modelstack.inference.engine import EngineError, GenerateRequest, SamplingParams
    from modelstack.inference.torch.engine import TorchEngine
    from modelstack.posttrain.starting_point import starting_point
    from modelstack.reasoning.sampling.frozen_model import load_frozen
    from modelstack.train.process import set_up_process

    prompts = [*(texts or ()), *_lines(file)]
    if not prompts:
        raise UserError("there is no text to continue; give one or more, or a file with --file")
    set_up_process(threads)
    base = load_frozen(starting_point(source, weights), precision=precision.value, device="auto")
    sampling = [SamplingParams(temperature, top_p=top_p, seed=seed + n) for n in range(len(prompts))]
    try:
        with TorchEngine(base.model, base.tokenizer, owns_model=True) as engine:
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
