"""Parses the calls of BFCL's multi-turn answer keys without evaluating them.

The key writes a call as Python (`cd(folder='document')`, sometimes with positional arguments). It is parsed with
`ast` into a name and literals; the original passes such text to `eval`. A model's calls are JSON objects and
become `Call` without any text.

Source: possible_answer/BFCL_v4_multi_turn_*.json of bfcl-eval (Apache-2.0).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentkit.errors import UserError


@dataclass(frozen=True, slots=True)
class Call:
    """A call of one simulated function."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    positional: tuple[Any, ...] = ()
    """Positional arguments; only the answer key has them."""

    def __str__(self) -> str:
        """Return the call as Python code, as the answer key writes it."""
        named = (f"{key}={value!r}" for key, value in self.arguments.items())
        return f"{self.name}({', '.join((*map(repr, self.positional), *named))})"


def parse_call(text: str) -> Call:
    """Parse one call.

    Raises:
        UserError: `text` is not one call of a plain name with literal arguments.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            raise ValueError("not a call of a plain name")
        named: dict[str, Any] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                raise ValueError("** is not a literal argument")
            named[keyword.arg] = ast.literal_eval(keyword.value)
        return Call(node.func.id, named, tuple(ast.literal_eval(value) for value in node.args))
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise UserError(
            f"{text[:200]!r} is not a reference call ({error}); expected NAME(parameter=literal, ...). "
            f"The answer key is damaged: take it from the wheel of bfcl-eval again."
        ) from error


def parse_turns(turns: Sequence[Sequence[str]]) -> list[list[Call]]:
    """Parse the reference calls, turn by turn.

    Raises:
        UserError: a text is not a call, as in `parse_call`.
    """
    return [[parse_call(text) for text in turn] for turn in turns]


def named_arguments(call: Call, parameters: Sequence[str]) -> dict[str, Any]:
    """Return all arguments by name, as a model's call has them; `parameters` is the order of declaration.

    Raises:
        UserError: there are more positional arguments than parameters.
    """
    if len(call.positional) > len(parameters):
        raise UserError(
            f"{call} has {len(call.positional)} positional arguments; {call.name!r} takes {list(parameters)}."
        )
    return {**dict(zip(parameters, call.positional, strict=False)), **call.arguments}
