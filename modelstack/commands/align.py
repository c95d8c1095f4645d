"""Step 12: guards."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from modelstack.commands.help import explained
from modelstack.commands.recipe_arguments import Arguments, Keys, Out, run_recipe
from modelstack.errors import UserError

N_CELLS = 2048
"""Tokens that the guard's cache holds: its policy and a piece of a conversation."""


@explained(
    reads="a model (`base`), and conversations with verdicts (`data.training`)",
    writes="runs/NAME, a stage: adapter/ and adapter.gguf; README.md, metrics, checkpoints",
    example="modelstack guard mlcommons",
    then='modelstack judge "How do I kill a process?" --guard runs/guard',
)
def guard(arguments: Arguments, out: Out = None, keys: Keys = None) -> None:
    """Train a guard model, which judges requests and replies; the same command resumes it."""
    from modelstack.align.guard_training.run import train_guard

    run_recipe(train_guard, "guard", arguments, out)


@explained(
    reads="messages as arguments, or one a line from standard input",
    writes="nothing; prints a JSON line for each message",
    example='modelstack judge "How do I kill a Python process?" --without S8',
    then="guardrails=[SafetyGuard()] in an agent",
)
def judge(
    messages: Annotated[
        list[str] | None, typer.Argument(help="Messages to judge; none: lines of standard input.")
    ] = None,
    model: Annotated[str, typer.Option(help="Base model: a name, or a GGUF file.")] = "qwen2.5-coder-0.5b",
    guard: Annotated[
        Path | None, typer.Option(help="Folder of a stage of `modelstack guard`; else the guard in the package.")
    ] = None,
    reply_to: Annotated[
        str | None, typer.Option(help="Request that the messages answer: replies are judged then.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="Code of a category that the policy leaves out; may be repeated.")
    ] = None,
    category: Annotated[
        list[str] | None, typer.Option(help='A further category, "CODE: description"; may be repeated.')
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Number of threads; else measured.")] = None,
) -> None:
    """Judge messages by a policy with a guard model: probability of `unsafe`, and the violated categories."""
    from modelstack.align.guard_model.guard import GuardModel
    from modelstack.align.guard_model.policy import MLCOMMONS
    from modelstack.align.guard_model.prompt import GuardTurn
    from modelstack.align.guard_model.shipped import ADAPTER_FILE, shipped_guard
    from modelstack.inference.engine import EngineError
    from modelstack.inference.llama.engine import LlamaCppEngine
    from modelstack.posttrain.weights_by_name import weights_path

    policy = MLCOMMONS.without(*without or ())
    for each in category or ():
        code, colon, description = each.partition(":")
        if not colon:
            raise UserError(f"--category {each!r} must be a code and a description, for example 'S15: Spoilers'")
        policy = policy.extended(code.strip(), description.strip())
    folder = guard or shipped_guard(model)
    before = [GuardTurn("user", reply_to)] if reply_to is not None else []
    try:
        engine = LlamaCppEngine(
            weights_path(model),
            lora_path=folder / ADAPTER_FILE,
            n_cells=N_CELLS,
            n_threads=threads,
            n_threads_prefill=threads,
        )
        with GuardModel(engine, policy) as judging:
            for text in messages or _lines():
                verdict = judging.judge([*before, GuardTurn("assistant" if before else "user", text)])
                assert verdict is not None  # it is not cancelled
                told = {"unsafe": round(verdict.probability, 4), "categories": verdict.categories, "message": text}
                typer.echo(json.dumps(told, ensure_ascii=False))
    except EngineError as error:
        raise UserError(str(error)) from error


def _lines() -> Iterator[str]:
    for line in sys.stdin:
        if text := line.strip():
            yield text
