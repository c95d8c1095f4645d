"""An agent's declaration with the pieces of an improvement."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from agentkit.context import RunContext
from agentkit.errors import UserError
from agentkit.improve.folder import accepted_pieces
from agentkit.improve.pieces import Pieces, description_sha256
from agentkit.run.declaration import Declaration
from agentkit.run.instructions import Instructions
from agentkit.tools.definition import ToolDefinition
from agentkit.tools.prepare import PrepareTools

DepsT = TypeVar("DepsT")
OutputT = TypeVar("OutputT")


def improved_declaration(
    declared: Declaration[DepsT, OutputT], by: Pieces | str | Path
) -> Declaration[DepsT, OutputT]:
    """Return a declaration with pieces, or with the accepted pieces of a folder; the given one does not change.

    Raises:
        UserError: the folder has no improvement or is damaged, or the pieces replace instructions that are a
            function.
    """
    pieces = by if isinstance(by, Pieces) else accepted_pieces(Path(by))
    return replace(
        declared,
        model=declared.model if pieces.model is None else pieces.model,
        instructions=_instructions(declared.instructions, pieces),
        prepare_tools=_prepare_tools(declared.prepare_tools, pieces),
    )


def _instructions(own: Instructions | None, pieces: Pieces) -> Instructions | None:
    if pieces.instructions is not None:
        if callable(own):
            raise UserError(
                "the improvement replaces the instructions, and the agent's instructions are a function: improve "
                "the agent again with its present instructions, to which rules and demonstrations are added."
            )
        own = pieces.instructions
    added = pieces.added_text
    if not added:
        return own
    if not callable(own):
        return _joined(own, added)

    async def instructions(context: RunContext[Any]) -> str:
        given: Any = own(context)
        return _joined(await given if inspect.isawaitable(given) else given, added)

    return instructions


def _joined(text: str | None, added: str) -> str:
    return f"{text}\n\n{added}" if text else added


def _prepare_tools(own: PrepareTools | None, pieces: Pieces) -> PrepareTools | None:
    described = {each.name: each for each in pieces.tool_descriptions}
    if not described:
        return own

    def with_description(definition: ToolDefinition) -> ToolDefinition:
        edit = described.get(definition.name)
        if edit is None or edit.replaces != description_sha256(definition.description):
            return definition
        return replace(definition, description=edit.text)

    async def prepare(
        context: RunContext[Any], definitions: Sequence[ToolDefinition]
    ) -> Sequence[ToolDefinition | str]:
        kept: Any = definitions if own is None else own(context, definitions)
        kept = await kept if inspect.isawaitable(kept) else kept
        known: Mapping[str, ToolDefinition] = {each.name: each for each in definitions}
        return [_prepared(each, known, with_description) for each in kept]

    return prepare


def _prepared(
    each: ToolDefinition | str, known: Mapping[str, ToolDefinition], change: Any
) -> ToolDefinition | str:
    """Return one entry of the prepared tools; an unknown name stays, and the run reports it."""
    definition = known.get(each) if isinstance(each, str) else each
    return each if definition is None else change(definition)
