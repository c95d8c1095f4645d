"""Examples over the live tools: requests with their calls, requests that no tool fits, and clarifying questions.

Two sides never share held-out material: `test` uses the held-out wordings and values of each tool, `train` the
others. A hash decides the side of each value.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentkit.specialise.harvest import Harvest, names_a_path
from agentkit.specialise.live import LiveTool
from agentkit.specialise.recipe import SpecialiseRecipe
from agentkit.specialise.statements import ask_in_words, sql_parameter
from agentkit.specialise.wording import LICENSE, SOURCE, Wording, without_values, wordings_of
from modelstack.data.examples import Call, Example, Kind, Message, Tool
from modelstack.data.tools.api_making import SAME_WORK
from modelstack.data.tools.api_phrasing import ask_api
from modelstack.data.tools.api_values import value_of
from modelstack.data.tools.apis import label_of
from modelstack.data.tools.clauses import Clause
from modelstack.data.tools.everyday import ask, show
from modelstack.data.tools.everyday_tools import everyday_tools
from modelstack.data.tools.kinds import make, words
from modelstack.data.tools.related import overlap, share_stem
from modelstack.data.tools.speaking import speak
from modelstack.data.tools.spoken import Scene, Spoken, scene

Side = Literal["train", "test"]
_P_KNOWN = 0.6
"""Probability of a value from the server, if it has some: a model that sees only these does not learn to copy."""
_HELD_BACK_OF_256 = 64
"""Number out of 256 of values held out for the test: a quarter."""
_QUOTED = re.compile(r"(?<!\w)['`\"]([^'`\"\s]{2,40})['`\"]")
_P_SHOWN = 0.25
"""Probability of a value quoted in the parameter's description."""
_ANY_TEXT = ("subject", "topic", "sentence")
"""Kinds of values for a text parameter without further information."""
_QUESTIONS = (
    "Which {label}?",
    "Which {label} should I use?",
    "What is the {label}?",
    "Please tell me the {label}.",
)


