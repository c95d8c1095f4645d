"""Commands `agentkit improve run`, `gate`, `show`, `accept` and `rollback`, added by an entry point."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from agentkit.cli.options import JsonOption
from agentkit.errors import UserError
from modelstack.terminal.plain_help import PlainTyper

if TYPE_CHECKING:
    from agentkit.improve.folder import ImprovementFolder, Index, Version
    from agentkit.improve.improving import ImproveOptions, Progress, Wanted
    from agentkit.improve.rollout import Scorer
    from agentkit.improve.traces import TraceOptions

app = PlainTyper(
    no_args_is_help=True,
    help="A better prompt or adapter from tasks or rewarded traces, behind a held-back gate, with a way back.",
)


def _print_keys(as_text: bool | None) -> None:
    if as_text is not None:
        from agentkit.improve.improving import ImproveOptions
        from modelstack.commands.recipe_arguments import show_keys

        show_keys(ImproveOptions, as_text=as_text)


AgentArgument = Annotated[str, typer.Argument(metavar="MODULE:NAME", help="The agent, or FILE.py:NAME.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]", help="Keys over the options.")]
Tasks = Annotated[
    Path | None, typer.Option("--tasks", "-t", metavar="FILE", help="JSONL: a prompt, and what is expected.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the improvement; a started one is resumed.")]
ScorerOption = Annotated[
    str | None,
    typer.Option(metavar="MODULE:NAME", help="Function that judges a run, in place of the tasks' checks."),
]
World = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of which each rollout gets a copy, for the servers.")
]
Mcp = Annotated[
    list[str] | None,
    typer.Option("--mcp", metavar="SERVER", help="Server on the copy, as a command with {world}; repeatable."),
]
Recipe = Annotated[Path | None, typer.Option(metavar="OPTIONS.toml", help="Options; all have defaults.")]
Keys = Annotated[
    bool | None,
    typer.Option(
        "--keys/--keys-json", is_eager=True, callback=_print_keys, help="List the options' keys; or as JSON."
    ),
]
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the improvement.")]


def register(commands: typer.Typer) -> None:
    """Add the commands to `agentkit`."""
    commands.add_typer(app, name="improve")


@app.command()
def run(
    agent: AgentArgument,
    out: Out,
    overrides: Overrides = None,
    tasks: Tasks = None,
    traces: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Traces with rewards: demonstrations, and tasks if --tasks is not given."
        ),
    ] = None,
    include_tainted: Annotated[
        bool, typer.Option("--include-tainted", help="Use traces that read untrusted content, too.")
    ] = False,
    scorer: ScorerOption = None,
    world: World = None,
    mcp: Mcp = None,
    reflect_with: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Model that reads failures and proposes texts.")
    ] = None,
    yes: Annotated[
        bool,
        typer.Option("--yes", help="Ship texts of a model or of traces without a review, if the gate agrees."),
    ] = False,
    recipe: Recipe = None,
    keys: Keys = None,
) -> None:
    """Search for a better prompt, and ship it if it is better on held-back tasks."""
    import anyio

    from agentkit.improve.traces import TraceOptions

    if tasks is None and traces is None:
        raise UserError("nothing to learn from: give --tasks FILE, --traces DIR, or both.")
    options = _options(recipe, overrides or ())
    choice = TraceOptions(include_tainted=include_tainted)
    wanted = anyio.run(_wanted, agent, tasks, (traces, choice), scorer, (world, tuple(mcp or ())), reflect_with)
    _improve(wanted, out, options, yes=yes)


@app.command()
def gate(
    agent: AgentArgument,
    out: Out,
    tasks: Annotated[Path, typer.Option("--tasks", "-t", metavar="FILE", help="JSONL, as for `run`.")],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="The candidate: the agent with this model, such as local:small?lora=ADAPTER.gguf.",
        ),
    ],
    overrides: Overrides = None,
    scorer: ScorerOption = None,
    world: World = None,
    mcp: Mcp = None,
    recipe: Recipe = None,
    keys: Keys = None,
) -> None:
    """Hold the gate for another model or adapter, such as one of `agentkit specialise`."""
    from dataclasses import replace

    import anyio

    from agentkit.improve.folder import ImprovementFolder
    from agentkit.improve.traces import TraceOptions

    options = _options(recipe, overrides or ())
    subject = (world, tuple(mcp or ()))
    wanted = anyio.run(_wanted, agent, tasks, (None, TraceOptions()), scorer, subject, None)
    folder = ImprovementFolder(out)
    present = folder.pieces(folder.index().accepted)
    _improve(replace(wanted, candidate=present.model_copy(update={"model": model})), out, options, yes=False)


@app.command()
def examples(
    agent: AgentArgument,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="JSON lines for `agentkit specialise`.")
    ],
    tasks: Annotated[Path, typer.Option("--tasks", "-t", metavar="FILE", help="JSONL, as for `run`.")],
    license_id: Annotated[str, typer.Option("--license", help="License of the tasks, for the record.")],
    overrides: Overrides = None,
    world: World = None,
    mcp: Mcp = None,
    recipe: Recipe = None,
) -> None:
    """Write the training tasks' solutions as examples for an adapter; the held-back tasks stay unseen."""
    import json

    import anyio

    from agentkit.cli.console import output_console, plain
    from agentkit.improve.adapter_examples import training_examples
    from agentkit.improve.staging import without_world
    from agentkit.improve.subject import staged_facts
    from agentkit.improve.tasks import checked_tasks, split_tasks
    from agentkit.improve.traces import TraceOptions
    from modelstack.files import replacing

    options = _options(recipe, overrides or ())
    wanted = anyio.run(_wanted, agent, tasks, (None, TraceOptions()), None, (world, tuple(mcp or ())), None)
    split = split_tasks(checked_tasks(wanted.tasks), options.split, options.seed)
    staging = wanted.staging or without_world(wanted.agent)
    facts = anyio.run(staged_facts, staging, split.train[0])
    lines = [json.dumps(each, ensure_ascii=False) for each in training_examples(split.train, facts, license_id)]
    if not lines:
        raise UserError("no training task has a `solution` with a tool of the agent: add solutions to the tasks.")
    with replacing(out) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    output_console().print(plain(f"{out}: {len(lines)} examples of {len(split.train)} training tasks"))


