"""Thoughts before the in-process model's replies: within their budget, apart from the reply, kept in the cache."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from local_runs import get_weather, responses

from agentkit import Agent, LocalModel, ModelSettings, UsageLimits, UserError
from agentkit.events import AgentEvent, ModelResponseEvent, TextDeltaEvent, ThinkingDeltaEvent
from agentkit.messages import ModelRequest, ModelResponse, ThinkingPart, UserPromptPart
from agentkit.models.base import ModelDelta, ModelRequestParameters, TokensDelta
from agentkit.models.openai.model import OpenAICompatibleModel
from modelstack.inference.thinking import ThoughtMarks
from modelstack.inference.thought_reply import ThoughtListener
from modelstack.tokenizer.vocabulary import Vocabulary

pytestmark = pytest.mark.anyio


def thought_of(response: ModelResponse) -> str:
    return "".join(part.content for part in response.parts if isinstance(part, ThinkingPart))


async def reply(model: LocalModel, settings: ModelSettings) -> tuple[ModelResponse, TokensDelta]:
    deltas: list[ModelDelta] = []
    messages = [ModelRequest((UserPromptPart("hello"),))]
    response = await model.request(messages, ModelRequestParameters(settings=settings), on_delta=deltas.append)
    await anyio.lowlevel.checkpoint()
    (tokens,) = [delta for delta in deltas if isinstance(delta, TokensDelta)]
    return response, tokens


@pytest.mark.parametrize("n_tokens", [0, 1, 7, 30])
async def test_a_thought_keeps_to_its_budget_and_counts_as_output(model: LocalModel, n_tokens: int) -> None:
    vocabulary = model.load().vocabulary
    n_marks = (
        len(vocabulary.encode("<think>")) + len(vocabulary.encode("</think>")) + len(vocabulary.encode("\n\n"))
    )
    settings = ModelSettings(temperature=1.0, seed=5, max_tokens=12, thinking_tokens=n_tokens)
    response, tokens = await reply(model, settings)
    text = vocabulary.decode(list(tokens.reply_ids))
    assert text.startswith("<think>") and text.count("</think>\n\n") == 1
    thought, answer = text.removeprefix("<think>").split("</think>\n\n")
    assert thought_of(response) == thought.strip() and response.text == answer
    assert response.usage.output_tokens == len(tokens.reply_ids) <= n_marks + n_tokens + 12
    assert len(tokens.logprobs) == len(tokens.legal_counts) == len(tokens.reply_ids)
    assert sum(count > 1 for count in tokens.legal_counts) <= n_tokens + 12
    if n_tokens == 0:
        assert response.parts[0].part_kind == "text"


@pytest.mark.parametrize("seed", range(4))
async def test_calls_behind_a_thought_are_valid_and_nothing_is_evaluated_twice(
    model: LocalModel, seed: int
) -> None:
    settings = ModelSettings(temperature=1.0, seed=seed, max_tokens=80, thinking_tokens=9, tool_choice="required")
    agent = Agent(model, tools=[get_weather], settings=settings, limits=UsageLimits(request_limit=3))
    result = await agent.run("What is the weather?")
    first, *later = responses(result.messages)
    assert first.tool_calls and all(call.probability is not None for call in first.tool_calls)
    assert {call.tool_name for call in first.tool_calls} == {"get_weather"}
    previous = first
    for response in later:
        assert response.decoding is not None and previous.decoding is not None
        n_new = response.usage.input_tokens - previous.usage.input_tokens - previous.usage.output_tokens
        assert n_new > 0  # all of the reply before, its thought too, is in the prompt
        n_in_cache = response.usage.input_tokens - response.decoding.reused_tokens
        assert n_in_cache <= n_new + max(1, previous.decoding.forced_tokens)
        previous = response


async def test_a_thought_is_heard_as_it_comes_and_apart_from_the_answer(model: LocalModel) -> None:
    settings = ModelSettings(temperature=1.0, seed=3, max_tokens=16, thinking_tokens=20)
    async with Agent(model, settings=settings).run_stream("hello") as stream:
        events: list[AgentEvent] = [event async for event in stream]
    thoughts = [event.text for event in events if isinstance(event, ThinkingDeltaEvent)]
    text = "".join(event.text for event in events if isinstance(event, TextDeltaEvent))
    (event,) = [event for event in events if isinstance(event, ModelResponseEvent)]
    assert len(thoughts) > 1
    assert "".join(thoughts).strip("\ufffd \n") == thought_of(event.response).strip("\ufffd \n")
    assert text.strip("\ufffd") == stream.result.output.strip("\ufffd")


async def test_the_same_seed_gives_the_same_thought_and_reply(model: LocalModel) -> None:
    settings = ModelSettings(temperature=1.0, seed=11, max_tokens=12, thinking_tokens=12)
    one, other = [(await reply(model, settings))[1] for _ in range(2)]
    assert one.reply_ids == other.reply_ids


async def test_a_cancelled_thought_leaves_the_model_usable(model: LocalModel) -> None:
    settings = ModelSettings(temperature=1.0, seed=0, max_tokens=12, thinking_tokens=1000)
    with anyio.fail_after(30):
        async with Agent(model, settings=settings).run_stream("hello") as stream:
            async for event in stream:
                if isinstance(event, ThinkingDeltaEvent):
                    break
        again = await Agent(model, settings=ModelSettings(max_tokens=8)).run("hello")
    assert again.status == "truncated" and again.output


async def test_what_is_no_budget_or_no_mark_says_so(model: LocalModel, tiny_gguf: Path) -> None:
    with pytest.raises(UserError, match="thinking_tokens=-1 is no budget"):
        await reply(model, ModelSettings(thinking_tokens=-1))
    with pytest.raises(UserError, match="both must have text"):
        LocalModel(tiny_gguf, thought_marks=("<think>", ""))


async def test_a_server_has_no_such_setting() -> None:
    remote = OpenAICompatibleModel("m", base_url="http://127.0.0.1:9/v1")
    messages = [ModelRequest((UserPromptPart("x"),))]
    parameters = ModelRequestParameters(settings=ModelSettings(thinking_tokens=8))
    with pytest.raises(UserError, match=r"thinking_tokens=8 is for models in this process.*extra_body"):
        await remote.request(messages, parameters)


LETTERS = Vocabulary(tuple(bytes([n]) for n in range(256)), frozenset(), (0,), lambda text: list(text.encode()))


@given(
    thought=st.text(st.sampled_from("ab</think> ü"), max_size=12),
    rest=st.text(st.sampled_from("ab<"), max_size=4),
    is_open=st.booleans(),
    data=st.data(),
)
def test_marks_are_never_told_wherever_blocks_are_cut(
    thought: str, rest: str, is_open: bool, data: st.DataObject
) -> None:
    """A prompt that ends behind the opening mark has none in the reply."""
    marks = ThoughtMarks()
    if marks.close in thought + marks.close[:-1] or (is_open and thought.startswith(marks.open)):
        return
    told: list[str] = []
    listener = ThoughtListener(LETTERS, marks, told.append)
    written = ("" if is_open else marks.open) + thought + marks.close + rest
    left = list(written.encode())
    while left:
        n = data.draw(st.integers(1, len(left)))
        listener.hear(left[:n])
        left = left[n:]
    assert "".join(told) == thought
