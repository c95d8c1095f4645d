"""`modelstack`, the command line: one group a step. What a command needs is imported when it runs.

A mistake of the user is one line that says what to do; `modelstack --debug COMMAND` shows where it came from.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from modelstack.architecture.ablate_cli import ablate
from modelstack.architecture.count_cli import count
from modelstack.architecture.export_cli import export_app, import_app
from modelstack.data.mix_cli import mix
from modelstack.data.pipeline.cli import data
from modelstack.data.quality_model.cli import fit_quality
from modelstack.data.synthetic.cli import synthesise
from modelstack.data.tools.cli import tool_data
from modelstack.decide.cli import fit_law, plan
from modelstack.errors import UserError
from modelstack.preferences.cli import prefer
from modelstack.preferences.reward.cli import reward
from modelstack.reasoning.distil.cli import distil
from modelstack.reasoning.merging.cli import merge
from modelstack.reasoning.policy.cli import reinforce
from modelstack.reasoning.ppo.cli import ppo
from modelstack.reasoning.rejection.cli import sample
from modelstack.reasoning.tasks.cli import tasks
from modelstack.sft.cli import fit_prior, lineage, sft
from modelstack.stability.cli import goodput
from modelstack.tokenizer import cli as tokenizer_cli
from modelstack.train.run.cli import sweep, train


class _Commands(TyperGroup):
    """Reports the mistakes that any command raises."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (UserError, OSError, ModuleNotFoundError) as error:
            if ctx.params.get("debug") or isinstance(error, BrokenPipeError):
                raise
            typer.secho(f"modelstack: {_explanation(error)}", err=True, fg="red")
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train, post-train and quantise models of your own.",
)
app.command()(plan)
app.command("fit-law")(fit_law)
app.command()(data)
app.command("fit-quality")(fit_quality)
app.command()(mix)
app.command()(synthesise)
app.add_typer(tokenizer_cli.app, name="tokenizer")
app.command()(train)
app.command()(sweep)
app.command()(count)
app.command()(ablate)
app.add_typer(export_app, name="export")
app.add_typer(import_app, name="import")
app.command()(goodput)
app.command("tool-data")(tool_data)
app.command()(sft)
app.command()(prefer)
app.command()(reward)
app.command()(reinforce)
app.command()(ppo)
app.command()(tasks)
app.command()(sample)
app.command()(distil)
app.command()(merge)
app.command()(lineage)
app.command("fit-prior")(fit_prior)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
) -> None:
    """Take what stands before the command."""


def main() -> None:
    """Run the command line."""
    app()


def _explanation(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error}; `pip install 'agentkit[train,data]'` brings what this command needs"
    return " ".join(str(error).split())
