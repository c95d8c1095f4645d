"""Output types: unions, lists of types, functions; and what a run without an output says."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import pytest
from pydantic import BaseModel, Field

from agentkit import (
    Agent,
    ModelRetry,
    NoOutputError,
    RunContext,
    UnexpectedModelBehavior,
    UsageLimits,
    UserError,
)
from agentkit.guardrails import Block, Verdict, output_guardrail
from agentkit.messages import ModelResponse, TextPart
from agentkit.output import output_spec
from agentkit.persistence import InMemoryCheckpointer
from agentkit.testing import ScriptedModel, TestModel, call
from agentkit.tools.function import function_tool
from tests.agentkit.arrangements import ARRANGEMENTS, Arrangement

pytestmark = pytest.mark.anyio


class City(BaseModel):
    """A city."""

    name: str


class Country(BaseModel):
    name: str
    capital: str | None = None


@dataclass
class Cat:
    kind: Literal["cat"]
    lives: int


@dataclass
class Dog:
    kind: Literal["dog"]
    tricks: list[str]


def marked(kind: str, value: Any) -> str:
    return json.dumps({"result": {"kind": kind, "value": value}})


def result_schema(output_type: Any) -> dict[str, Any]:
    spec = output_spec(output_type)
    assert spec.schema is not None
    return spec.schema.json_schema["properties"]["result"]


# --- unions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output_type", [City | Country, [City, Country], (City, Country)])
async def test_members_that_could_be_confused_are_marked_by_their_kind(output_type: Any) -> None:
    model = ScriptedModel([marked("Country", {"name": "Peru"})])
    result = await Agent(model, output_type=output_type).run("x")
    assert result.output == Country(name="Peru")
    options = result_schema(output_type)["anyOf"]
    assert [option["properties"]["kind"]["const"] for option in options] == ["City", "Country"]
    assert list(options[0]["properties"]) == ["kind", "value"]


@pytest.mark.parametrize(
    ("output_type", "text", "output"),
    [
        (str | None, '{"result": null}', None),
        (int | str, '{"result": 3}', 3),
        (City | str, '{"result": "none"}', "none"),
        (City | list[int], '{"result": {"name": "Bern"}}', City(name="Bern")),
        ([City, None], '{"result": null}', None),
        (Cat | Dog, '{"result": {"kind": "dog", "tricks": []}}', Dog("dog", [])),
        (
            Annotated[Cat | Dog, Field(discriminator="kind")],
            '{"result": {"kind": "cat", "lives": 7}}',
            Cat("cat", 7),
        ),
        (Literal["a"] | Literal["b"], '{"result": "b"}', "b"),
    ],
)
async def test_members_that_cannot_be_confused_are_answered_as_they_are(
    output_type: Any, text: str, output: Any
) -> None:
    result = await Agent(ScriptedModel([text]), output_type=output_type).run("x")
    assert result.output == output


@pytest.mark.parametrize(
    ("output_type", "kinds"),
    [
        (int | float, ["int", "float"]),
        (list[int] | list[str], ["list_int", "list_str"]),
        ([dict[str, City], City], ["dict_str_City", "City"]),
        (Cat | City, ["Cat", "City"]),
        (City | Country | str, ["City", "Country", "str"]),
    ],
)
def test_kinds_are_named_after_their_types(output_type: Any, kinds: list[str]) -> None:
    options = result_schema(output_type)["anyOf"]
    assert [option["properties"]["kind"]["const"] for option in options] == kinds


async def test_a_wrong_kind_and_a_wrong_value_are_told_to_the_model() -> None:
    model = ScriptedModel(
        [
            marked("Contry", {}),
            '{"result": {"name": "Peru"}}',
            marked("City", {}),
            marked("City", {"name": "Bern"}),
        ]
    )
    result = await Agent(model, output_type=City | Country, retries=3).run("x")
    assert result.output == City(name="Bern")
    retries = [m.parts[0] for m in result.messages if m.kind == "request"][1:]
    told = [getattr(part, "content", "") for part in retries]
    assert "nearest: 'Country'" in told[0]
    assert "one of 'City', 'Country'" in told[1]
    assert "name: Field required" in told[2]


def test_two_members_of_one_name_are_refused() -> None:
    def other() -> type[BaseModel]:
        class City(BaseModel):
            zip: int

        return City

    with pytest.raises(UserError, match="two members are called 'City'"):
        Agent(ScriptedModel([]), output_type=[City, other()])
    with pytest.raises(UserError, match="at least one type"):
        Agent(ScriptedModel([]), output_type=[])


def test_a_list_of_one_type_is_that_type() -> None:
    assert output_spec([str]).schema is None
    assert output_spec([City]).schema == output_spec(City).schema


# --- functions -------------------------------------------------------------------------------------------------


def hire(name: str, years: int) -> City:
    """Hire somebody.

    Args:
        name: Whom.
        years: For how long.
    """
    if years < 1:
        raise ModelRetry("years must be at least 1")
    return City(name=f"{name} {years}")


async def hire_async(context: RunContext[int], name: str) -> Country:
    return Country(name=name, capital=str(context.deps))


async def test_the_model_fills_in_the_arguments_of_a_function_and_its_result_is_the_output() -> None:
    model = ScriptedModel(['{"name": "Ann", "years": 2}'])
    result = await Agent(model, output_type=hire).run("x")
    assert result.output == City(name="Ann 2")
    asked = model.calls[0].parameters.output
    assert asked is not None
    assert (asked.name, asked.description, asked.wrapped) == ("hire", "Hire somebody.", False)
    assert asked.json_schema["properties"]["name"]["description"] == "Whom."


async def test_a_function_may_ask_again_and_wrong_arguments_do() -> None:
    model = ScriptedModel(
        ['{"name": "Ann", "years": 0}', '{"name": "Ann", "year": 2}', '{"name": "Ann", "years": 2}']
    )
    result = await Agent(model, output_type=hire, retries=2).run("x")
    assert result.output == City(name="Ann 2")
    told = [getattr(m.parts[0], "content", "") for m in result.messages if m.kind == "request"]
    assert "at least 1" in told[1]
    assert "did you mean 'years'?" in told[2]


async def test_an_async_function_with_a_context_is_one_of_several_members() -> None:
    agent: Agent[int, Any] = Agent(
        ScriptedModel([marked("hire_async", {"name": "Peru"}), marked("City", {"name": "Bern"})]),
        output_type=[City, hire, hire_async],
        deps_type=int,
    )
    assert (await agent.run("x", deps=7)).output == Country(name="Peru", capital="7")
    assert (await agent.run("x", deps=7)).output == City(name="Bern")
    options = result_schema([City, hire, hire_async])["anyOf"]
    assert [option["properties"]["kind"]["const"] for option in options] == ["City", "hire", "hire_async"]
    assert options[1]["description"] == "Hire somebody."


async def test_a_functions_own_error_ends_the_run_unchanged() -> None:
    def breaks(n: int) -> int:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine") as caught:
        await Agent(ScriptedModel(['{"n": 1}']), output_type=breaks).run("x")
    assert len(cast(Any, caught.value).messages) == 2


async def test_output_validators_see_what_the_function_returns() -> None:
    agent = Agent(ScriptedModel(['{"name": "Ann", "years": 2}']), output_type=hire)

    @agent.output_validator
    async def check(context: RunContext[None], output: City) -> City:
        return City(name=output.name.upper())

    assert (await agent.run("x")).output == City(name="ANN 2")


async def test_a_function_that_never_accepts_fails_after_its_retries() -> None:
    with pytest.raises(UnexpectedModelBehavior, match="at least 1"):
        await Agent(ScriptedModel(['{"name": "Ann", "years": 0}'] * 2), output_type=hire).run("x")


def test_a_function_without_a_schema_is_refused() -> None:
    def starred(*args: int) -> None: ...

    with pytest.raises(UserError, match="no fixed schema"):
        Agent(ScriptedModel([]), output_type=starred)


@pytest.mark.parametrize("output_type", [City | Country, [City, hire], hire, int | float, Cat | Dog])
async def test_a_model_that_only_sees_the_schema_answers_every_output_type(output_type: Any) -> None:
    """What a grammar allows is what the parser accepts; `TestModel` writes the smallest value of the schema."""
    spec = output_spec(output_type)
    assert spec.schema is not None
    if output_type is not hire:
        await Agent(TestModel(), output_type=output_type).run("x")


@pytest.mark.parametrize("output_type", [City | Country, [City, hire, hire_async], hire, int | float, Cat | Dog])
def test_every_output_type_compiles_to_a_grammar(output_type: Any) -> None:
    llguidance = pytest.importorskip("llguidance")
    spec = output_spec(output_type)
    assert spec.schema is not None
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(spec.schema.json_schema))
    assert not llguidance.LLMatcher.validate_grammar(grammar)


# --- handoffs and arrangements ---------------------------------------------------------------------------------


async def test_agents_that_hand_over_share_equal_unions() -> None:
    second = Agent(ScriptedModel([marked("City", {"name": "Bern"})]), name="second", output_type=City | Country)
    first = Agent(
        ScriptedModel([call("transfer_to_second", task="x")]), output_type=City | Country, handoffs=[second]
    )
    assert (await first.run("x")).output == City(name="Bern")


# --- no output -------------------------------------------------------------------------------------------------


async def test_a_run_that_waits_has_no_output_and_says_what_to_do() -> None:
    def pay() -> str:
        return "paid"

    agent = Agent(ScriptedModel([call("pay"), "done"]), tools=[function_tool(pay, requires_approval=True)])
    result = await agent.run("x")
    assert (result.output_or_none, result.has_output) == (None, False)
    with pytest.raises(
        NoOutputError, match=r"status is 'needs_approval': decide about `result.pending`"
    ) as caught:
        _ = result.output
    assert isinstance(caught.value, UserError)
    assert (caught.value.state, caught.value.messages) == (result.state, result.messages)
    done = await agent.resume(result.state, [result.pending[0].approve()])
    assert (done.output, done.output_or_none, done.has_output) == ("done", "done", True)


async def test_a_refused_run_has_no_output() -> None:
    @output_guardrail
    def check(text: str, context: RunContext[Any]) -> Verdict:
        return Block("no")

    result = await Agent(ScriptedModel(["secret"]), guardrails=[check]).run("x")
    with pytest.raises(NoOutputError, match="'refused': a guardrail blocked"):
        _ = result.output


@pytest.mark.parametrize(
    ("response", "status"),
    [
        (ModelResponse((), abstained=True), "abstained"),
        (ModelResponse((TextPart('{"name": "Be'),), finish_reason="length"), "truncated"),
        (ModelResponse((), finish_reason="content_filter"), "filtered"),
    ],
)
async def test_an_ending_without_an_answer_has_no_output(response: ModelResponse, status: str) -> None:
    result = await Agent(ScriptedModel([response]), output_type=City).run("x")
    assert result.status == status
    with pytest.raises(NoOutputError, match=f"its status is '{status}'"):
        _ = result.output


async def test_a_limit_without_an_answer_has_no_output_and_with_one_has_it() -> None:
    limits = UsageLimits(request_limit=1)
    without = await Agent(ScriptedModel([ModelResponse(())]), limits=limits).run("x")
    assert without.status == "limit_reached"
    with pytest.raises(NoOutputError, match="raise the limit"):
        _ = without.output

    def look() -> str:
        return "seen"

    agent = Agent(
        ScriptedModel([call("look"), "as far as I got"]), tools=[look], limits=UsageLimits(request_limit=2)
    )
    with_one = await agent.run("x")
    assert (with_one.status, with_one.output) == ("limit_reached", "as far as I got")


async def test_an_answer_that_is_none_is_an_output() -> None:
    result = await Agent(ScriptedModel(['{"result": null}']), output_type=City | None).run("x")
    assert (result.output, result.has_output) == (None, True)


async def test_results_compare_and_copy_with_and_without_an_output() -> None:
    done = await Agent(ScriptedModel(["done"])).run("x")
    abstained = await Agent(ScriptedModel([ModelResponse((), abstained=True)])).run("x")
    for result in (done, abstained):
        again = copy.deepcopy(result)
        assert again == result and again.status == result.status
    assert done != abstained
    with pytest.raises(NoOutputError) as caught:
        _ = abstained.output
    again = copy.copy(caught.value)
    assert (type(again), str(again)) == (NoOutputError, str(caught.value))


def by_name(arrangement: Arrangement) -> str:
    return arrangement.name


@pytest.mark.parametrize("arrangement", ARRANGEMENTS, ids=by_name)
async def test_a_run_that_waits_has_no_output_in_any_arrangement(arrangement: Arrangement, tmp_path: Path) -> None:
    def pay() -> str:
        """Pay."""
        return "paid"

    build, tools = arrangement.build, [function_tool(pay, requires_approval=True)]
    agent = build(tools, [call("pay")], tmp_path / "runs.db")
    stopped = await agent.run("x")
    with pytest.raises(NoOutputError, match="needs_approval"):
        _ = stopped.output
    agent = build(tools, [call("pay")], tmp_path / "runs.db")
    done = await agent.resume(stopped.run_id, [each.approve() for each in stopped.pending])
    assert done.output == "done"
    agent = build(tools, [call("pay")], tmp_path / "runs.db")
    assert (await agent.resume(stopped.run_id)).output == "done"  # an ended run, read from its journal


async def test_an_inner_run_without_an_output_fails_its_call() -> None:
    inner = Agent(ScriptedModel([ModelResponse((), abstained=True)]), name="inner")
    outer = Agent(ScriptedModel([call("inner", task="x"), "so be it"]), tools=[inner.as_tool("Works.")])
    result = await outer.run("x")
    assert result.output == "so be it"
    told = [part.content for m in result.messages for part in m.parts if part.part_kind == "tool-return"]
    assert told == ["The agent says that none of its tools fits the task."]


async def test_an_inner_run_whose_answer_is_none_has_an_output() -> None:
    inner = Agent(ScriptedModel(['{"result": null}']), name="inner", output_type=City | None)
    outer = Agent(ScriptedModel([call("inner", task="x"), "ok"]), tools=[inner.as_tool("Works.")])
    result = await outer.run("x")
    told = [part.content for m in result.messages for part in m.parts if part.part_kind == "tool-return"]
    assert told == ["null"]


class Opaque:
    """A value that has no JSON form."""


def opaque(n: int) -> Opaque:
    return Opaque()


async def test_an_output_without_json_form_is_an_output_with_trace_and_journal(tmp_path: Path) -> None:
    agent = Agent(
        ScriptedModel(['{"n": 1}']), output_type=opaque, trace=tmp_path, checkpointer=tmp_path / "runs.db"
    )
    assert isinstance((await agent.run("x")).output, Opaque)


async def test_an_inner_output_without_json_form_is_the_developers_mistake() -> None:
    inner = Agent(ScriptedModel(['{"n": 1}']), output_type=opaque, name="inner")
    outer = Agent(ScriptedModel([call("inner", task="x")]), tools=[inner.as_tool("Works.")])
    with pytest.raises(UserError, match="agent 'inner' answered with Opaque, which has no JSON form"):
        await outer.run("x")


async def test_a_run_that_ended_is_read_again_and_calls_its_function_again() -> None:
    keeper = InMemoryCheckpointer()
    agent = Agent(ScriptedModel(['{"name": "Ann", "years": 2}']), output_type=hire, checkpointer=keeper)
    result = await agent.run("x")
    again = await agent.resume(result.run_id)
    assert again.output == result.output
