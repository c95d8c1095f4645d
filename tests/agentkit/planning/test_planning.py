"""Runs that follow a plan: what the model may call in a step, and what makes the plan change."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentkit import Agent, ModelRetry, RunContext, ToolFailed, UsageLimits, UserError
from agentkit.errors import UnexpectedModelBehavior
from agentkit.events import AgentEvent, PlanEvent, SideRequestEvent
from agentkit.messages import ModelRequest, ModelResponse, TextPart, UserPromptPart
from agentkit.persistence import InMemoryCheckpointer
from agentkit.planning import ModelPlanner, PlanStep, PlanTemplate, TemplateStep
from agentkit.testing import FunctionModel, ScriptedModel, call

pytestmark = pytest.mark.anyio


class Kitchen:
    """Tools of which the oven may be broken."""

    def __init__(self, *, oven_works: bool = True) -> None:
        self.oven_works = oven_works
        self.done: list[str] = []

    def tools(self) -> list[Any]:
        async def mix(what: str) -> str:
            """Mix a dough."""
            self.done.append(f"mixed {what}")
            return "mixed"

        async def bake(what: str) -> str:
            """Bake in the oven."""
            if not self.oven_works:
                raise ToolFailed("the oven is cold")
            self.done.append(f"baked {what}")
            return "baked"

        async def grill(what: str) -> str:
            """Grill over coals."""
            self.done.append(f"grilled {what}")
            return "grilled"

        return [mix, bake, grill]


TEMPLATE = PlanTemplate(
    [
        TemplateStep("Mix the dough for: {task}", "mix"),
        TemplateStep("Bake it.", "bake", otherwise=[TemplateStep("Grill it.", "grill")]),
    ]
)


def prompts(model: ScriptedModel) -> list[str]:
    """What the model was told last, at each request."""
    return [recorded.messages[-1].parts[-1].text for recorded in model.calls]  # pyright: ignore[reportAttributeAccessIssue]


async def test_each_step_allows_its_tool_alone_and_then_the_model_answers() -> None:
    kitchen = Kitchen()
    model = ScriptedModel([call("mix", what="rye"), call("bake", what="rye"), "There is bread."])
    result = await Agent(model, tools=kitchen.tools(), planner=TEMPLATE).run("bread")
    assert (result.output, kitchen.done) == ("There is bread.", ["mixed rye", "baked rye"])
    assert prompts(model) == [
        "Step 1 of 2: Mix the dough for: bread",
        "Step 2 of 2: Bake it.",
        "All steps are over. Answer now: bread",
    ]
    allowed = [sorted(tool.name for tool in recorded.parameters.callable_tools) for recorded in model.calls]
    assert allowed == [["mix"], ["bake"], []]
    assert [recorded.parameters.tool_choice for recorded in model.calls] == ["required", "required", "none"]
    assert all(len(recorded.parameters.tools) == 3 for recorded in model.calls)  # the prompt's beginning stays


async def test_a_plan_whose_tool_failed_twice_is_revised_and_ends() -> None:
    kitchen, events = Kitchen(oven_works=False), list[AgentEvent]()
    model = ScriptedModel(
        [
            call("mix", what="rye"),
            call("bake", what="rye"),
            call("bake", what="rye bread"),
            call("grill", what="rye"),
            "Grilled bread.",
        ]
    )
    agent = Agent(model, tools=kitchen.tools(), planner=TEMPLATE, on_event=events.append)
    result = await agent.run("bread")
    assert (result.output, kitchen.done) == ("Grilled bread.", ["mixed rye", "grilled rye"])
    first, second = (event for event in events if isinstance(event, PlanEvent))
    assert first.reason is None
    assert second.reason == "bake failed 2 times: the oven is cold"
    assert second.steps == (PlanStep("Grill it.", "grill"),)
    assert result.state.plan is not None
    assert [(step.goal, step.status) for step in result.state.plan.steps] == [
        ("Mix the dough for: bread", "done"),
        ("Grill it.", "done"),
    ]


async def test_words_in_place_of_a_call_do_nothing_and_the_step_stays() -> None:
    kitchen = Kitchen()
    model = ScriptedModel(["Mixed!", call("mix", what="rye"), call("bake", what="rye"), "There is bread."])
    result = await Agent(model, tools=kitchen.tools(), planner=TEMPLATE).run("bread")
    assert (result.output, kitchen.done) == ("There is bread.", ["mixed rye", "baked rye"])
    assert "Nothing was done" in prompts(model)[1] and "'mix'" in prompts(model)[1]


async def test_a_step_that_is_answered_in_words_twice_is_revised() -> None:
    kitchen = Kitchen()
    model = ScriptedModel(
        [call("mix", what="rye"), "Baked!", "It is baked.", call("grill", what="rye"), "There is bread."]
    )
    result = await Agent(model, tools=kitchen.tools(), planner=TEMPLATE).run("bread")
    assert (result.output, kitchen.done) == ("There is bread.", ["mixed rye", "grilled rye"])


async def test_a_step_whose_tool_used_up_its_retries_is_revised_at_once() -> None:
    done = list[str]()

    def look() -> str:
        """Look into the oven."""
        done.append("looked")
        raise ModelRetry("look closer")

    def light() -> str:
        """Switch the light on."""
        done.append("light")
        return "light"

    template = PlanTemplate([TemplateStep("Look.", "look", otherwise=[TemplateStep("Light.", "light")])])
    model = ScriptedModel([call("look"), call("light"), "I see."])
    result = await Agent(model, tools=[look, light], planner=template, retries=0).run("look")
    assert (result.output, done) == ("I see.", ["looked", "light"])


async def test_without_another_way_the_step_is_left_out_and_said() -> None:
    kitchen = Kitchen(oven_works=False)
    template = PlanTemplate([TemplateStep("Bake.", "bake"), TemplateStep("Mix.", "mix")])
    model = ScriptedModel([call("bake", what="a"), call("bake", what="b"), call("mix", what="c"), "Only mixed."])
    result = await Agent(model, tools=kitchen.tools(), planner=template).run("bread")
    assert (result.output, kitchen.done) == ("Only mixed.", ["mixed c"])
    assert prompts(model)[-1] == "All steps are over. Not done: Bake. Answer now: bread"


async def test_a_step_whose_precondition_does_not_hold_is_revised() -> None:
    kitchen = Kitchen()

    async def hot(context: RunContext[Any]) -> bool:
        return False

    template = PlanTemplate([TemplateStep("Bake.", "bake", when=hot, otherwise=[TemplateStep("Grill.", "grill")])])
    model = ScriptedModel([call("grill", what="fish"), "done"])
    await Agent(model, tools=kitchen.tools(), planner=template).run("fish")
    assert kitchen.done == ["grilled fish"]


async def test_a_precondition_does_not_keep_the_last_reply_from_being_given() -> None:
    """The limit is reached in a step that cannot begin; the run still ends."""
    template = PlanTemplate([TemplateStep("Bake.", "bake", when=lambda context: False)])
    model = ScriptedModel(["nothing was done"])
    agent = Agent(model, tools=Kitchen().tools(), planner=template, limits=UsageLimits(request_limit=1))
    assert (await agent.run("bread")).output == "nothing was done"


class Replanner(ModelPlanner):
    """Counts why it was asked again."""

    def __init__(self, *steps: PlanStep, max_revisions: int = 2) -> None:
        super().__init__(max_revisions=max_revisions)
        self.steps = steps
        self.reasons: list[str] = []

    async def plan(self, situation: Any) -> list[PlanStep]:
        return list(self.steps)

    async def revise(self, situation: Any, plan: Any, reason: str) -> list[PlanStep]:
        self.reasons.append(reason)
        return [PlanStep("Mix again.", "mix")]


async def test_revisions_are_bounded() -> None:
    kitchen = Kitchen(oven_works=False)

    class Stubborn(Replanner):
        async def revise(self, situation: Any, plan: Any, reason: str) -> list[PlanStep]:
            await super().revise(situation, plan, reason)
            return [PlanStep("Bake all the same.", "bake")]

    planner = Stubborn(PlanStep("Bake.", "bake"))
    model = ScriptedModel([*(call("bake", what=str(n)) for n in range(6)), "I could not."])
    agent = Agent(model, tools=kitchen.tools(), planner=planner, retries=10)
    result = await agent.run("bread")
    assert (result.output, len(planner.reasons)) == ("I could not.", 2)
    model.assert_complete()


async def test_a_plan_is_looked_at_once_when_half_of_the_budget_is_gone() -> None:
    kitchen = Kitchen()
    planner = Replanner(*(PlanStep(f"Mix {n}.", "mix") for n in range(9)))
    model = ScriptedModel([call("mix", what="a"), call("mix", what="b"), call("mix", what="c"), "done"])
    limits = UsageLimits(tool_calls_limit=4)
    result = await Agent(model, tools=kitchen.tools(), planner=planner, limits=limits).run("much")
    assert (result.output, planner.reasons) == ("done", ["half of the budget is gone"])


async def test_a_user_may_interrupt() -> None:
    kitchen = Kitchen()
    planner = Replanner(PlanStep("Bake.", "bake"))
    model = ScriptedModel([call("mix", what="salad"), "salad it is"])
    async with Agent(model, tools=kitchen.tools(), planner=planner).iter("bread") as run:
        await run.advance()
        run.interrupt("No bread, a salad!")
        result = await run.finish()
    assert (result.output, planner.reasons) == ("salad it is", ["the user says: No bread, a salad!"])
    said = [p.content for m in result.messages for p in m.parts if isinstance(p, UserPromptPart)]
    assert said[:3] == ["bread", "Step 1 of 1: Bake.", "No bread, a salad!"]


async def test_an_interruption_without_a_plan_is_read_before_the_next_reply() -> None:
    model = ScriptedModel([call("mix", what="a"), "done"])
    async with Agent(model, tools=Kitchen().tools()).iter("go") as run:
        await run.advance()
        await run.advance()
        await run.advance()
        run.interrupt("hurry")
        await run.finish()
    assert prompts(model)[-1] == "hurry"


async def test_a_step_without_a_tool_ends_with_an_answer() -> None:
    template = PlanTemplate([TemplateStep("Think of a dish."), TemplateStep("Mix it.", "mix")])
    kitchen = Kitchen()
    model = ScriptedModel(["A soup.", call("mix", what="soup"), "It is mixed."])
    result = await Agent(model, tools=kitchen.tools(), planner=template).run("cook")
    assert (result.output, kitchen.done) == ("It is mixed.", ["mixed soup"])
    assert [type(message) for message in result.messages] == [
        ModelRequest, ModelRequest, ModelResponse, ModelRequest, ModelResponse, ModelRequest, ModelResponse,
    ]  # fmt: skip


async def test_the_model_writes_the_plan_under_a_schema_of_the_live_tools() -> None:
    kitchen = Kitchen()
    plan = {"steps": [{"goal": "Mix", "tool": "mix"}, {"goal": "Say so", "tool": "none"}]}
    model = ScriptedModel([json.dumps(plan), call("mix", what="rye"), "All is well."])
    result = await Agent(model, tools=kitchen.tools(), planner=ModelPlanner()).run("bread")
    assert (result.output, kitchen.done) == ("All is well.", ["mixed rye"])
    asked = model.calls[0].parameters.output
    assert asked is not None
    tools = asked.json_schema["properties"]["steps"]["items"]["properties"]["tool"]
    assert tools == {"enum": ["mix", "bake", "grill", "none"]}
    assert result.usage.requests == 3  # the plan's costs, too


WRONG_PLANS = ["no json", "{}", '{"steps": [{"goal": "x", "tool": "fly"}]}', '{"steps": 3}']
RIGHT_PLAN = '{"steps": [{"goal": "Mix", "tool": "mix"}]}'


@pytest.mark.parametrize("text", WRONG_PLANS)
async def test_a_plan_that_is_wrong_twice_ends_the_run(text: str) -> None:
    model = ScriptedModel([text, text])
    with pytest.raises(UnexpectedModelBehavior, match="plan") as caught:
        await Agent(model, tools=Kitchen().tools(), planner=ModelPlanner()).run("bread")
    assert len(model.calls) == 2
    assert caught.value.usage is not None and caught.value.usage.requests == 2


@pytest.mark.parametrize("text", WRONG_PLANS)
async def test_a_wrong_plan_goes_back_to_the_planner_once(text: str) -> None:
    kitchen, model = Kitchen(), ScriptedModel([text, RIGHT_PLAN, call("mix", what="rye"), "There is dough."])
    result = await Agent(model, tools=kitchen.tools(), planner=ModelPlanner()).run("bread")
    assert (result.output, kitchen.done, result.usage.requests) == ("There is dough.", ["mixed rye"], 4)
    first, reply, wrong = model.calls[1].messages
    assert (first, text) == (model.calls[0].messages[0], reply.parts[0].content)  # pyright: ignore[reportAttributeAccessIssue]
    assert [part.part_kind for part in wrong.parts] == ["retry-prompt"]


async def test_a_misspelt_tool_of_a_plan_is_told_with_the_nearest_names() -> None:
    misspelt = '{"steps": [{"goal": "Mix", "tool": "mixx"}, {"goal": "Bake", "tool": "bakery"}]}'
    model = ScriptedModel([misspelt, RIGHT_PLAN, call("mix", what="rye"), "done"])
    await Agent(model, tools=Kitchen().tools(), planner=ModelPlanner()).run("bread")
    assert prompts(model)[1] == (
        "The plan names tool 'mixx', which does not exist. Nearest: mix. "
        "The plan names tool 'bakery', which does not exist. Nearest: bake."
    )


async def test_requests_of_a_planner_count_and_are_told() -> None:
    events: list[AgentEvent] = []
    model = ScriptedModel([WRONG_PLANS[2], RIGHT_PLAN, call("mix", what="rye"), "done"])
    agent = Agent(model, tools=Kitchen().tools(), planner=ModelPlanner(), on_event=events.append)
    await agent.run("bread")
    told = [event for event in events if isinstance(event, SideRequestEvent)]
    assert [(event.purpose, event.messages) for event in told] == [
        ("plan", recorded.messages) for recorded in model.calls[:2]
    ]
    assert [event.response.text for event in told] == [WRONG_PLANS[2], RIGHT_PLAN]


async def test_a_planner_leaves_a_request_for_the_answer() -> None:
    """There is no request for a second try: the run answers without a plan."""
    model = ScriptedModel([WRONG_PLANS[2], "I had no time."])
    agent = Agent(model, tools=Kitchen().tools(), planner=ModelPlanner(), limits=UsageLimits(request_limit=2))
    result = await agent.run("bread")
    assert (result.output, result.usage.requests) == ("I had no time.", 2)
    assert result.state.limit == "request_limit=2"


async def test_a_template_that_names_no_tool_of_the_run_is_the_developers_mistake() -> None:
    with pytest.raises(UserError, match="names tool 'mix'"):
        await Agent(ScriptedModel([]), planner=TEMPLATE).run("bread")


async def test_a_planned_run_goes_on_where_it_was() -> None:
    """Its process died in the second step; the plan and what was done of it are in the journal."""
    kitchen, keeper = Kitchen(), InMemoryCheckpointer()
    calls = [call("mix", what="rye"), call("bake", what="rye")]

    def reply(messages: Any, parameters: Any) -> ModelResponse:
        n_said = sum(isinstance(message, ModelResponse) for message in messages)
        if n_said == 1 and not reply.resumed:  # pyright: ignore[reportFunctionMemberAccess]
            raise RuntimeError("the process dies")
        return ModelResponse((calls[n_said] if n_said < 2 else TextPart("bread"),))

    reply.resumed = False  # pyright: ignore[reportFunctionMemberAccess]
    agent = Agent(FunctionModel(reply), tools=kitchen.tools(), planner=TEMPLATE, checkpointer=keeper)
    with pytest.raises(RuntimeError):
        await agent.run("bread")
    reply.resumed = True  # pyright: ignore[reportFunctionMemberAccess]
    (run,) = await keeper.list_runs()
    result = await agent.resume(run.run_id)
    assert (result.output, kitchen.done) == ("bread", ["mixed rye", "baked rye"])
