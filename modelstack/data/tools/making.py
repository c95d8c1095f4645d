"""Examples from hand-written tools: calls, near-misses, clarifying questions, answers and follow-ups.

Each example has its own seed, so the n-th example of a sort does not depend on how many others are made.
Near-misses are of two sorts: a wish of the same field that no shown tool fulfils, and a wish whose tool was
removed while its siblings stay (When2Call, arXiv 2504.18851, and Hammer, arXiv 2410.04587, explain why both are
needed).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelstack.data.examples import Call, Example, Kind, Message, Tool
from modelstack.data.tools.clauses import Clause, slots_of
from modelstack.data.tools.everyday import Shown, ask, ask_beyond, ask_vaguely, follow_up, show
from modelstack.data.tools.everyday_tools import EverydayTool
from modelstack.data.tools.kinds import make
from modelstack.data.tools.reading import read_result
from modelstack.data.tools.related import share_stem
from modelstack.data.tools.small_talk import small_talk
from modelstack.data.tools.speaking import speak
from modelstack.data.tools.spoken import Scene, scene, today_line
from modelstack.data.tools.written import WrittenRequest, written_requests

SOURCE, LICENSE = "everyday", "Apache-2.0"
BROAD_FIELDS = ("web",)
"""Fields whose tools can do almost anything; never shown in examples where no tool must fit."""
_N_TOOLS = (1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 5, 6)
_P_TODAY = 0.12
_P_FAILS = 0.15
_FAILURES = (
    ("not found", "nothing of that name was found"),
    ("timeout", "the service took too long to answer"),
    ("permission denied", "I'm not allowed to do that"),
    ("service unavailable", "the service is not available at the moment"),
    ("quota exceeded", "the limit for today has been reached"),
    ("already exists", "it exists already"),
)
_INSTRUCTIONS = ("You are a helpful assistant.", "You help people with their tasks.", "Be brief.")


@dataclass(frozen=True, slots=True)
class Made:
    """An example with data for statistics."""

    example: Example
    sort: str
    """Sort of the example, finer than its kind: `beyond`, `tool_removed`, ..."""
    rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stock:
    """Tools from which examples are made."""

    tools: tuple[EverydayTool, ...]
    strangers: tuple[Tool, ...] = ()
    """Real tools shown as distractors."""

    def siblings(self, tool: EverydayTool) -> list[EverydayTool]:
        """Return the other tools of a tool's field."""
        return [other for other in self.tools if other.field == tool.field and other is not tool]


def made(stock: Stock, sort: str, seed: int, number: int) -> Made | None:
    """Return the example of a sort and number, or None if the random choices lead to no example."""
    now = scene(SOURCE, sort, seed, number)
    found = SORTS[sort](stock, now, f"{SOURCE}-{sort}-{number}")
    return found


def _single(stock: Stock, now: Scene, name: str) -> Made | None:
    shown = show(now.one(stock.tools), now)
    clause = ask(shown, now)
    return _with_calls(stock, now, name, "call", [shown], [clause])


def _parallel(stock: Stock, now: Scene, name: str) -> Made | None:
    shown = show(now.one(stock.tools), now)
    clause = ask(shown, now, n_calls=now.one((2, 2, 2, 3, 3, 4)))
    if clause is not None and now.chance(0.2):
        apart = [ask(shown, now) for _ in range(now.one((2, 2, 3)))]
        if None not in apart:
            return _with_calls(stock, now, name, "parallel", [shown], apart)
    return _with_calls(stock, now, name, "parallel", [shown], [clause])


def _multi(stock: Stock, now: Scene, name: str) -> Made | None:
    first = now.one(stock.tools)
    others = (now.chance(0.45) and stock.siblings(first)) or list(stock.tools)
    chosen = [first, *now.some([t for t in others if t is not first], now.one((1, 1, 1, 2, 2, 3)))]
    shown = [show(tool, now) for tool in chosen]
    clauses = [ask(each, now, n_calls=now.one((1, 1, 1, 2, 2, 3))) or ask(each, now) for each in shown]
    return _with_calls(stock, now, name, "multi", shown, clauses)


