"""Assembles tool calls from a stream's deltas, also from servers that omit the index or the id.

OpenAI numbers the calls and sends id and name first, then the arguments in pieces. Seen elsewhere: index 0 for
every call (ollama#15457), no index at all (ollama#7881), whole calls in one delta, no ids, a name in pieces or
repeated with every piece. `_starts_new_call` has the rules for these cases. Arguments are passed on as they
were written, valid or not: the runtime reports errors to the model.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from agentkit.basics.well_formed import well_formed
from agentkit.messages import ToolCallPart, new_call_id
from agentkit.models.base import ToolCallDelta
from agentkit.models.http.json_fields import object_field, optional_field, text_field


@dataclass(slots=True)
class _Call:
    position: int
    server_index: int | None
    server_id: str
    name: str = ""
    arguments: list[str] = field(default_factory=list[str])
    announced: bool = False


@dataclass(frozen=True, slots=True)
class _Piece:
    index: int | None
    id: str
    name: str
    arguments: str


class ToolCallAssembler:
    """The tool calls of one response while they arrive."""

    def __init__(self, tool_names: Collection[str] = ()) -> None:
        """Start without calls; known tool names decide whether two pieces form one name."""
        self._tool_names = frozenset(tool_names)
        self._calls: list[_Call] = []

    def feed(self, entries: list[Any]) -> list[ToolCallDelta]:
        """Add the `tool_calls` of one delta.

        Raises:
            UnexpectedModelBehavior: a field has the wrong type.
        """
        deltas: list[ToolCallDelta] = []
        for n_before, entry in enumerate(entries):
            piece = _read_piece(entry)
            call = self._call_for(piece, shares_chunk=n_before > 0)
            call.server_id = call.server_id or piece.id
            call.name = self._joined_name(call, piece.name)
            if piece.arguments:
                call.arguments.append(piece.arguments)
                deltas.append(ToolCallDelta(call.position, _announce(call), piece.arguments))
        return deltas

    def close(self) -> list[ToolCallDelta]:
        """Return deltas that name the calls without arguments; a name is sent once, when it is complete."""
        return [
            ToolCallDelta(call.position, name) for call in self._calls if (name := _announce(call)) is not None
        ]

    def parts(self, taken_ids: Collection[str] = ()) -> tuple[ToolCallPart, ...]:
        """Return the calls, with ids that are new to the conversation whose ids are `taken_ids`."""
        taken = set(taken_ids)
        parts: list[ToolCallPart] = []
        for call in self._calls:
            call_id = call.server_id if call.server_id and call.server_id not in taken else new_call_id()
            taken.add(call_id)
            parts.append(ToolCallPart(call.name, well_formed("".join(call.arguments)), call_id))
        return tuple(parts)

    def describe(self) -> list[str]:
        """Return what has arrived, call by call."""
        return [
            f"a call of {call.name!r} with {sum(map(len, call.arguments))} characters of arguments"
            for call in self._calls
        ]

    def _call_for(self, piece: _Piece, *, shares_chunk: bool) -> _Call:
        call = self._find(piece)
        if call is None or self._starts_new_call(call, piece, shares_chunk=shares_chunk):
            call = _Call(len(self._calls), piece.index, piece.id)
            self._calls.append(call)
        return call

    def _find(self, piece: _Piece) -> _Call | None:
        """Return the call that a piece likely continues: the last with its index, else its id, else the last."""
        if piece.index is not None:
            return next((c for c in reversed(self._calls) if c.server_index == piece.index), None)
        if piece.id:
            return next((c for c in reversed(self._calls) if c.server_id == piece.id), None)
        return self._calls[-1] if self._calls else None

    def _starts_new_call(self, call: _Call, piece: _Piece, *, shares_chunk: bool) -> bool:
        """Return whether `piece`, which would continue `call` by its index, is a call of its own."""
        if not piece.name:
            return False
        if piece.id and call.server_id:
            return piece.id != call.server_id
        if piece.index is None and shares_chunk:
            return True
        if _is_complete(call.arguments):
            return bool(piece.arguments) or piece.name != call.name
        both_known = call.name in self._tool_names and piece.name in self._tool_names
        return both_known and piece.name != call.name and not self._continues_name(call.name, piece.name)

    def _continues_name(self, name: str, piece: str) -> bool:
        return name + piece in self._tool_names or piece.startswith(name)

    def _joined_name(self, call: _Call, piece: str) -> str:
        """Return the name with one more piece; a server may repeat the name, or send all of it so far."""
        name = call.name
        if not piece or (name and call.arguments):
            return name or piece
        if name + piece in self._tool_names or not piece.startswith(name):
            return name + piece
        return piece if piece == name or piece in self._tool_names else name + piece


def _read_piece(entry: Any) -> _Piece:
    function = object_field(entry, "function")
    arguments = function.get("arguments")
    if isinstance(arguments, dict):
        function = {**function, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return _Piece(
        index=optional_field(entry, "index", int),
        id=text_field(entry, "id"),
        name=well_formed(text_field(function, "name")),
        arguments=well_formed(text_field(function, "arguments")),
    )


def _announce(call: _Call) -> str | None:
    if call.announced or not call.name:
        return None
    call.announced = True
    return call.name


def _is_complete(arguments: list[str]) -> bool:
    if not arguments or not arguments[-1].rstrip().endswith("}"):
        return False
    try:
        return isinstance(json.loads("".join(arguments)), dict)
    except (ValueError, RecursionError):
        return False
