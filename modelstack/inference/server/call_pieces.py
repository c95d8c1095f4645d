"""Calls of a reply as pieces while they are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from modelstack.inference.server.turns import CallPiece
from modelstack.toolcalls.convention import ToolSpec
from modelstack.toolcalls.conventions import Convention
from modelstack.toolcalls.conventions.reading import WrittenCall, written_calls


class CallPieces:
    """Cuts the text of calls into pieces: each call's name once it is complete, then its arguments as they come.

    Arguments that are not written as JSON are told when the call is complete.
    """

    def __init__(
        self, convention: Convention, tools: Sequence[ToolSpec], tell: Callable[[CallPiece], None]
    ) -> None:
        """Tell the pieces of calls in `convention`."""
        self._form = convention.form
        self._tools = tools
        self._tell = tell
        self._text = ""
        self._n_told: list[int] = []
        """Characters told of each call's arguments."""

    def hear(self, piece: str) -> None:
        """Process the next piece of the text of the calls."""
        self._text += piece
        for index, call in enumerate(written_calls(self._text, self._form, self._tools)):
            if index == len(self._n_told):
                self._n_told.append(0)
                self._tell(CallPiece(index, "", call.name))
            written = self._arguments(call)
            if new := written[self._n_told[index] :]:
                self._n_told[index] = len(written)
                self._tell(CallPiece(index, new))

    def _arguments(self, call: WrittenCall) -> str:
        """Return the JSON of a call's arguments as far as it is written."""
        if call.arguments is not None:
            return call.arguments
        if self._form.parameters is not None or call.arguments_at is None:
            return ""
        return self._text[call.arguments_at : call.end]