def _beyond(stock: Stock, now: Scene, name: str) -> Made | None:
    tool = now.one([t for t in stock.tools if t.field not in BROAD_FIELDS])
    clause = ask_beyond(tool, now)
    if clause is None:
        return None
    n_siblings = now.one((0, 0, 1, 1, 2, 3))
    shown = [show(each, now).tool for each in [tool, *now.some(stock.siblings(tool), n_siblings)]]
    return _without_call(stock, now, name, "beyond", clause, shown)


def _tool_removed(stock: Stock, now: Scene, name: str) -> Made | None:
    tool = now.one([t for t in stock.tools if t.field not in BROAD_FIELDS])
    clause = ask(show(tool, now), now)
    siblings = [other for other in stock.siblings(tool) if other.names[0] not in tool.akin]
    if clause is None or not siblings:
        return None
    shown = [show(each, now).tool for each in now.some(siblings, now.one((1, 1, 2, 2, 3, 4)))]
    return _without_call(stock, now, name, "tool_removed", clause, shown)


def _far(stock: Stock, now: Scene, name: str) -> Made | None:
    tool = now.one(stock.tools)
    clause = ask(show(tool, now), now)
    others = [t for t in stock.tools if t.field not in (tool.field, *BROAD_FIELDS)]
    if clause is None:
        return None
    near = [t for t in others if not share_stem(clause.text, _words_of(t))]
    shown = [show(each, now).tool for each in now.some(near, now.one((1, 1, 2, 3)))]
    return _without_call(stock, now, name, "far", clause, shown) if shown else None


def _small_talk(stock: Stock, now: Scene, name: str) -> Made | None:
    said, answer = now.one(small_talk())
    others = [t for t in stock.tools if t.field not in BROAD_FIELDS]
    shown = [show(each, now).tool for each in now.some(others, now.one((1, 2, 3)))]
    example = _example(now, name, "answer", shown, [Message(role="user", content=said)], reply=answer)
    return Made(example, "small_talk")


def _clarify(stock: Stock, now: Scene, name: str) -> Made | None:
    shown = show(now.one([t for t in stock.tools if t.vague]), now)
    asked = ask_vaguely(shown.origin, now)
    if asked is None:
        return None
    clause, question = asked
    tools = [shown.tool, *_beside(stock, now, shown.origin, clause.text, now.one((0, 0, 1, 2)))]
    messages = [Message(role="user", content=speak([clause], now))]
    example = _example(now, name, "clarify", tools, messages, reply=question, needs_today=clause.needs_today)
    return Made(example, "clarify")


def _answer(stock: Stock, now: Scene, name: str) -> Made | None:
    started = _conversation(stock, now, p_fails=_P_FAILS)
    if started is None:
        return None
    shown, clause, messages, answer = started
    tools = [shown.tool, *_beside(stock, now, shown.origin, clause.text, now.one((0, 1, 2, 3)))]
    example = _example(now, name, "answer", tools, messages, reply=answer, needs_today=clause.needs_today)
    return Made(example, "answer")


def _follow_up(stock: Stock, now: Scene, name: str) -> Made | None:
    started = _conversation(stock, now)
    if started is None:
        return None
    shown, clause, messages, answer = started
    asked = follow_up(shown, clause.calls[0][1], now)
    if asked is None:
        return None
    messages += [Message(role="assistant", content=answer), Message(role="user", content=speak([asked], now))]
    tools = [shown.tool, *_beside(stock, now, shown.origin, clause.text, now.one((0, 1, 2)))]
    needs_today = clause.needs_today or asked.needs_today
    example = _example(now, name, "call", tools, messages, calls=_calls([asked]), needs_today=needs_today)
    return Made(example, "follow_up", asked.rules)


def _read_result(stock: Stock, now: Scene, name: str) -> Made | None:
    tool, messages, answer = read_result(now)
    others = [show(each, now).tool for each in now.some(stock.tools, now.one((0, 1, 1, 2)))]
    tools = [tool, *others, *now.some(stock.strangers, now.one((0, 0, 1, 2)))]
    if len({each.name for each in tools}) < len(tools):
        return None
    return Made(_example(now, name, "answer", tools, messages, reply=answer), "read_result")


