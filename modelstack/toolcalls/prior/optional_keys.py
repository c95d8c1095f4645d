"""The decision to write another optional parameter, and a prior for it.

After a value of a call's arguments, either another key follows or the arguments end. A small model judges badly
which parameters a request leaves open: it writes parameters that were not mentioned, and leaves out others that
were. The words of the request are evidence. With x the evidence for the optional parameters not written yet,

    log-odds'(another key) = log-odds(another key) + constant + weights . x

The grammar takes care of required parameters: without them the arguments cannot end.

Each item of evidence is 1 if it holds for any of these parameters, else 0:
- name: the request has a word of its name that neither the tool nor another parameter has;
- description: the same for its description;
- choice: the request has a value of its enum;
- number: it is a number, and the request has a number that is not written yet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.legal_tokens import LegalTokens
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls.convention import ARGUMENTS_PREFIX, CALL_PREFIX, ToolSpec
from modelstack.toolcalls.prior.copying import numbers_of
from modelstack.toolcalls.prior.lexical import KEY_EVIDENCE, EvidenceWeights, words
from modelstack.toolcalls.prior.reply_place import FollowedReply
from modelstack.toolcalls.prior.two_sides import Decision, EvidenceBias, Evidenced, Sides

MOST_KNOWN = 4096
"""Number of decisions kept for a vocabulary."""
_CALL, _ARGUMENTS = b"[{", b"[{{"
"""The open brackets in a call, and those where a parameter's value begins."""
_ENDS = ("}}]", "}}," + CALL_PREFIX)
"""Texts after the last value: of the last call, and before another call."""


class KeyTable:
    """The tokens of a vocabulary that begin another key, and those that end the arguments."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Store the vocabulary."""
        self.table = vocabulary.token_bytes
        self._encode = vocabulary.encode
        self._known: dict[tuple[str, str, tuple[str, ...]], Sides | None] = {}

    def sides(self, rest: str, comma: str, keys: tuple[str, ...]) -> Sides | None:
        """Return both sides after a value, or before the first key.

        Args:
            rest: Text that closes the value (a quote, brackets, or nothing); before the first key, the opening
                brace.
            comma: Text between `rest` and a key.
            keys: Names that may follow.
        """
        asked = (rest, comma, keys)
        if asked not in self._known:
            if len(self._known) == MOST_KNOWN:
                self._known.clear()
            goes_on = {self._encode(f'{rest}{comma}"{key}":')[0] for key in keys}
            ends = {self._encode(rest + end)[0] for end in _ENDS}
            self._known[asked] = Sides.of(goes_on, ends)
        return self._known[asked]


class OptionalKeyBias(EvidenceBias):
    """Moves the decisions about another optional parameter in one request."""

    def __init__(
        self, weights: EvidenceWeights | None, request: str, tools: Sequence[ToolSpec], table: KeyTable
    ) -> None:
        """Read the request and the tools; without weights nothing is moved."""
        super().__init__(weights)
        self._asked = words(request)
        self._numbers = numbers_of(request)
        self._tools = {tool.name: tool for tool in tools}
        self._evidence: dict[str, Mapping[str, tuple[bool, bool, bool, bool]]] = {}
        self._table = table
        self._reply = FollowedReply(table.table)

    def decision(
        self, written: Sequence[int], legal: LegalTokens, logits_V: NDArray[np.float32]
    ) -> Evidenced | None:
        """Return the model's decision after `written`; None unless both sides are legal."""
        self._reply.follow(written)
        open_call = self._open_call()
        if open_call is None:
            return None
        tool, given, rest = open_call
        required = tool.parameters.get("required", ())
        properties = tool.parameters.get("properties", {})
        free = tuple(key for key in properties if key not in given and key not in required)
        if not free or any(key not in given for key in required):
            return None
        sides = self._table.sides(rest, ",", free) if given else self._table.sides("{", "", free)
        decision = Decision.of(sides, legal, logits_V)
        return None if decision is None else Evidenced(decision, self._evidence_for(tool, free, given))

    def _open_call(self) -> tuple[ToolSpec, Mapping[str, Any], str] | None:
        """Return the tool whose arguments are open, its arguments so far, and the end of the last value."""
        opened = self._reply.place.opened
        begins = opened == _CALL and self._reply.written.endswith(ARGUMENTS_PREFIX.encode())
        calls = self._reply.calls("{}" if begins else "")
        tool = self._tools.get(str(calls[-1]["name"])) if calls else None
        if tool is None or not isinstance(tool.parameters.get("properties"), Mapping):
            return None
        given = calls[-1].get("arguments", {})
        if begins or (given and opened.startswith(_ARGUMENTS)):
            return tool, given, self._reply.closing(len(_ARGUMENTS))
        return None

    def _evidence_for(self, tool: ToolSpec, keys: Sequence[str], given: Mapping[str, Any]) -> tuple[float, ...]:
        if tool.name not in self._evidence:
            self._evidence[tool.name] = _evidence_of(tool, self._asked)
        of_tool = self._evidence[tool.name]
        left = self._numbers - numbers_of(json.dumps(given))
        flags = [(*of_tool[key][:3], of_tool[key][3] and bool(left)) for key in keys]
        return tuple(float(any(flag[at] for flag in flags)) for at in range(len(KEY_EVIDENCE)))


def _evidence_of(tool: ToolSpec, asked: frozenset[str]) -> dict[str, tuple[bool, bool, bool, bool]]:
    """Return the evidence for each parameter; the last flag says whether it is a number."""
    properties: Mapping[str, Any] = tool.parameters["properties"]
    names = {key: words(key) for key in properties}
    abouts = {key: words(str(_get(schema, "description") or "")) for key, schema in properties.items()}
    common = words(f"{tool.name} {tool.description}")
    found: dict[str, tuple[bool, bool, bool, bool]] = {}
    for key, schema in properties.items():
        others = common.union(*(names[k] | abouts[k] for k in properties if k != key))
        enum = _get(schema, "enum")
        choices = [words(value) for value in enum if isinstance(value, str)] if isinstance(enum, list) else []
        found[key] = (
            bool((names[key] - others) & asked),
            bool((abouts[key] - others) & asked),
            any(choice and choice <= asked for choice in choices),
            _get(schema, "type") in ("integer", "number"),
        )
    return found


def _get(schema: object, keyword: str) -> Any:
    return schema.get(keyword) if isinstance(schema, Mapping) else None
