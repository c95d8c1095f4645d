"""Reward of tool calls by comparison with gold calls, in the manner of BFCL.

Names must be equal, and arguments valid under the tool's closed schema (required keys, types, no unknown keys).
Each value must be one of the gold's acceptable values, and an argument may be omitted only if the gold permits
it. Several calls are matched one to one in any order. If the gold has no calls, no call is correct.

The rules are those of BFCL (Patil et al. 2025, "The Berkeley Function Calling Leaderboard"; `ast_checker.py` of
bfcl-eval) without three quirks, which `evals.tool_use.bfcl` reproduces for comparable scores: BFCL ignores a
name in the key, matches greedily, and accepts any element type in an optional list. A policy would exploit them.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward, final_part, unscorable
from modelstack.toolcalls.convention import ResponseFormat, ResponseParseError, ToolSpec, parse_response
from modelstack.toolcalls.grammar.pointers import SchemaReferenceError
from modelstack.toolcalls.grammar.schemas import MergeError, normalise
from modelstack.toolcalls.grammar.validation import SchemaValidator, check_schema

Call = tuple[str, Mapping[str, Any]]
"""Call as name and arguments."""
TextRule = Literal["standardised", "exact"]
MAX_OPTIONS = 256
"""Maximum number of values that an object with options in an answer key may expand to."""
_IGNORED = re.compile(r"[ ,./\-_*^]")


@dataclass(frozen=True, slots=True)
class GoldCall:
    """Expected call with its acceptable arguments."""

    name: str
    acceptable: Mapping[str, Sequence[Any]]
    """Acceptable values by parameter; other parameters are not allowed."""
    may_omit: frozenset[str] = frozenset()

    @classmethod
    def exactly(cls, name: str, arguments: Mapping[str, Any]) -> GoldCall:
        """Return the gold that accepts only these arguments."""
        return cls(name, {parameter: (value,) for parameter, value in arguments.items()})

    @classmethod
    def from_answer_key(cls, entry: Mapping[str, Mapping[str, Sequence[Any]]]) -> GoldCall:
        """Return the gold of a BFCL entry: `{name: {parameter: [values]}}`, with `""` for "may be omitted".

        Raises:
            ValueError: The entry does not have exactly one name, or an object with options expands to too many
                values.
        """
        if len(entry) != 1:
            raise ValueError(
                f"an answer key entry must have one name, {{name: {{parameter: [values]}}}}, got {sorted(entry)}"
            )
        ((name, parameters),) = entry.items()
        acceptable = {
            parameter: tuple(expanded for value in values if value != "" for expanded in _expanded(value))
            for parameter, values in parameters.items()
        }
        return cls(name, acceptable, frozenset(p for p, values in parameters.items() if "" in values))


@dataclass(frozen=True, slots=True)
class CallGold:
    """Expected calls, and the format that the reply is parsed with."""

    format: ResponseFormat
    calls: tuple[GoldCall, ...]
    """Expected calls. Empty: no call is correct."""


class CallVerifier:
    """Verifier that parses a reply by the convention and matches its calls with the gold."""

    def __init__(self, *, text: TextRule = "standardised") -> None:
        """Store the rule for comparing text.

        Args:
            text: `standardised` ignores case, spaces and `,./-_*^`, as BFCL does; `exact` compares unchanged
                text.
        """
        self._same_text: Callable[[str, str], bool] = _same_standardised if text == "standardised" else str.__eq__

    def score(self, item: Item[CallGold], completion: Completion) -> Reward:
        """Return 1 if the calls match, else 0; None if a gold call has no shown tool or an unusable schema.

        A reply that breaks the convention is wrong, even if no call is expected.
        """
        gold, tools = item.gold, {tool.name: tool for tool in item.gold.format.tools}
        if fault := gold_fault(gold, tools):
            return unscorable(fault)
        try:
            calls = calls_of(completion.text, gold.format)
        except ResponseParseError as error:
            return Reward(0.0, str(error)[:200])
        answer = json.dumps(calls)[:1_000]
        if len(calls) != len(gold.calls):
            return Reward(0.0, f"{len(calls)} calls, {len(gold.calls)} expected", answer)
        fits = [[not self._fault(call, wanted, tools[wanted.name]) for call in calls] for wanted in gold.calls]
        unmatched = unmatched_row(fits)
        if unmatched is None:
            return Reward(1.0, "all calls match", answer)
        wanted = gold.calls[unmatched]
        faults = [self._fault(call, wanted, tools[wanted.name]) for call in calls]
        return Reward(0.0, f"no call left for {wanted.name!r}: {'; '.join(filter(None, faults))}"[:300], answer)

    def _fault(self, call: Call, gold: GoldCall, tool: ToolSpec) -> str:
        """Return why a call differs from a gold call; empty if it matches."""
        name, arguments = call
        if name != gold.name:
            return f"{name!r} is called"
        if errors := _validator(tool).errors(arguments):
            return errors[0]
        missing = set(gold.acceptable) - set(arguments) - gold.may_omit
        if missing:
            return f"{min(missing)!r} is missing"
        for parameter, value in arguments.items():
            if parameter not in gold.acceptable:
                return f"{parameter!r} is not expected"
            if not any(same_value(value, option, self._same_text) for option in gold.acceptable[parameter]):
                return f"{parameter!r} is {value!r:.60}"
        return ""


def calls_of(text: str, response_format: ResponseFormat) -> list[Call]:
    """Return the calls of a reply after its reasoning; an empty list if it abstains or answers in words.

    Raises:
        ResponseParseError: The reply does not follow the convention.
    """
    said = final_part(text)
    if said is None:
        raise ResponseParseError("the reply ends within its reasoning")
    parsed = parse_response(said.strip() if said is not text else text, response_format)
    return [(name, json.loads(written)) for name, written in parsed.calls]


def has_valid_calls(text: str, response_format: ResponseFormat) -> bool:
    """Return whether a reply follows the convention, and all its calls are valid under the tools' schemas."""
    try:
        calls = calls_of(text, response_format)
    except ResponseParseError:
        return False
    tools = {tool.name: tool for tool in response_format.tools}
    return all(name in tools and not _validator(tools[name]).errors(arguments) for name, arguments in calls)