def _written(stock: Stock, now: Scene, name: str) -> Made | None:
    request = now.one(written_requests())
    strangers = [
        t for t in now.some(stock.strangers, 6) if not share_stem(request.ask, f"{t.name} {t.description}")
    ]
    tools = [*_shown_of_kit(request, now), *strangers[: now.one((0, 0, 0, 1, 1, 2))]]
    if len({tool.name for tool in tools}) < len(tools):
        return None
    then = now if request.today is None else Scene(now.random, request.today)
    example = _example(
        then,
        name,
        _kind_of(request),
        tools,
        [Message(role="user", content=request.ask)],
        calls=request.calls,
        reply=request.reply,
        needs_today=request.today is not None,
    )
    return Made(example, "written")


def _shown_of_kit(request: WrittenRequest, now: Scene) -> list[Tool]:
    """Return the called tools and some others; all of the kit's if the reply is a question."""
    if request.reply:
        return list(request.tools)
    others = [tool for tool in request.tools if tool.name not in request.called]
    fewest = 0 if request.calls else 1
    shown = now.some(others, now.random.randrange(fewest, len(others) + 1)) if len(others) > fewest else others
    return [tool for tool in request.tools if tool.name in request.called or tool in shown]


def _kind_of(request: WrittenRequest) -> Kind:
    if request.reply:
        return "clarify"
    if len(request.calls) < 2:
        return "call" if request.calls else "irrelevant"
    return "parallel" if len(request.called) == 1 else "multi"


SORTS: Mapping[str, Callable[[Stock, Scene, str], Made | None]] = {
    "single": _single,
    "parallel": _parallel,
    "multi": _multi,
    "beyond": _beyond,
    "tool_removed": _tool_removed,
    "far": _far,
    "small_talk": _small_talk,
    "clarify": _clarify,
    "answer": _answer,
    "follow_up": _follow_up,
    "read_result": _read_result,
    "written": _written,
}
ABSTAIN_SORTS = ("beyond", "tool_removed", "far")


def _with_calls(
    stock: Stock, now: Scene, name: str, kind: Kind, shown: Sequence[Shown], clauses: Sequence[Clause | None]
) -> Made | None:
    asked = [clause for clause in clauses if clause is not None]
    if len(asked) < len(clauses) or len({s.tool.name for s in shown}) < len(shown):
        return None
    calls = _calls(asked)
    if len({json.dumps(call.model_dump(), sort_keys=True) for call in calls}) < len(calls):
        return None
    text = speak(asked, now)
    n_more = max(0, now.one(_N_TOOLS) - len(shown))
    tools = [s.tool for s in shown] + _beside(stock, now, shown[0].origin, text, n_more, taken=shown)
    needs_today = any(clause.needs_today for clause in asked)
    messages = [Message(role="user", content=text)]
    kind = kind if len(calls) > 1 else "call"
    example = _example(now, name, kind, tools, messages, calls=calls, needs_today=needs_today)
    return Made(example, kind, tuple(rule for clause in asked for rule in clause.rules))


def _without_call(
    stock: Stock, now: Scene, name: str, sort: str, clause: Clause, tools: Sequence[Tool]
) -> Made | None:
    strangers = [
        t for t in now.some(stock.strangers, 6) if not share_stem(clause.text, f"{t.name} {t.description}")
    ]
    more = strangers[: now.one((0, 0, 0, 1, 1, 2))]
    messages = [Message(role="user", content=speak([clause], now))]
    example = _example(now, name, "irrelevant", [*tools, *more], messages, needs_today=clause.needs_today)
    return Made(example, sort)