@dataclass(frozen=True, slots=True)
class Cases:
    """Source of examples: tools, their values, the recipe and the side."""

    tools: Sequence[LiveTool]
    harvest: Harvest
    recipe: SpecialiseRecipe
    side: Side

    def make(self, sort: str, number: int) -> Example | None:
        """Return the example of a sort and number; None if this random draw gives none."""
        now = scene("specialise", self.side, sort, self.recipe.seed, number)
        name = f"{self.side}-{sort}-{number}"
        match sort:
            case "call":
                return self._with_calls(now, name, "call", [now.one(self.tools)], 1)
            case "parallel":
                return self._with_calls(now, name, "parallel", [now.one(self.tools)], now.one((2, 2, 3)))
            case "multi":
                chosen = now.some(self.tools, 2)
                return self._with_calls(now, name, "multi", chosen, 1) if len(chosen) > 1 else None
            case "removed":
                return self._removed(now, name)
            case "foreign":
                return self._foreign(now, name)
            case "clarify":
                return self._clarify(now, name)
            case _:
                raise AssertionError(f"sort {sort!r}")

    def is_from_server(self, tool: str, parameter: str, value: Any) -> bool:
        """Return whether the server is known to accept a value."""
        live = next(each for each in self.tools if each.name == tool)
        return value in self.harvest.values(self.tools, live, parameter)

    def _with_calls(
        self, now: Scene, name: str, kind: Kind, chosen: Sequence[LiveTool], n_calls: int
    ) -> Example | None:
        clauses = [self.ask(tool, now, n_calls) for tool in chosen]
        asked = [clause for clause in clauses if clause is not None]
        calls = [Call(name=n, arguments=a) for clause in asked for n, a in clause.calls]
        if len(asked) < len(clauses) or len({call.model_dump_json() for call in calls}) < len(calls):
            return None
        return self._example(now, name, kind, self._shown(now, chosen), speak(asked, now), calls=tuple(calls))

    def _removed(self, now: Scene, name: str) -> Example | None:
        tool = now.one(self.tools)
        clause = self.ask(tool, now, 1)
        others = [t for t in self.tools if t is not tool and not _may_do(t, tool)]
        if clause is None or not others:
            return None
        shown = now.some(others, len(others) if now.chance(0.3) else now.one((1, 2, 3, 4)))
        return self._example(now, name, "irrelevant", [t.shown for t in shown], speak([clause], now))

    def _foreign(self, now: Scene, name: str) -> Example | None:
        clause = ask(show(now.one(everyday_tools()), now), now)
        if clause is None or any(share_stem(clause.text, _said(tool)) for tool in self.tools):
            return None
        return self._example(now, name, "irrelevant", self._shown(now, ()), speak([clause], now))

    def _clarify(self, now: Scene, name: str) -> Example | None:
        able = [tool for tool in self.tools if tool.required and sql_parameter(tool) is None]
        if not able:
            return None
        tool = now.one(able)
        missing = now.one(tool.required)
        wording = self._wording(tool, now)
        clause = ask_api(without_values(wording, [missing]), now, values_of=self._values_of(tool))
        if clause is None:
            return None
        label = wording.nouns.get(missing) or label_of(missing)
        reply = now.one(_QUESTIONS).format(label=label)
        return self._example(now, name, "clarify", self._shown(now, [tool]), speak([clause], now), reply=reply)

    def ask(self, tool: LiveTool, now: Scene, n_calls: int) -> Clause | None:
        """Return a clause that asks for calls of a tool; None if this draw gives none."""
        if sql_parameter(tool) is not None:
            return ask_in_words(tool, self.harvest.tables, now) if n_calls == 1 else None
        wording = self._wording(tool, now)
        return ask_api(wording.api, now, n_calls=n_calls, values_of=self._values_of(tool), nouns=wording.nouns)

    def _wording(self, tool: LiveTool, now: Scene) -> Wording:
        """Return one of this side's wishes; the last of three or more is held out for the test."""
        found = wordings_of(tool)
        if len(found) < 3:
            return now.one(found)
        return now.one(found[:-1]) if self.side == "train" or now.chance(0.5) else found[-1]

    def _values_of(self, tool: LiveTool) -> Any:
        def value(name: str, schema: Mapping[str, Any], now: Scene) -> Spoken | None:
            known = [
                v
                for v in self.harvest.values(self.tools, tool, name)
                if v != schema.get("default") and self._is_here(v)
            ]
            if known and now.chance(_P_KNOWN):
                return Spoken(text := str(now.one(known)), text)
            found = _described(schema, now) or value_of(name, schema, now)
            if found is None and name in tool.required and schema.get("type") == "string":
                found = make(now.one(_ANY_TEXT), now)
            return None if found is not None and found.value == schema.get("default") else found

        return value

    def _is_here(self, value: Any) -> bool:
        is_held_back = hashlib.sha256(str(value).encode()).digest()[0] < _HELD_BACK_OF_256
        return is_held_back == (self.side == "test")

    def _shown(self, now: Scene, gold: Sequence[LiveTool]) -> list[Tool]:
        """Return all live tools, or the gold ones with some of the most similar ones and some others."""
        if self.side == "test" or now.chance(self.recipe.whole_list_share):
            return [tool.shown for tool in self.tools]
        others = [tool for tool in self.tools if tool not in gold]
        n_more = max(0, now.random.randrange(1, self.recipe.max_tools + 1) - len(gold))
        near = sorted(others, key=lambda t: -max((overlap(_said(t), _said(g)) for g in gold), default=0.0))
        kept = near[: n_more // 2]
        kept += now.some([tool for tool in others if tool not in kept], n_more - len(kept))
        return [tool.shown for tool in (*gold, *kept)]

    def _example(
        self,
        now: Scene,
        name: str,
        kind: Kind,
        tools: Sequence[Tool],
        text: str,
        *,
        calls: tuple[Call, ...] = (),
        reply: str | None = None,
    ) -> Example | None:
        if not tools:
            return None
        shown = list(tools)
        if self.side == "train":
            now.random.shuffle(shown)
        return Example(
            id=name, source=SOURCE, license=LICENSE, split=self.side, kind=kind, tools=tuple(shown),
            messages=(Message(role="user", content=text),), calls=calls, reply=reply,
        )  # fmt: skip


def _described(schema: Mapping[str, Any], now: Scene) -> Spoken | None:
    """Return a value in the format that a description shows or names: `'*.md'`, a path."""
    if schema.get("type") != "string" or schema.get("enum"):
        return None
    about = str(schema.get("description", ""))
    shown = _QUOTED.findall(about)
    if "*" in about:
        word, ending = now.one(words("topic"))[0].split()[0], now.one(("md", "txt", "py", "csv", "json", "log"))
        pattern = now.one((f"*.{ending}", f"{word}*", f"*{word}*", f"{word}.*"))
        return Spoken(pattern, pattern)
    if shown and now.chance(_P_SHOWN):
        return Spoken(text := now.one(shown), text)
    return make("path", now) if names_a_path(schema) else None


def unspeakable(cases: Cases) -> list[str]:
    """Return the tools for which no request can be made, because a required parameter has no source of values."""
    tries = range(40)
    return [
        tool.name
        for tool in cases.tools
        if all(cases.ask(tool, scene("speakable", tool.name, i), 1) is None for i in tries)
    ]


def said_key(example: Example) -> str:
    """Return the deduplication key of an example: its messages, calls and reply."""
    calls = [call.model_dump() for call in example.calls]
    return json.dumps([[m.content for m in example.messages], calls, example.reply], sort_keys=True)


def _may_do(other: LiveTool, tool: LiveTool) -> bool:
    """Return whether one tool may do another's work: similar words, or a parameter for any SQL."""
    same_server = other.server == tool.server
    if same_server and sql_parameter(other) is not None:
        return True
    return overlap(_said(other), _said(tool)) >= SAME_WORK


def _said(tool: LiveTool) -> str:
    return f"{tool.name} {tool.shown.description}"
