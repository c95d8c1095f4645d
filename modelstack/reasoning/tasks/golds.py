"""Golds in task files: one JSON form per verifier, and its conversion to the verifier's type.

| verifier | gold |
|---|---|
| math | the answer as text |
| json | a JSON Schema (Draft 2020-12) for the whole reply; `const` holds the values that the prompt asks for |
| gym | `{"task": "chain_sum", "seed": 0, "size": 50, "index": 3}`, optionally `level`, `config`, `form` |
| calls | a list of `{"name", "arguments"}` or `{"name", "acceptable": {parameter: [values]}, "may_omit": []}` |
| effects | `{"world": "todo", "start": {...}, "calls": [{"name", "arguments"}]}`; the world is one of `worlds` |
| outcome | as effects; for worlds in other processes `{"state": {...}}` or `{"calls": [...]}` (`episode_golds`) |
| code | `{"tests": ["assert f(1) == 2"], "names": ["f"]}`, optionally `setup`, `helpers` |
| refusal | `"refusal"`, or `"answer"` if the request must be answered |

Task files are untrusted: a gold that can never be met or evaluated is rejected when it is read, not during a
run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from modelstack.data.examples import first_error
from modelstack.reasoning.tasks.episode_golds import WorldGold
from modelstack.reasoning.verifiers.answer_forms import AnswerForm, FormedGold
from modelstack.reasoning.verifiers.calls import CallGold, GoldCall, gold_fault
from modelstack.reasoning.verifiers.code import ProgramTests
from modelstack.reasoning.verifiers.code_answers import tested_names
from modelstack.reasoning.verifiers.effects import EffectGold, perform
from modelstack.reasoning.verifiers.gym import GymGold, GymTask
from modelstack.reasoning.verifiers.refusals import Wanted
from modelstack.reasoning.worlds.registry import WorldMaker
from modelstack.toolcalls.convention import ResponseFormat, ToolSpec
from modelstack.toolcalls.grammar.validation import check_schema

VerifierName = Literal["math", "json", "gym", "calls", "effects", "outcome", "code", "refusal"]
WITH_TOOLS: frozenset[VerifierName] = frozenset({"calls", "effects"})
"""Verifiers that read a reply as calls of the task's tools."""
_SHOWN = 60


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Gym(_Form):
    task: str = Field(min_length=1)
    seed: int
    size: int = Field(default=500, ge=1)
    index: int = Field(ge=0)
    level: int | None = Field(default=None, ge=0)
    config: dict[str, Any] = Field(default_factory=dict[str, Any])
    form: AnswerForm = "marked"

    @model_validator(mode="after")
    def _is_inside(self) -> Self:
        if self.index >= self.size:
            raise ValueError(f"index {self.index} must be below size {self.size}")
        return self


class _Call(_Form):
    name: str = Field(min_length=1)
    arguments: dict[str, Any] | None = None
    acceptable: dict[str, list[Any]] | None = None
    may_omit: list[str] = Field(default_factory=list[str])

    @model_validator(mode="after")
    def _says_one(self) -> Self:
        if (self.arguments is None) == (self.acceptable is None):
            raise ValueError(
                "give either arguments, the only correct ones, or acceptable, correct values by parameter"
            )
        if self.may_omit and self.acceptable is None:
            raise ValueError("may_omit goes with acceptable: arguments that are given are all expected")
        return self

    def gold(self) -> GoldCall:
        """Return the gold call in the form that the verifier reads."""
        if self.arguments is not None:
            return GoldCall.exactly(self.name, self.arguments)
        return GoldCall(
            self.name, {k: tuple(v) for k, v in (self.acceptable or {}).items()}, frozenset(self.may_omit)
        )


class _Performed(_Form):
    name: str = Field(min_length=1)
    arguments: dict[str, Any] = Field(default_factory=dict[str, Any])


class _Effects(_Form):
    world: str
    start: dict[str, Any] = Field(default_factory=dict[str, Any])
    calls: list[_Performed]


class _Code(_Form):
    tests: list[str] = Field(min_length=1)
    names: list[str] | None = None
    setup: str = ""
    helpers: str = ""


_CALLS = TypeAdapter(list[_Call])


