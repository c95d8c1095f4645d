"""Whatever a tool returns: it is stored, traced and read back as it is, or refused before its call counts."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import math
import uuid
from collections import namedtuple
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from agentkit import Agent, ModelResponse, UserError
from agentkit.events import ToolResultEvent
from agentkit.messages import (
    ModelRequest,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    messages_from_json,
    messages_to_json,
)
from agentkit.persistence import SQLiteCheckpointer, SQLiteSession
from agentkit.persistence.stored_state import state_from_json, state_to_json
from agentkit.testing import FunctionModel, ScriptedModel, call
from agentkit.tools.tool import ToolOutput
from agentkit.tracing.reading import read_events
from tests.agentkit.arrangements import World, approvals, by_turns

pytestmark = pytest.mark.anyio


class Colour(enum.Enum):
    RED = "red"
    NOTHING = math.nan
    PAIR = (1, 2)


class Word(enum.StrEnum):
    YES = "yes"


class Own(str):
    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


@dataclasses.dataclass
class Point:
    x: Any
    y: Any


class Row(BaseModel):
    value: float
    more: Any = None


class Constants(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")
    value: float


class Decimals(int):
    """A power of ten, which hypothesis can print although Python refuses to print the number."""

    def __new__(cls, n_zeros: int) -> Decimals:
        return super().__new__(cls, 10**n_zeros)

    def __repr__(self) -> str:
        return "Decimals()"


Pair = namedtuple("Pair", ["one", "other"])


def nested(depth: int, value: Any = None) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def circle() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=5)
    | st.binary(max_size=4)
    | st.decimals()
    | st.datetimes()
    | st.dates()
    | st.timedeltas()
    | st.uuids()
    | st.complex_numbers()
    | st.sampled_from([*Colour, Word.YES, Own("own"), object(), range(3)])
    | st.sampled_from([400, 4299, 4300, 6000]).map(lambda n_zeros: Decimals(n_zeros))
    | st.builds(Row, value=st.floats(), more=st.floats() | st.text(max_size=2))
    | st.builds(Constants, value=st.floats())
)
keys = st.text(st.characters(codec=None), max_size=3) | st.integers() | st.floats() | st.none() | st.booleans()
hashable = keys | st.tuples(st.integers(), st.integers()) | st.binary(max_size=2) | st.sampled_from([*Colour])
values = st.recursive(
    scalars | st.sets(st.integers(), max_size=3) | st.frozensets(st.text(max_size=2), max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(hashable, inner, max_size=3)
        | st.builds(Point, inner, inner)
        | st.builds(Pair, inner, inner)
        | st.builds(partial(ToolOutput, "text"), inner)
        | st.builds(nested, st.integers(0, 300), inner)
        | st.builds(lambda each: iter([each]), inner)
    ),
    max_leaves=6,
)
returned = values | st.builds(partial(ToolOutput, "text"), values)


def agent_with(value: Any, **options: Any) -> Agent[None, str]:
    def model(messages: Any, parameters: Any) -> ModelResponse:
        if any(isinstance(part, ToolReturnPart) for part in messages[-1].parts):
            return ModelResponse((TextPart("done"),))
        return ModelResponse((ToolCallPart("look", "{}"),))

    def look() -> Any:
        """Look."""
        return value

    return Agent(FunctionModel(model), tools=[look], **options)


async def survives(value: Any, folder: Path) -> Any:
    """Run, store, trace, read back and resume; return the data of the result, or the error that refused it."""
    keeper = SQLiteCheckpointer(folder / "runs.db")
    session = SQLiteSession(keeper.database, uuid.uuid4().hex)
    agent = agent_with(value, checkpointer=keeper, trace=folder)
    try:
        result = await agent.run("look", session=session)
    except UserError as error:
        assert "look" in str(error)
        assert error.state is not None
        stored = await keeper.load(error.state.run_id)
        assert stored.summary.status == "failed"
        assert stored.state.answers == ()
        return error
    assert result.output == "done"
    (part,) = (
        p for m in result.messages if isinstance(m, ModelRequest) for p in m.parts if p.part_kind == "tool-return"
    )
    assert (await keeper.load(result.run_id)).state == result.state
    assert (await session.load()).messages == result.messages
    assert state_from_json(state_to_json(result.state)) == result.state
    assert messages_from_json(messages_to_json(result.messages)) == result.messages
    assert (await agent.resume(result.run_id)).output == "done"
    assert (await agent.resume(result.state)).output == "done"
    again = await agent.run("again", session=session)
    assert again.messages[: len(result.messages)] == result.messages
    (trace,) = folder.glob(f"{result.run_id}.jsonl")
    (traced,) = (event for _, event in read_events(trace) if isinstance(event, ToolResultEvent))
    assert (traced.data, traced.content) == (part.data, part.content)
    for line in trace.read_bytes().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    keeper.close()
    if isinstance(value, str):
        assert part.content == part.data
    elif not isinstance(value, ToolOutput):
        assert json.loads(part.text, parse_constant=pytest.fail) == part.data
    return part.data


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=returned)
def test_whatever_a_tool_returns_survives_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, value: Any
) -> None:
    anyio.run(survives, value, tmp_path_factory.mktemp("value"))


def generator() -> Any:
    yield 1
    yield 2


FORMS: list[tuple[Any, Any]] = [
    (math.nan, "NaN"),
    ([math.inf, {"x": -math.inf}], ["Infinity", {"x": "-Infinity"}]),
    ((1, (2, 3)), [1, [2, 3]]),
    ({3}, [3]),
    (b"bytes", "bytes"),
    (datetime.datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05"),
    (decimal.Decimal("1.50"), "1.50"),
    (decimal.Decimal("NaN"), "NaN"),
    (Point(1, (math.nan,)), {"x": 1, "y": ["NaN"]}),
    (Row(value=1.5), {"value": 1.5, "more": None}),
    (Constants(value=math.inf), {"value": "Infinity"}),
    (Colour.RED, "red"),
    (Colour.NOTHING, "NaN"),
    (Word.YES, "yes"),
    (Own("own"), "own"),
    (Pair(1, 2), [1, 2]),
    ({1: "a", None: "b"}, {"1": "a", "None": "b"}),
    (10**4299, 10**4299),
    (nested(50), nested(50)),
    ("lone \udce9", "lone \ufffd"),
]


@pytest.mark.parametrize(("value", "data"), FORMS, ids=[str(number) for number in range(len(FORMS))])
async def test_a_value_has_one_form_for_model_application_and_store(value: Any, data: Any, tmp_path: Path) -> None:
    assert await survives(value, tmp_path) == data
    assert await survives(ToolOutput("text", value), tmp_path) == data


async def test_a_generator_is_read_once(tmp_path: Path) -> None:
    assert await survives(generator(), tmp_path) == [1, 2]


REFUSED: dict[str, tuple[Any, str]] = {
    "object": (object(), "no JSON form"),
    "bytes that are no text": (b"\xff", "no JSON form"),
    "too deep": (nested(101), "nested"),
    "deeper than any reader": (nested(5000), "JSON"),
    "a circle": (circle(), "JSON"),
    "an integer that Python does not read": (10**4300, "digits"),
    "keys that are written alike": ({1: "a", "1": "b"}, "key"),
}


@pytest.mark.parametrize("form", ["value", "data"])
@pytest.mark.parametrize("what", REFUSED)
async def test_a_value_that_could_not_be_read_again_is_refused(what: str, form: str, tmp_path: Path) -> None:
    value, why = REFUSED[what]
    error = await survives(value if form == "value" else ToolOutput("text", value), tmp_path)
    assert isinstance(error, UserError)
    assert why in str(error) and "'look'" in str(error)


async def test_a_state_after_tuples_is_resumed(tmp_path: Path) -> None:
    def pairs() -> list[tuple[int, int]]:
        return [(1, 2)]

    agent = Agent(
        ScriptedModel([call("pairs"), call("ask"), "done"]),
        tools=[pairs, asking()],
        checkpointer=tmp_path / "runs.db",
    )
    waits = await agent.run("x")
    assert waits.status == "needs_approval"
    assert (await agent.resume(waits.state, [waits.pending[0].approve()])).output == "done"


def asking() -> Callable[..., Any]:
    from agentkit import tool

    @tool(requires_approval=True)
    def ask() -> str:
        return "asked"

    return ask


async def test_a_history_with_values_of_ones_own_can_be_kept_and_resumed(tmp_path: Path) -> None:
    history = (
        *(await agent_with(1).run("x")).messages[:2],
        ModelRequest((ToolReturnPart("look", "id", "x", data=(1, math.nan)),)),
        ModelResponse((TextPart("so"),)),
    )
    history = (history[0], ModelResponse((ToolCallPart("look", "{}", "id"),)), *history[2:])
    agent = Agent(
        ScriptedModel([call("ask"), "done"]), tools=[asking()], checkpointer=tmp_path / "runs.db", trace=tmp_path
    )
    waits = await agent.run("x", message_history=history)
    assert (await agent.resume(waits.state, [waits.pending[0].approve()])).output == "done"


async def test_a_journal_with_constants_of_an_earlier_version_opens(tmp_path: Path) -> None:
    text = messages_to_json((ModelRequest((ToolReturnPart("look", "id", "x", data=["NaN"]),)),))
    assert messages_from_json(text.replace(b'"NaN"', b"NaN"))[0] == messages_from_json(text)[0]
    result = await agent_with("NaN").run("x")
    stored = state_to_json(result.state).replace(b'"data":"NaN"', b'"data":NaN')
    assert b":NaN" in stored
    assert state_from_json(stored) == result.state


async def test_a_state_of_version_2_opens_with_no_tool_withheld() -> None:
    """Version 2 had no `withheld`, neither in the state nor in the states of inner runs."""
    world = World()
    inner = Agent(by_turns(call("pay", amount=5), "paid"), tools=[world.pay(asks=True)], name="payer")
    outer = Agent(by_turns(call("payer", task="pay"), "done"), tools=[inner.as_tool("Pays.")])
    stopped = await outer.run("go")
    assert stopped.state.inner
    stored = json.loads(state_to_json(stopped.state))
    del stored["withheld"], stored["inner"][0]["state"]["withheld"]
    state = state_from_json(json.dumps({**stored, "schema_version": 2}))
    assert state == stopped.state
    result = await outer.resume(state, approvals(state.pending))
    assert (result.output, world.paid) == ("done", [5])
