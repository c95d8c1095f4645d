"""Step 12: guards, and the direction of refusal."""

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


@explained(
    reads="a model or a stage, and conversations with verdicts, as `modelstack guard` takes them",
    writes="a file with the direction (--out); prints its figures, and refusals at several strengths",
    example="modelstack direction qwen2.5-coder-0.5b --rows guard-rows/training.jsonl --out refusal.safetensors",
    then="RefusalDirection.load(FILE).steering(0.5), the `steering` of an engine",
)
def direction(
    model: Annotated[str, typer.Argument(help="A model by name, a GGUF file, a checkpoint or a stage.")],
    rows: Annotated[Path, typer.Option("--rows", help="Conversations with verdicts; requests are used.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file, .safetensors.")],
    n: Annotated[int, typer.Option("--n", min=64, help="Requests of each kind for the direction.")] = 160,
    replies: Annotated[int, typer.Option(min=0, help="Further requests of each kind that are answered.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw of requests.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Number of threads.")] = None,
) -> None:
    """Find the direction of refusal in a model's states; show what it does when added or projected out."""
    import random

    from rich.console import Console

    from modelstack.align.guard_training.rows import read_rows
    from modelstack.align.refusal_direction.find import find_direction
    from modelstack.align.refusal_direction.replies import refused_by_strength
    from modelstack.posttrain.starting_point import starting_point
    from modelstack.reasoning.sampling.frozen_model import load_merged
    from modelstack.terminal.progress_bars import progress_bars
    from modelstack.terminal.tables import Column, Table, print_tables, print_wrapped
    from modelstack.train.process import set_up_process

    set_up_process(threads)
    texts: dict[bool, list[str]] = {True: [], False: []}
    for row in read_rows(rows):
        if row.judged == "user":
            texts[row.unsafe].append(row.turns[-1].content)
    for several in texts.values():
        random.Random(seed).shuffle(several)
    start = starting_point(model)
    base = load_merged(start, precision="bf16", device="cpu")
    console = Console()
    with progress_bars(console) as told:
        found = find_direction(
            base.model,
            base.encoder,
            texts[True][:n],
            texts[False][:n],
            weights_sha256=start.parent.sha256,
            told=lambda done, total: told("layers", done, total),
        )
        answered = [several[n : n + replies] for several in texts.values()]
        states = (
            refused_by_strength(
                base.model, base.encoder, found, *answered, told=lambda done, total: told("states", done, total)
            )
            if all(answered)
            else []
        )
    found.save(out)
    names = ("layer", "size", "separation", "added", "ablated", "kl")
    tables = [
        Table(
            tuple(Column(name, show="{:.3g}".format) for name in names),
            [tuple(each[name] for name in names) for each in found.card["layers"]],
            title="Candidates: change of the log-odds of a refusal when added, and when projected out",
        )
    ]
    if states:
        n_harmful, n_harmless = map(len, answered)
        tables.append(
            Table(
                (Column("model"), *(Column(name, show="{:.3f}".format) for name in ("harmful", "harmless"))),
                [(each.state, each.n_harmful / n_harmful, each.n_harmless / n_harmless) for each in states],
                title=f"Refused, of {n_harmful} harmful and {n_harmless} harmless requests",
            )
        )
    print_tables(console, *tables)
    print_wrapped(console, f"{out}: layer {found.layer}, size {found.size:.2f}", indent="  ")
