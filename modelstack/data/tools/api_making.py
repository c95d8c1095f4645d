"""Examples from real schemas: single and several calls, and near-misses among the tools of one server.

Distractors are hard where possible: tools of the same server or, in large collections, tools that share a word
with the gold tool. A near-miss removes the gold tool and keeps the distractors. Tools whose descriptions nearly
equal the gold tool's are never shown, because they might do its work.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from modelstack.data.examples import Call, Example, Kind, Message, Tool
from modelstack.data.tools.api_phrasing import ask_api, ask_together
from modelstack.data.tools.apis import Api
from modelstack.data.tools.clauses import Clause
from modelstack.data.tools.making import Made
from modelstack.data.tools.related import overlap, share_stem, stems
from modelstack.data.tools.speaking import speak
from modelstack.data.tools.spoken import Scene, scene, today_line

SOURCE = "api"
SAME_WORK = 0.4
"""Minimum share of common stems for two tools to count as doing the same work.

Chosen from samples, conservatively.
"""
_LARGE = 120
"""Number of tools above which a collection is not a server of related tools."""
_N_TOOLS = (1, 1, 1, 2, 2, 3, 3, 4, 4, 5)
_P_TODAY = 0.1
_MOST_REPEATED = 3
"""Maximum required parameters for which a sentence can still describe several calls."""
_P_APART = 0.3
"""Probability that several calls are requested one by one."""
_P_TOGETHER = 0.4
"""Probability that tools with the same parameters are requested together, if there are any."""


class ApiStock:
    """Real tools, with access to related and unrelated ones."""

    def __init__(self, apis: Sequence[Api], shares: Mapping[str, float]) -> None:
        """Hold the tools of the sources with a positive share; a source is drawn by its share."""
        self.by_source: dict[str, list[Api]] = defaultdict(list)
        for api in apis:
            if shares.get(api.source, 0) > 0:
                self.by_source[api.source].append(api)
        self.sources = sorted(self.by_source)
        self.shares = [shares[source] for source in self.sources]
        self.apis = [api for source in self.sources for api in self.by_source[source]]

    def draw(self, now: Scene) -> Api:
        """Return a tool of a source drawn by share."""
        source = now.random.choices(self.sources, weights=self.shares)[0]
        return now.one(self.by_source[source])

    def akin(self, api: Api, now: Scene) -> list[Api]:
        """Return up to 12 related tools that do other work, in random order."""
        near = self._by_origin[api.source, api.origin]
        if len(near) > _LARGE:
            indices = {i for stem in stems(said_of(api)) for i in self._by_stem.get(stem, ())[:_LARGE]}
            near = [self.apis[i] for i in sorted(indices)]
        near = [other for other in now.some(near, 40) if other is not api and other.tool.name != api.tool.name]
        return [other for other in near if overlap(said_of(api), said_of(other)) < SAME_WORK][:12]

    def far(self, text: str, now: Scene, n: int) -> list[Api]:
        """Return up to `n` tools that share no word with a text."""
        return [other for other in now.some(self.apis, 4 * n + 8) if not share_stem(text, said_of(other))][:n]

    @cached_property
    def _by_origin(self) -> Mapping[tuple[str, str], list[Api]]:
        found: dict[tuple[str, str], list[Api]] = defaultdict(list)
        for api in self.apis:
            found[api.source, api.origin].append(api)
        return found

    @cached_property
    def _by_stem(self) -> Mapping[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for i, api in enumerate(self.apis):
            for stem in stems(said_of(api)):
                found[stem].append(i)
        return found


def said_of(api: Api) -> str:
    """Return name and wish of a tool as one text, for comparison."""
    return f"{api.tool.name} {api.wish}"


def made_from_apis(stock: ApiStock, sort: str, seed: int, number: int) -> Made | None:
    """Return the example of a sort and number, or None if the random choices lead to no example."""
    return API_SORTS[sort](stock, scene(SOURCE, sort, seed, number), f"{sort}-{number}")


def _single(stock: ApiStock, now: Scene, name: str) -> Made | None:
    api = stock.draw(now)
    return _with_calls(stock, now, name, "call", [api], [ask_api(api, now)])


def _parallel(stock: ApiStock, now: Scene, name: str) -> Made | None:
    api = stock.draw(now)
    if len(api.tool.parameters["required"]) > _MOST_REPEATED:
        return None
    n_calls = now.one((2, 2, 2, 3, 3, 4))
    if now.chance(_P_APART):
        return _with_calls(stock, now, name, "parallel", [api], [ask_api(api, now) for _ in range(n_calls)])
    return _with_calls(stock, now, name, "parallel", [api], [ask_api(api, now, n_calls=n_calls)])


def _multi(stock: ApiStock, now: Scene, name: str) -> Made | None:
    api = stock.draw(now)
    if now.chance(_P_TOGETHER):
        chosen = [api, *_with_same_parameters(api, stock.akin(api, now))[: now.one((1, 1, 2))]]
        return _with_calls(stock, now, name, "multi", chosen, [ask_together(chosen, now)]) if chosen[1:] else None
    n_others = now.one((1, 1, 1, 2, 2, 3))
    others = [stock.draw(now) for _ in range(n_others)] if now.chance(0.5) else stock.akin(api, now)[:n_others]
    chosen = list({each.tool.name: each for each in [api, *others]}.values())
    if len(chosen) < 2:
        return None
    clauses = [ask_api(each, now, n_calls=_n_repeated(each, now)) or ask_api(each, now) for each in chosen]
    return _with_calls(stock, now, name, "multi", chosen, clauses)


def _with_same_parameters(api: Api, others: Sequence[Api]) -> list[Api]:
    """Return the tools with the same required parameters, by name and type."""

    def needs(each: Api) -> dict[str, object]:
        parameters = each.tool.parameters
        return {name: parameters["properties"][name].get("type") for name in parameters["required"]}

    return [other for other in others if needs(api) and needs(other) == needs(api)]


def _n_repeated(api: Api, now: Scene) -> int:
    """Return the number of calls of one tool among calls of several."""
    return now.one((1, 1, 1, 2, 2, 3)) if len(api.tool.parameters["required"]) <= _MOST_REPEATED else 1


def _removed(stock: ApiStock, now: Scene, name: str) -> Made | None:
    api = stock.draw(now)
    clause = ask_api(api, now)
    near = stock.akin(api, now)
    if clause is None or not near:
        return None
    shown = near[: now.one((1, 1, 2, 2, 3, 4))]
    shown += stock.far(clause.text, now, now.one((0, 0, 1)))
    return _made(now, name, "irrelevant", "api_removed", api, [a.tool for a in shown], [clause], with_calls=False)


def _far(stock: ApiStock, now: Scene, name: str) -> Made | None:
    api = stock.draw(now)
    clause = ask_api(api, now)
    shown = stock.far(clause.text, now, now.one((1, 1, 2, 3))) if clause else []
    if clause is None or not shown:
        return None
    return _made(now, name, "irrelevant", "api_far", api, [a.tool for a in shown], [clause], with_calls=False)


API_SORTS: Mapping[str, Callable[[ApiStock, Scene, str], Made | None]] = {
    "api_single": _single,
    "api_parallel": _parallel,
    "api_multi": _multi,
    "api_removed": _removed,
    "api_far": _far,
}


def _with_calls(
    stock: ApiStock, now: Scene, name: str, kind: Kind, chosen: Sequence[Api], clauses: Sequence[Clause | None]
) -> Made | None:
    asked = [clause for clause in clauses if clause is not None]
    if len(asked) < len(clauses) or not _all_differ(asked):
        return None
    n_more = max(0, now.one(_N_TOOLS) - len(chosen))
    n_near = min(n_more, now.random.randrange(n_more + 1))
    near = stock.akin(chosen[0], now)[:n_near]
    text = " ".join(clause.text for clause in asked)
    tools = [a.tool for a in [*chosen, *near, *stock.far(text, now, n_more - len(near))]]
    return _made(now, name, kind, kind, chosen[0], tools, asked, with_calls=True)


def _all_differ(clauses: Sequence[Clause]) -> bool:
    calls = [repr(call) for clause in clauses for call in clause.calls]
    return len(set(calls)) == len(calls)


def _made(
    now: Scene,
    name: str,
    kind: Kind,
    sort: str,
    api: Api,
    tools: Sequence[Tool],
    clauses: Sequence[Clause],
    *,
    with_calls: bool,
) -> Made:
    unique = list({tool.name: tool for tool in reversed(tools)}.values())
    now.random.shuffle(unique)
    needs_today = any(clause.needs_today for clause in clauses)
    system = [Message(role="system", content=today_line(now))] if needs_today or now.chance(_P_TODAY) else []
    calls = tuple(Call(name=n, arguments=a) for clause in clauses for n, a in clause.calls) if with_calls else ()
    if with_calls and kind != "call" and len(calls) < 2:
        kind = "call"
    example = Example(
        id=name, source=f"{SOURCE}:{api.source}", license=api.license, kind=kind, tools=tuple(unique),
        messages=(*system, Message(role="user", content=speak(clauses, now))), calls=calls,
    )  # fmt: skip
    return Made(example, sort, tuple(rule for clause in clauses for rule in clause.rules) if with_calls else ())
