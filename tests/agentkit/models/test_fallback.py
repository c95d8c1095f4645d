"""Which model takes over, when, and what the listener hears."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from chat_server import HELLO, ChatServer, answer, completion, delta, stream

from agentkit.errors import (
    ContextWindowExceeded,
    ModelConnectionError,
    ModelError,
    ModelHTTPError,
    ModelTimeout,
    UnexpectedModelBehavior,
    UserError,
)
from agentkit.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from agentkit.models.base import (
    Model,
    ModelDelta,
    ModelProfile,
    ModelRequestParameters,
    OnDelta,
    TextDelta,
    ToolCallDelta,
)
from agentkit.models.fallback import AllModelsFailed, FallbackModel, ModelUnsure, common_profile
from agentkit.models.openai.model import OpenAICompatibleModel
from agentkit.usage import RequestUsage

pytestmark = pytest.mark.anyio
NO_PARAMETERS = ModelRequestParameters()


@dataclass
class Scripted(Model):
    """Tells its deltas, then gives its outcome."""

    label: str
    outcome: ModelResponse | ModelError
    deltas: tuple[ModelDelta, ...] = ()
    can: ModelProfile = ModelProfile()
    enter_error: Exception | None = None
    exit_error: Exception | None = None
    log: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.label

    @property
    def profile(self) -> ModelProfile:
        return self.can

    async def request(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        *,
        on_delta: OnDelta | None = None,
    ) -> ModelResponse:
        self.log.append(f"ask {self.label}")
        for each in self.deltas if on_delta else ():
            assert on_delta is not None
            on_delta(each)
        if isinstance(self.outcome, ModelError):
            raise self.outcome
        return self.outcome

    async def __aenter__(self) -> Scripted:
        self.log.append(f"enter {self.label}")
        if self.enter_error:
            raise self.enter_error
        return self

    async def __aexit__(self, *_: object) -> None:
        self.log.append(f"leave {self.label}")
        if self.exit_error:
            raise self.exit_error


def says(text: str, *, p_answer: float | None = None) -> ModelResponse:
    return ModelResponse((TextPart(text),), usage=RequestUsage(10, 4, 2), p_answer=p_answer)


def calls(*probabilities: float | None) -> ModelResponse:
    parts = tuple(ToolCallPart(f"t{i}", "{}", f"c{i}", probability=p) for i, p in enumerate(probabilities))
    return ModelResponse(parts, usage=RequestUsage(10, 4, 2))


async def heard(model: Model) -> tuple[ModelResponse, list[ModelDelta]]:
    deltas: list[ModelDelta] = []
    return await model.request(HELLO, NO_PARAMETERS, on_delta=deltas.append), deltas


async def test_the_first_model_that_answers_is_the_last_that_is_asked() -> None:
    second = Scripted("b", says("two"))
    model = FallbackModel(Scripted("a", says("one")), second)
    assert await model.request(HELLO, NO_PARAMETERS) == says("one")
    assert second.log == []


@pytest.mark.parametrize(
    "error",
    [
        ModelConnectionError("gone"),
        ModelTimeout("slow"),
        ModelHTTPError("busy", status_code=503, retryable=True),
        ContextWindowExceeded("long"),
        UnexpectedModelBehavior("odd"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_by_default_hands_over_what_another_model_may_do(error: ModelError) -> None:
    model = FallbackModel(Scripted("a", error), Scripted("b", says("two")))
    assert (await model.request(HELLO, NO_PARAMETERS)).text == "two"


@pytest.mark.parametrize("status_code", [400, 401, 403, 404, 422])
async def test_by_default_a_mistake_is_raised_at_once(status_code: int) -> None:
    second = Scripted("b", says("two"))
    with pytest.raises(ModelHTTPError):
        await FallbackModel(Scripted("a", ModelHTTPError("no", status_code=status_code)), second).request(
            HELLO, NO_PARAMETERS
        )
    assert second.log == []


@pytest.mark.parametrize(
    "on",
    [ModelHTTPError, (ModelTimeout, ModelHTTPError), lambda error: getattr(error, "status_code", 0) == 401],
    ids=["type", "types", "predicate"],
)
async def test_what_is_handed_over_can_be_chosen(on: object) -> None:
    unauthorized = Scripted("a", ModelHTTPError("no", status_code=401))
    good = Scripted("b", says("two"))
    assert (await FallbackModel(unauthorized, good, on=on).request(HELLO, NO_PARAMETERS)).text == "two"  # type: ignore[arg-type]
    with pytest.raises(ModelConnectionError):
        broken = Scripted("a", ModelConnectionError("gone"))
        await FallbackModel(broken, good, on=on).request(HELLO, NO_PARAMETERS)  # type: ignore[arg-type]


async def test_other_exceptions_are_no_concern_of_the_fallback() -> None:
    mistake = Scripted("a", UserError("mistake"))  # type: ignore[arg-type]
    mistake.request = _raise_user_error  # type: ignore[method-assign]
    with pytest.raises(UserError):
        await FallbackModel(mistake, Scripted("b", says("two"))).request(HELLO, NO_PARAMETERS)


async def _raise_user_error(*_: object, **__: object) -> ModelResponse:
    raise UserError("mistake")


async def test_when_all_fail_each_is_named() -> None:
    errors = (ModelConnectionError("gone"), ModelHTTPError("busy", status_code=503, retryable=True))
    model = FallbackModel(Scripted("a", errors[0]), Scripted("b", errors[1]))
    with pytest.raises(AllModelsFailed) as caught:
        await model.request(HELLO, NO_PARAMETERS)
    assert caught.value.errors == errors
    assert caught.value.retryable
    assert str(caught.value) == (
        "none of 2 models gave a reply:\n- a: ModelConnectionError: gone\n- b: ModelHTTPError: busy"
    )
    again = copy.copy(caught.value)
    assert (str(again), again.errors, again.retryable) == (str(caught.value), errors, True)


async def test_a_conversation_too_long_for_every_model_is_just_that() -> None:
    model = FallbackModel(Scripted("a", ContextWindowExceeded("8k")), Scripted("b", ContextWindowExceeded("32k")))
    with pytest.raises(ContextWindowExceeded, match=r"each of 2 models:\n- a: .*8k\n- b: .*32k"):
        await model.request(HELLO, NO_PARAMETERS)


async def test_a_reply_that_was_partly_heard_is_not_started_again() -> None:
    silent = Scripted("a", ModelTimeout("slow"))
    broken = Scripted("b", ModelConnectionError("cut"), (TextDelta("half"),))
    never = Scripted("c", says("three"))
    deltas: list[ModelDelta] = []
    with pytest.raises(ModelConnectionError) as caught:
        await FallbackModel(silent, broken, never).request(HELLO, NO_PARAMETERS, on_delta=deltas.append)
    assert caught.value.__notes__ == [
        "Not handed over to another model: a part of the reply had been delivered.",
        "Before that: slow",
    ]
    assert deltas == [TextDelta("half")]
    assert never.log == []


async def test_without_a_listener_it_is_handed_over() -> None:
    broken = Scripted("a", ModelConnectionError("cut"), (TextDelta("half"),))
    model = FallbackModel(broken, Scripted("b", says("two")))
    assert (await model.request(HELLO, NO_PARAMETERS)).text == "two"


async def test_an_unsure_call_goes_to_the_larger_model_and_is_not_heard() -> None:
    small = Scripted("small", calls(0.95, 0.4), (TextDelta("hm"), ToolCallDelta(0, "t0", "{}")))
    large = Scripted("large", calls(0.3), (ToolCallDelta(0, "t0", "{}"),))
    response, deltas = await heard(FallbackModel(small, large, min_confidence=0.8))
    assert response.tool_calls == calls(0.3).tool_calls
    assert deltas == [ToolCallDelta(0, "t0", "{}")]
    assert response.usage == RequestUsage(20, 8, 4)


@pytest.mark.parametrize(
    ("response", "is_kept"),
    [
        (calls(0.8), True),
        (calls(0.79), False),
        (calls(0.9, None), True),
        (calls(0.1, None), False),
        (calls(None), True),
        (says("x"), True),
        (says("x", p_answer=0.9), True),
        (says("x", p_answer=0.5), False),
    ],
)
async def test_confidence_is_that_of_the_least_sure_decision_that_is_known(
    response: ModelResponse, is_kept: bool
) -> None:
    model = FallbackModel(Scripted("small", response), Scripted("large", says("large")), min_confidence=0.8)
    assert ((await model.request(HELLO, NO_PARAMETERS)).text != "large") is is_kept


async def test_a_sure_models_deltas_are_heard_in_order_after_acceptance() -> None:
    told = (TextDelta("a"), ToolCallDelta(0, "t0", "{}"))
    sure, unheard = Scripted("small", calls(0.9), told), Scripted("large", says("x"))
    assert (await heard(FallbackModel(sure, unheard, min_confidence=0.8)))[1] == list(told)


async def test_a_held_back_stream_that_breaks_can_be_handed_over() -> None:
    broken = Scripted("small", ModelConnectionError("cut"), (TextDelta("half"),))
    large = Scripted("large", says("two"), (TextDelta("two"),))
    response, deltas = await heard(FallbackModel(broken, large, min_confidence=0.8))
    assert (response.text, deltas) == ("two", [TextDelta("two")])


async def test_when_nobody_is_sure_or_reachable_the_unsure_call_is_not_returned() -> None:
    model = FallbackModel(
        Scripted("small", calls(0.4)), Scripted("large", ModelConnectionError("gone")), min_confidence=0.8
    )
    with pytest.raises(AllModelsFailed, match=r"'small' decided with probability 0\.400, below 0\.8") as caught:
        await model.request(HELLO, NO_PARAMETERS)
    unsure = caught.value.errors[0]
    assert isinstance(unsure, ModelUnsure)
    assert unsure.confidence == 0.4
    assert copy.copy(unsure).confidence == 0.4


async def test_the_last_model_is_taken_at_its_word_also_when_it_is_the_first_again() -> None:
    model = Scripted("a", calls(0.4))
    await FallbackModel(model, model, min_confidence=0.8).request(HELLO, NO_PARAMETERS)
    assert model.log == ["ask a", "ask a"]


async def test_the_profile_is_what_all_can_do() -> None:
    small = ModelProfile(grammar=True, logprobs=True, prefix_cache=True, context_window=8192, native_output=True)
    large = ModelProfile(logprobs=True, context_window=131072, native_output=True, parallel_tool_calls=False)
    model = FallbackModel(Scripted("a", says("x"), can=small), Scripted("b", says("x"), can=large))
    assert model.profile == ModelProfile(
        logprobs=True, context_window=8192, parallel_tool_calls=False, native_output=True
    )
    assert common_profile([small, ModelProfile()]).context_window == 8192
    assert model.name == "fallback(a, b)"


async def test_entering_and_leaving_reach_every_model_also_when_one_fails() -> None:
    log: list[str] = []
    a, b = Scripted("a", says("x"), log=log), Scripted("b", says("x"), log=log)
    async with FallbackModel(a, b):
        assert log == ["enter a", "enter b"]
    assert log == ["enter a", "enter b", "leave b", "leave a"]

    log.clear()
    b.exit_error = RuntimeError("stuck")
    with pytest.raises(RuntimeError, match="stuck"):
        async with FallbackModel(a, b):
            pass
    assert log[2:] == ["leave b", "leave a"]

    log.clear()
    b.enter_error = RuntimeError("no weights")
    with pytest.raises(RuntimeError, match="no weights"):
        async with FallbackModel(a, b):
            raise NotImplementedError
    assert log == ["enter a", "enter b", "leave a"]


@pytest.mark.parametrize("min_confidence", [-0.1, 1.1, float("nan")])
def test_a_threshold_must_be_a_probability(min_confidence: float) -> None:
    with pytest.raises(UserError, match="no probability"):
        FallbackModel(Scripted("a", says("x")), Scripted("b", says("x")), min_confidence=min_confidence)


def test_one_model_is_no_fallback() -> None:
    with pytest.raises(UserError, match="at least two"):
        FallbackModel(Scripted("a", says("x")))


async def test_over_real_servers_a_small_models_doubt_reaches_the_large_one(
    serve: Callable[..., ChatServer], model_of: Callable[..., OpenAICompatibleModel]
) -> None:
    tokens = [{"token": t, "logprob": p} for t, p in (("<tool_call>", -0.1), ("add", -1.0), ("{}", 0.0))]
    whole = completion({"tool_calls": [{"id": "c", "function": {"name": "add", "arguments": "{}"}}]})
    whole["choices"][0]["logprobs"] = {"content": tokens}
    whole["usage"] = {"prompt_tokens": 5, "completion_tokens": 3}
    small = model_of(serve(answer(whole)), profile=ModelProfile(logprobs=True))
    large = model_of(serve(stream([delta("stop", content="Which numbers?")])))
    async with FallbackModel(small, large, min_confidence=0.5) as model:
        response, deltas = await heard(model)
    assert response.text == "Which numbers?"
    assert deltas == [TextDelta("Which numbers?")]
    assert response.usage == RequestUsage(5, 0, 3)