@app.command()
def show(
    folder: Folder,
    version: Annotated[int | None, typer.Option(help="A version; else the history and the accepted one.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the history of an improvement and the texts of a version, as a difference from the one before."""
    from agentkit.cli.console import output_console, plain, print_tables
    from agentkit.improve.report import history_table, texts, verdict_tables
    from modelstack.terminal.tables import print_json

    opened, index = _opened(folder)
    number = index.accepted if version is None else version
    shown = opened.version(number) if number else None
    if as_json:
        print_json(
            {
                "accepted": index.accepted,
                "history": [entry.model_dump(mode="json") for entry in index.history],
                "version": None if shown is None else shown.model_dump(mode="json"),
            }
        )
        return
    if version is None:
        print_tables(history_table(opened, index))
    if shown is None:
        output_console().print(plain("the agent is as declared"))
        return
    if shown.verdict is not None:
        print_tables(*verdict_tables(shown.verdict))
    output_console().print(plain("\n".join(texts(opened.pieces(shown.base), shown.pieces))))


@app.command()
def accept(
    folder: Folder,
    version: Annotated[int | None, typer.Option(help="A version; else the one that waits.")] = None,
) -> None:
    """Accept a version that waits for a review, because a model or a trace gave some of its texts."""
    from agentkit.cli.console import output_console, plain

    opened, _ = _opened(folder)
    index = opened.accept(version)
    output_console().print(plain(f"accepted: version {index.accepted}"))


@app.command()
def rollback(
    folder: Folder,
    to: Annotated[int | None, typer.Option(help="A version; else the one before; 0: as declared.")] = None,
) -> None:
    """Go back to an earlier version; agents that load the folder afterwards use it."""
    from agentkit.cli.console import output_console, plain

    opened, _ = _opened(folder)
    index = opened.roll_back(to)
    name = f"version {index.accepted}" if index.accepted else "the agent as declared"
    output_console().print(plain(f"accepted again: {name}"))


def _opened(folder: Path) -> tuple[ImprovementFolder, Index]:
    from agentkit.improve.folder import INDEX, ImprovementFolder

    if not (folder / INDEX).is_file():
        raise UserError(f"{str(folder)!r} has no {INDEX}: give the folder of `agentkit improve run --out FOLDER`.")
    opened = ImprovementFolder(folder)
    return opened, opened.index()


def _options(recipe: Path | None, overrides: Sequence[str]) -> ImproveOptions:
    from agentkit.improve.improving import ImproveOptions
    from modelstack.errors import UserError as StackError
    from modelstack.recipe_file import read_recipe

    try:
        return read_recipe(ImproveOptions, recipe, overrides)
    except StackError as error:
        raise UserError(str(error)) from error


async def _wanted(
    name: str,
    tasks: Path | None,
    traces: tuple[Path | None, TraceOptions],
    scorer: str | None,
    world: tuple[Path | None, tuple[str, ...]],
    reflect_with: str | None,
) -> Wanted:
    """Return the subject that the options describe."""
    from agentkit.cli.console import notes_console, print_wrapped
    from agentkit.improve.checking import score_by_checks
    from agentkit.improve.improving import Wanted
    from agentkit.improve.staging import in_world, world_servers
    from agentkit.improve.subject import agent_facts
    from agentkit.improve.tasks import read_tasks
    from agentkit.improve.traces import TracedTasks, traced_tasks
    from agentkit.serving.named_agent import named_agent

    agent = named_agent(name)
    folder, commands = world
    if (folder is None) != (not commands):
        raise UserError("--world and --mcp belong together: the servers work on a copy of the world.")
    servers = world_servers(commands) if folder is not None else None
    staging = None if folder is None or servers is None else in_world(agent, folder, servers)
    found = TracedTasks()
    if traces[0] is not None:
        facts = await agent_facts(agent, None if folder is None or servers is None else servers(folder))
        found = traced_tasks(traces[0], traces[1], facts.tools, facts.trusted_tools)
        out = "; ".join(f"{n} {reason}" for reason, n in found.left_out.most_common())
        print_wrapped(notes_console(), f"{len(found.tasks)} traces used, left out: {out or 'none'}")
    return Wanted(
        agent,
        found.tasks if tasks is None else read_tasks(tasks),
        scorer=score_by_checks if scorer is None else _named_function(scorer),
        staging=staging,
        demonstrations=found.demonstrations,
        are_tasks_traced=tasks is None,
        reflection_model=reflect_with,
    )


def _improve(wanted: Wanted, out: Path, options: ImproveOptions, *, yes: bool) -> None:
    """Improve with progress, and print the result."""
    import anyio

    from agentkit.cli.console import output_console, plain, print_tables, print_wrapped
    from agentkit.improve.folder import ImprovementFolder
    from agentkit.improve.report import summary, texts, verdict_tables

    with _progress() as progress:
        version = anyio.run(_improved, wanted, out, options, progress)
    folder = ImprovementFolder(out)
    if yes and folder.index().history[-1].action == "waiting":
        folder.accept(version.number)
    if version.verdict is not None:
        print_tables(*verdict_tables(version.verdict))
    console = output_console()
    console.print(plain("\n".join(texts(folder.pieces(version.base), version.pieces))))
    print_wrapped(console, summary(version, folder.index(), out))


async def _improved(wanted: Wanted, out: Path, options: ImproveOptions, told: Progress) -> Version:
    """Improve while the agent's model and servers stay open between the rollouts."""
    from agentkit.improve.improving import improve

    async with wanted.agent:
        return await improve(wanted, out, options, told)


@contextmanager
def _progress() -> Generator[Progress]:
    """Show rollouts as a bar on a terminal, elsewhere as a line every ten seconds."""
    from agentkit.cli.console import notes_console, print_wrapped
    from agentkit.improve.improving import Progress
    from agentkit.improve.rollout import Rollout
    from modelstack.terminal.progress_bars import progress_bars

    notes = notes_console()
    with progress_bars(notes) as shown:

        def rollout(part: str, done: int, total: int, last: Rollout) -> None:
            shown("rollouts", done, total, f"{part}: {last.task_id[:24]} {last.score:g}")

        yield Progress(rollout, lambda text: print_wrapped(notes, text, "dim"))


def _named_function(name: str) -> Scorer:
    """Import the scorer of a name.

    Raises:
        UserError: the module or the function is missing.
    """
    from agentkit.serving.named_agent import named_object

    found: Any = named_object(name)
    if not callable(found):
        raise UserError(f"{name!r} is {type(found).__name__}, not a function of an Outcome that returns a score.")
    return cast("Scorer", found)