def read_gold(name: VerifierName, written: Any, tools: Sequence[ToolSpec] = ()) -> Any:
    """Return a task's gold in the form that its verifier reads.

    Args:
        name: Name of the verifier.
        written: Gold as written in the file.
        tools: Tools that the task shows.

    Raises:
        ValueError: The gold has another form, or can never be met or evaluated; the message states the reason.
    """
    if name in WITH_TOOLS and not tools:
        raise ValueError(f"verifier {name} judges calls, but the task shows no tools: give tools")
    try:
        return _READERS[name](written, tools)
    except ValidationError as error:
        raise ValueError(
            f"gold is {_shown(written)}; for {name} it is {_FORMS[name]}: {first_error(error)}"
        ) from error


def response_format(tools: Sequence[ToolSpec]) -> ResponseFormat:
    """Return the format of a reply to a task that shows tools; it allows `[]`, as the prompt states."""
    return ResponseFormat(tuple(tools), abstain=True)


def _math(written: Any, tools: Sequence[ToolSpec]) -> str:
    if not isinstance(written, str):
        raise ValueError(f"gold is {_shown(written)}; for math it is {_FORMS['math']}")
    return written


def _schema(written: Any, tools: Sequence[ToolSpec]) -> Mapping[str, Any]:
    if not isinstance(written, dict):
        raise ValueError(f"gold is {_shown(written)}; for json it is {_FORMS['json']}")
    if wrong := check_schema(written):
        raise ValueError(f"gold is not a JSON Schema, at {wrong[0] or 'the root'}: {wrong[1]}")
    return written


def _gym(written: Any, tools: Sequence[ToolSpec]) -> FormedGold:
    form = _Gym.model_validate(written)
    task = GymTask(form.task, form.seed, form.size, form.level, form.config)
    return FormedGold(GymGold(task, form.index), form.form)


def _calls(written: Any, tools: Sequence[ToolSpec]) -> CallGold:
    gold = CallGold(response_format(tools), tuple(call.gold() for call in _CALLS.validate_python(written)))
    if fault := gold_fault(gold, {tool.name: tool for tool in tools}):
        raise ValueError(f"the gold cannot be used: {fault}")
    return gold


def _effects(written: Any, tools: Sequence[ToolSpec]) -> EffectGold:
    form = _Effects.model_validate(written)
    make = WorldMaker.of(form.world, form.start)
    calls = tuple((call.name, call.arguments) for call in form.calls)
    if refused := perform(make(), calls).refused:
        raise ValueError(f"world {form.world!r} refuses a gold call: {refused[0]}")
    return EffectGold(make, response_format(tools), calls)


def _outcome(written: Any, tools: Sequence[ToolSpec]) -> EffectGold | WorldGold:
    if not (isinstance(written, dict) and "world" in written):
        return WorldGold.model_validate(written)
    if not tools:
        raise ValueError("this gold needs tools to act on its world, but the task shows none: give tools")
    return _effects(written, tools)


def _code(written: Any, tools: Sequence[ToolSpec]) -> ProgramTests:
    form = _Code.model_validate(written)
    try:
        names = tested_names(form.tests, "") if form.names is None else form.names
    except SyntaxError as error:
        raise ValueError(f"a test is not valid Python: {error}") from error
    return ProgramTests(tuple(form.tests), tuple(names), form.setup, form.helpers)


def _wanted(written: Any, tools: Sequence[ToolSpec]) -> Wanted:
    if written not in get_args(Wanted):
        raise ValueError(f"gold is {_shown(written)}; for refusal it is {_FORMS['refusal']}")
    return written


def _shown(written: Any) -> str:
    return json.dumps(written)[:_SHOWN]


_READERS: Mapping[VerifierName, Callable[[Any, Sequence[ToolSpec]], Any]] = {
    "math": _math,
    "json": _schema,
    "gym": _gym,
    "calls": _calls,
    "effects": _effects,
    "outcome": _outcome,
    "code": _code,
    "refusal": _wanted,
}
_FORMS: Mapping[VerifierName, str] = {
    "math": "the answer as a text",
    "json": "a JSON Schema",
    "gym": "a generator's name with seed, size and index",
    "calls": "a list of calls",
    "effects": "a world with its start and calls",
    "outcome": "a world with its start and calls, or a state",
    "code": "tests of a program",
    "refusal": '"refusal" or "answer"',
}