def same_value(value: Any, option: Any, same_text: Callable[[str, str], bool]) -> bool:
    """Return whether two JSON values match: numbers by value, booleans only booleans, text by the given rule."""
    if isinstance(value, bool) or isinstance(option, bool):
        return value is option
    if isinstance(value, str) and isinstance(option, str):
        return same_text(value, option)
    if isinstance(value, list | tuple) and isinstance(option, list | tuple):
        return len(value) == len(option) and all(
            same_value(left, right, same_text) for left, right in zip(value, option, strict=True)
        )
    if isinstance(value, Mapping) and isinstance(option, Mapping):
        return set(value) == set(option) and all(same_value(value[k], option[k], same_text) for k in value)
    if isinstance(value, int | float) and isinstance(option, int | float):
        return value == option
    return value is None and option is None


def standardised(text: str) -> str:
    """Return text as BFCL compares it: lower case, single quotes doubled, without spaces and `,./-_*^`."""
    return _IGNORED.sub("", text).lower().replace("'", '"')


def gold_fault(gold: CallGold, tools: Mapping[str, ToolSpec]) -> str:
    """Return why a gold cannot be met; empty if it can."""
    for call in gold.calls:
        if call.name not in tools:
            return f"the gold calls {call.name!r}, which is not a shown tool"
        try:
            validator = _validator(tools[call.name])
        except (ValueError, MergeError, SchemaReferenceError) as error:
            return f"the schema of {call.name!r}: {error}"[:200]
        first = {parameter: values[0] for parameter, values in call.acceptable.items() if values}
        if errors := validator.errors(first):
            return f"the gold call of {call.name!r} breaks its schema: {errors[0]}"[:200]
    return ""


def unmatched_row(fits: Sequence[Sequence[bool]]) -> int | None:
    """Return a row that stays unmatched when rows and columns are matched as far as possible; None if none does.

    Augmenting paths (Kuhn 1955) find a complete matching whenever there is one, unlike a greedy choice.
    """
    owner: dict[int, int] = {}

    def place(row: int, seen: set[int]) -> bool:
        for column, fit in enumerate(fits[row]):
            if fit and column not in seen:
                seen.add(column)
                if column not in owner or place(owner[column], seen):
                    owner[column] = row
                    return True
        return False

    return next((row for row in range(len(fits)) if not place(row, set())), None)


def _same_standardised(left: str, right: str) -> bool:
    return standardised(left) == standardised(right)


def _validator(tool: ToolSpec) -> SchemaValidator:
    return _validator_of(json.dumps(tool.parameters, sort_keys=True))


@lru_cache(maxsize=1_024)
def _validator_of(parameters: str) -> SchemaValidator:
    schema = json.loads(parameters)
    if wrong := check_schema(schema):
        raise ValueError(f"{wrong[0] or 'the root'}: {wrong[1]}")
    return SchemaValidator(schema, normalise(schema, is_arguments=True))


def _expanded(value: Any) -> list[Any]:
    """Return the values that an option stands for: objects in an answer key list options for each key."""
    if isinstance(value, list) and value and all(isinstance(element, Mapping) for element in value):
        return [list(each) for each in _product([_expanded(element) for element in value])]
    if not isinstance(value, Mapping):
        return [value]
    keys = list(value)
    options = [
        [(key, option) for option in value[key] if option != ""] + ([None] if "" in value[key] else [])
        if isinstance(value[key], list)
        else [(key, value[key])]
        for key in keys
    ]
    return [dict(pair for pair in each if pair is not None) for each in _product(options)]


def _product(options: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    n_options = 1
    for each in options:
        n_options *= len(each)
    if n_options > MAX_OPTIONS:
        raise ValueError(
            f"an object of the answer key expands to {n_options} values; the maximum is {MAX_OPTIONS}"
        )
    return list(itertools.product(*options))
