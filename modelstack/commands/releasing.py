"""Step 12: signed releases, and the reports that only a release needs."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelstack.commands.help import explained
from modelstack.errors import UserError

if TYPE_CHECKING:
    from modelstack.align.release.about import About
    from modelstack.align.release.figures import Results

StageArgument = Annotated[
    str, typer.Argument(metavar="STAGE", help="Folder of a stage, or a model with a shipped adapter.")
]
Weights = Annotated[
    str | None, typer.Option(help="Base weights of a stage's adapter; if not given, the recorded path.")
]
ResultsFile = Annotated[Path, typer.Option("--out", "-o", help="File of results, .json.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Number of threads.")]


@explained(
    reads="a stage, facts about it (--about), and the results of its evaluations",
    writes="a folder for the Hub, signed: weights, card, licence, bill, SHA256SUMS; status 1 if it is refused",
    example="modelstack release runs/tools --about about.toml --results r.json --key release.pem --out release",
    then="modelstack release --check release --key release.pem.pub",
)
def release(
    stage: Annotated[
        str | None,
        typer.Argument(metavar="STAGE", help="Folder of a stage, or a model with a shipped adapter."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="New folder of the release.")] = None,
    about: Annotated[Path | None, typer.Option(help="Facts, .toml: licence, base, uses, limits, contact.")] = None,
    results: Annotated[
        list[Path] | None,
        typer.Option(help="Results: a file, or the folder of an evaluation or attack; may be repeated."),
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Private key, .pem; with --check, the public one.")] = None,
    weights: Weights = None,
    earlier: Annotated[
        list[Path] | None, typer.Option(help="Folder of an earlier stage, for its data; may be repeated.")
    ] = None,
    previous: Annotated[Path | None, typer.Option(help="Release before: no figure may be worse.")] = None,
    licence: Annotated[Path | None, typer.Option(help="Text of the licence; else this package's.")] = None,
    check: Annotated[Path | None, typer.Option(help="Check this folder instead.")] = None,
) -> None:
    """Release a stage as a signed folder if no part is missing and no figure got worse; or check such a folder."""
    if key is None:
        raise UserError(
            "--key is missing: releases are signed; `modelstack release key FILE` writes a pair of keys"
        )
    if check is not None:
        if stage is not None or out is not None:
            raise UserError(f"--check {check} reads a folder: leave out STAGE and --out")
        _check(check, key, previous)
        return
    if stage is None or out is None:
        raise UserError("STAGE and --out are needed: the stage to release, and the new folder")
    from rich.console import Console

    from modelstack.align.release.build import Inputs, Refused, build
    from modelstack.align.release.check import read_release
    from modelstack.align.release.signature import read_private_key
    from modelstack.posttrain.stages.stage import read_record
    from modelstack.terminal.progress_bars import activity
    from modelstack.terminal.tables import print_wrapped

    inputs = Inputs(
        stage=stage,
        about=_about(stage, about),
        results=_results(stage, results or ()),
        weights=weights,
        earlier=tuple(read_record(each) for each in earlier or ()),
        previous=None if previous is None else read_release(previous),
        licence=licence,
    )
    private = read_private_key(key)
    try:
        with activity(Console(stderr=True), "releasing"):
            made = build(inputs, out, private)
    except Refused as error:
        _refuse(f"{stage} is not released", map(str, error.faults))
    facts = (
        f"{made.about.name} {made.about.version}, {len(made.figures)} figures, weights {made.weights_sha256[:12]}"
    )
    print_wrapped(Console(), f"{out}: {facts}", indent="  ")


def _about(stage: str, given: Path | None) -> About:
    from modelstack.align.release.about import About
    from modelstack.align.release.shipped import shipped_about
    from modelstack.recipe_file import read_recipe

    file = given or shipped_about(stage)
    if file is None:
        raise UserError(f"--about is missing: the facts about {stage} that no record holds, as a .toml file")
    return read_recipe(About, file)


def _results(stage: str, given: Iterable[Path]) -> tuple[Results, ...]:
    from modelstack.align.release.shipped import shipped_results
    from modelstack.align.release.sources import read_source

    shipped = shipped_results(stage)
    files = list(given) or ([] if shipped is None else [shipped])
    return tuple(map(read_source, files))


def _check(folder: Path, key: Path, previous: Path | None) -> None:
    from rich.console import Console

    from modelstack.align.release.check import check_release, read_release
    from modelstack.terminal.tables import print_wrapped

    before = None if previous is None else read_release(previous)
    if faults := check_release(folder, key, before):
        _refuse(f"{folder} is refused", faults)
    print_wrapped(Console(), f"{folder}: whole, signed by {key}, and fit to ship", indent="  ")


def _refuse(what: str, faults: Iterable[str]) -> None:
    from rich.console import Console

    from modelstack.terminal.tables import print_wrapped

    console = Console(stderr=True)
    several = list(faults)
    print_wrapped(console, f"{what}: {len(several)} faults", style="red")
    for each in several:
        print_wrapped(console, f"  {each}", indent="    ", style="red")
    raise typer.Exit(1)


@explained(
    reads="nothing",
    writes="FILE, a private key that only its owner can read, and FILE.pub, the public key",
    example="modelstack release key release.pem",
    then="modelstack release runs/tools --about about.toml --key release.pem --out release",
)
def key(
    file: Annotated[Path, typer.Argument(help="The private key; MODELSTACK_KEY_PASSWORD encrypts it.")],
) -> None:
    """Write a pair of keys (ECDSA, P-256) to sign releases with."""
    from modelstack.align.release.signature import new_key

    public = new_key(file)
    typer.echo(f"{file}: keep it secret\n{public}: publish it beside your releases, not in them")


@explained(
    reads="a stage, and requests with verdicts, as `modelstack guard` takes them",
    writes="a file of results (--out): refusals, their curve over strengths, and refusals after tampering",
    example="modelstack release tamper runs/tools --rows guard-rows/validation.jsonl --out tamper.json",
    then="modelstack release runs/tools --results tamper.json --about about.toml --key release.pem --out release",
)
def tamper(
    stage: StageArgument,
    rows: Annotated[Path, typer.Option("--rows", help="Conversations with verdicts; requests are used.")],
    out: ResultsFile,
    n: Annotated[int, typer.Option("--n", min=0, help="Requests of each kind for the direction; 0: none.")] = 160,
    replies: Annotated[int, typer.Option(min=1, help="Further requests of each kind that are answered.")] = 64,
    steps: Annotated[int, typer.Option(min=1, help="LoRA steps on harmless rows.")] = 100,
    weights: Weights = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw and of the fine-tuning.")] = 0,
    threads: Threads = None,
) -> None:
    """Measure refusals without the direction of refusal, and after a short fine-tuning on harmless rows."""
    from rich.console import Console

    from modelstack.align.guard_training.rows import read_rows
    from modelstack.align.release.subject import loadable
    from modelstack.align.tamper.plan import TamperPlan
    from modelstack.align.tamper.report import tamper_results
    from modelstack.terminal.progress_bars import progress_bars
    from modelstack.train.process import set_up_process

    set_up_process(threads)
    plan = TamperPlan(n_direction=n, n_asked=replies, steps=steps, seed=seed, threads=threads)
    with ExitStack() as held, progress_bars(Console(stderr=True)) as told:
        start, identity = loadable(stage, weights, held)
        found = tamper_results(start, list(read_rows(rows)), plan, identity, told)
    _written(found, out)


@explained(
    reads="a stage, and the files that it was trained on",
    writes="a file of results (--out): the share of replies continued exactly from a prefix of 50 tokens",
    example="modelstack release memorisation runs/tools --data train.jsonl --held-out held.jsonl --out m.json",
    then="modelstack release runs/tools --results m.json --about about.toml --key release.pem --out release",
)
def memorisation(
    stage: StageArgument,
    data: Annotated[list[Path], typer.Option("--data", help="File of training examples; may be repeated.")],
    out: ResultsFile,
    held_out: Annotated[
        list[Path] | None, typer.Option(help="File of examples not trained on, the control; may be repeated.")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Maximum number of rows of each kind.")] = 500,
    weights: Weights = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw.")] = 0,
    threads: Threads = None,
) -> None:
    """Measure which training rows a model continues word for word; rows with the source `canary` count apart."""
    from rich.console import Console

    from modelstack.align.release import memorisation as report
    from modelstack.align.release.subject import loadable, open_subject
    from modelstack.reasoning.sampling.frozen_model import load_merged
    from modelstack.terminal.progress_bars import progress_bars
    from modelstack.train.process import set_up_process

    set_up_process(threads)
    with ExitStack() as held, progress_bars(Console(stderr=True)) as told:
        start, identity = loadable(stage, weights, held)
        base = load_merged(start, precision="bf16", device="cpu")
        found = report.memorisation(
            base.model,
            base.encoder,
            data,
            held_out or (),
            n=n,
            seed=seed,
            weights_sha256=identity,
            recorded={file.sha256 for file in open_subject(stage).record.data.files if file.role == "training"},
            told=told,
        )
    _written(found, out)


@explained(
    reads="a stage, the files that it was trained on, and the files of evaluations",
    writes="a file of results (--out): the share of training rows that repeat an evaluation",
    example="modelstack release contamination runs/tools --data train.jsonl.zst --evaluations evals --out c.json",
    then="modelstack release runs/tools --results c.json --about about.toml --key release.pem --out release",
)
def contamination(
    stage: StageArgument,
    data: Annotated[list[Path], typer.Option("--data", help="Training file of the stage; may be repeated.")],
    evaluations: Annotated[list[Path], typer.Option(help="JSON file, or folder of some; may be repeated.")],
    out: ResultsFile,
) -> None:
    """Compare the training files of a stage with evaluations, by runs of 13 and of 8 words."""
    from rich.console import Console

    from modelstack.align.release.contamination import measured_results
    from modelstack.align.release.subject import open_subject
    from modelstack.terminal.progress_bars import progress_bars

    record = open_subject(stage).record
    with progress_bars(Console(stderr=True)) as told:
        found = measured_results(record, data, evaluations, lambda done, total: told("files", done, total))
    _written(found, out)


def _written(results: Results, out: Path) -> None:
    from rich.console import Console

    from modelstack.terminal.tables import Column, Table, print_tables, print_wrapped

    results.save(out)
    console = Console()
    shares = (Column(name, show="{:.3f}".format) for name in ("value", "low", "high"))
    rows = [(each.name, each.value, each.low, each.high, each.n) for each in results.figures]
    print_tables(console, Table((Column("figure"), *shares, Column("n")), rows))
    for notes in results.notes.values():
        for note in notes:
            print_wrapped(console, note, indent="  ")
    print_wrapped(console, f"{out}: {len(results.figures)} figures", indent="  ")