def _conversation(
    stock: Stock, now: Scene, *, p_fails: float = 0.0
) -> tuple[Shown, Clause, list[Message], str] | None:
    """Return the tool, the request, the messages up to the tool's result, and a fitting answer."""
    shown = show(now.one([t for t in stock.tools if t.answers]), now)
    clause = ask(shown, now)
    if clause is None:
        return None
    name, arguments = clause.calls[0]
    by_origin = {origin: arguments[here] for origin, here in shown.names.items() if here in arguments}
    filled = _filled_result(shown.origin, by_origin, now)
    if filled is None:
        return None
    result, answer = _failed(now) if now.chance(p_fails) else filled
    messages = [
        Message(role="user", content=speak([clause], now)),
        Message(role="assistant", calls=(Call(name=name, arguments=arguments),)),
        Message(role="tool", content=result),
    ]
    return shown, clause, messages, answer


def _failed(now: Scene) -> tuple[str, str]:
    """Return the result of a failed tool and an honest answer."""
    reason, explanation = now.one(_FAILURES)
    answer = now.one(
        ("That didn't work: {}.", "I'm sorry, that failed: {}.", "It could not be done: {}. Shall I try again?")
    )
    return json.dumps({"error": reason}), answer.format(explanation)


def _filled_result(tool: EverydayTool, arguments: Mapping[str, Any], now: Scene) -> tuple[str, str] | None:
    """Return a result and an answer with values of the call where named, otherwise random values of a kind."""
    drawn: dict[str, Any] = dict(arguments)

    def value(found: re.Match[str]) -> str:
        kind = found.group(1)
        key = kind.split()[0]
        if key not in drawn:
            drawn[key] = make(kind, now).value
        return str(drawn[key]) if isinstance(drawn[key], str) else json.dumps(drawn[key])

    result = re.sub(r"\{([a-z_]+(?: [a-z0-9 ]+)?)\}", value, tool.result)
    answer = now.one(tool.answers)
    if any(not isinstance(drawn.get(slot), (str, int, float)) for slot in slots_of(answer)):
        return None
    answer = answer.format_map(drawn)
    return result, answer[:1].upper() + answer[1:]


def _beside(
    stock: Stock, now: Scene, tool: EverydayTool, text: str, n: int, taken: Sequence[Shown] = ()
) -> list[Tool]:
    """Return other tools to show: siblings, and tools from elsewhere that share no word with the request."""
    origins = [s.origin for s in taken] or [tool]
    names = {s.tool.name for s in taken}
    near = [t for t in stock.siblings(tool) if t not in origins]
    far = [t for t in now.some(stock.tools, 12) if t.field != tool.field and not share_stem(text, _words_of(t))]
    far = [t for t in far if t not in origins and t.field not in BROAD_FIELDS]
    strangers = [t for t in now.some(stock.strangers, 8) if not share_stem(text, f"{t.name} {t.description}")]
    tools: list[Tool] = []
    while len(tools) < n and (near or far or strangers):
        pick = now.one((near, near, far, strangers))
        if not pick:
            continue
        other = pick.pop(now.random.randrange(len(pick)))
        shown = show(other, now).tool if isinstance(other, EverydayTool) else other
        if shown.name not in names:
            names.add(shown.name)
            tools.append(shown)
    return tools


def _example(
    now: Scene,
    name: str,
    kind: Kind,
    tools: Sequence[Tool],
    messages: Sequence[Message],
    *,
    calls: tuple[Call, ...] = (),
    reply: str | None = None,
    needs_today: bool = False,
) -> Example:
    unique = list({tool.name: tool for tool in reversed(tools)}.values())
    now.random.shuffle(unique)
    lines = [today_line(now)] if needs_today or now.chance(_P_TODAY) else []
    if now.chance(0.12):
        lines.insert(0, now.one(_INSTRUCTIONS))
    system = [Message(role="system", content=" ".join(lines))] if lines else []
    return Example(
        id=name, source=SOURCE, license=LICENSE, kind=kind, tools=tuple(unique),
        messages=(*system, *messages), calls=calls, reply=reply,
    )  # fmt: skip


def _calls(clauses: Sequence[Clause]) -> tuple[Call, ...]:
    return tuple(Call(name=name, arguments=arguments) for clause in clauses for name, arguments in clause.calls)


def _words_of(tool: EverydayTool) -> str:
    return " ".join((*tool.names, *tool.abouts))
