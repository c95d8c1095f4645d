"""Command `agentkit demonstrations`, added to the command line by an entry point (extra `train`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import anyio
import typer


def register(app: typer.Typer) -> None:
    """Add the command to `agentkit`."""
    app.command()(demonstrations)


def demonstrations(
    out: Annotated[
        Path, typer.Argument(metavar="FILE.jsonl.zst", help="Examples, as `modelstack sft` reads them.")
    ],
    conversations: Annotated[int, typer.Option(min=1, help="How many to play.")] = 300,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    unplaced: Annotated[
        bool, typer.Option("--unplaced", help="Short ones, whose first request does not say where to look.")
    ] = False,
    written: Annotated[
        bool, typer.Option("--written", help="Those that were written one by one, each once, and no others.")
    ] = False,
    evaluations: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="Evaluation sets that no conversation may repeat; repeatable."),
    ] = None,
) -> None:
    """Generate training conversations: scripts that are executed on agentkit's own MCP servers."""
    from agentkit.cli.console import count_of, notes_console, output_console, print_wrapped
    from agentkit.specialise.demonstrations.play import demonstrations as played
    from agentkit.specialise.demonstrations.play import written_demonstrations
    from modelstack.data.examples import Example, write_examples
    from modelstack.data.tools.decontamination import Cleaner, read_evaluations
    from modelstack.terminal.progress_bars import progress_bars

    cleaner = Cleaner(read_evaluations(evaluations or []))

    def is_clean(example: Example) -> bool:
        return cleaner.is_clean(example, names_are_kept=True)

    async def play() -> None:
        with progress_bars(notes_console()) as told:
            if written:
                found = await written_demonstrations(seed, is_clean, told)
            else:
                found = await played(conversations, seed, is_clean, told, unplaced=unplaced)
        n_examples = write_examples(out, found)
        n_targets = sum(1 + sum(message.train for message in example.messages) for example in found)
        n_dropped = sum(cleaner.dropped.values())
        print_wrapped(
            output_console(),
            f"{out}: {count_of(n_examples, 'conversation')} with {n_targets} replies to learn; "
            f"dropped as repeats of an evaluation: {n_dropped}",
            indent="  ",
        )

    anyio.run(play)
