"""The course of a check: where it ends early, what bounds it, what it advises."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from dataclasses import replace

import anyio
import pytest
from pretended_endpoint import KEY, MODEL, PretendedEndpoint, advice, checked, running

from agentkit.errors import UserError
from agentkit.models.endpoint_check.advice import advice_of
from agentkit.models.endpoint_check.checking import EndpointCheck
from agentkit.models.endpoint_check.findings import Finding
from agentkit.models.endpoint_check.probe import ProbeRequest
from agentkit.models.endpoint_check.replies import ServerReply
from agentkit.models.openai.messages import Dialect
from agentkit.models.openai.model import OpenAICompatibleModel

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("pretended endpoint")]


def listing(*names: str) -> ServerReply:
    body = {"data": [{"id": name} for name in names]}
    return ServerReply(200, body, json.dumps(body), "application/json", connection="plain HTTP")


def answering(replies: Callable[[ProbeRequest], ServerReply], model: str = "") -> EndpointCheck:
    async def send(request: ProbeRequest) -> ServerReply:
        return replies(request)

    return EndpointCheck(model, send=send)


async def test_nothing_is_asked_of_a_server_that_is_not_there() -> None:
    check = answering(lambda request: ServerReply(error="ConnectError: refused"), "m")
    await check.run()
    assert check.end == "stopped" and check.n_requests == 2
    assert [(f.id, f.verdict, f.detail) for f in check.findings] == [
        ("reachable", "fails", "ConnectError: refused")
    ]
    given = advice_of(check.findings, model="m", base_url="http://h/v1", key_variable=None)
    assert (given.can_run, given.reasons, given.code) == (False, ("the endpoint was not reached.",), "")


async def test_a_server_that_goes_away_ends_the_check() -> None:
    def replies(request: ProbeRequest) -> ServerReply:
        return listing("m") if request.body is None else ServerReply(error="no complete reply within 1 s")

    check = answering(replies)
    await check.run()
    assert check.end == "lost" and check.n_requests <= 6


async def test_a_redirect_names_the_address_that_is_meant() -> None:
    check = answering(lambda request: ServerReply(301, location="https://elsewhere.example/v1"), "m")
    await check.run()
    (finding,) = check.findings
    assert finding.verdict == "fails" and "https://elsewhere.example/v1; give that address" in finding.detail


async def test_without_chat_completions_other_protocols_are_named() -> None:
    def replies(request: ProbeRequest) -> ServerReply:
        if request.body is None:
            return listing("claude")
        found = request.protocol == "anthropic"
        return ServerReply(200, {"type": "message"}, "{}") if found else ServerReply(404, None, "Not Found")

    check = answering(replies)
    await check.run()
    assert check.end == "stopped"
    given = advice_of(check.findings, model="claude", base_url="https://h/v1", key_variable="A_KEY")
    assert given.reasons == ("it speaks no chat completions, but Anthropic messages.",)
    assert (
        given.code.startswith('AnthropicModel(\n    "claude",\n    base_url="https://h",\n')
        and 'os.environ["A_KEY"]' in given.code
    )


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (listing("a", "b"), "lists 2 models: a, b; choose one with --model NAME"),
        (listing(*map(str, range(20))), "and 12 more; choose one"),
        (listing(), "lists no models"),
        (ServerReply(404, None, "Not Found"), "status 404 at /models"),
    ],
)
async def test_a_model_is_never_chosen_by_chance(reply: ServerReply, said: str) -> None:
    with pytest.raises(UserError, match=said):
        await answering(lambda request: reply).run()


async def test_the_whole_check_is_bounded_and_keeps_what_was_found() -> None:
    async def send(request: ProbeRequest) -> ServerReply:
        if request.body is not None:
            await anyio.sleep_forever()
        return listing("m")

    check = EndpointCheck("m", total_s=0.05, send=send)
    await check.run()
    assert check.end == "deadline"
    assert [finding.id for finding in check.findings] == ["reachable", "model list", "context window"]


async def test_a_refusal_is_not_asked_again() -> None:
    with running(PretendedEndpoint()) as endpoint:
        check = await checked(endpoint, "images are refused", "tools are refused", key=None)
    found = {finding.id: finding for finding in check.findings}
    assert found["images"].n_asked == found["tool calls"].n_asked == 1
    assert found["strict arguments"].detail == "not asked: tool calls is refused"
    no_key = replace(found["wrong key"])
    assert (no_key.verdict, no_key.detail) == ("ignored", "any key is accepted")


# -- advice -------------------------------------------------------------------------------------------------------


def held(*ids: str, **verdicts: str) -> list[Finding]:
    base = ["reachable", "protocol: chat completions", "text", "tool calls", *ids]
    found = {id: Finding(id, id, "holds", "", 3, 3) for id in base}
    for id, verdict in verdicts.items():
        name = id.replace("_", " ")
        found[name] = Finding(name, name, verdict, "", 0, 3)  # type: ignore[arg-type]
    return list(found.values())


@pytest.mark.parametrize(
    ("findings", "dialect"),
    [
        (held("json_schema"), Dialect()),
        (held(), Dialect()),  # what was not seen changes nothing
        ([*held("json_object"), Finding("json_schema", "", "ignored", "")], Dialect(output="json_object")),
        ([*held(), Finding("json_schema", "", "refused", "")], Dialect(output="prompt")),
        (held(calls_beside_a_schema="fails"), Dialect(output_with_tools=False)),
        (held(schema_beside_tools="ignored"), Dialect(output_with_tools=False)),
        (held(schema_beside_tools="unknown"), Dialect()),
        (held(usage_in_stream="refused"), Dialect(include_usage=False)),
        (held(usage_in_stream="ignored"), Dialect()),
        (
            [*held("max_completion_tokens"), Finding("max_tokens", "", "refused", "")],
            Dialect(max_tokens_field="max_completion_tokens"),
        ),
        (held("max_tokens", "max_completion_tokens"), Dialect()),
    ],
)
def test_the_dialect_follows_from_what_was_seen(findings: list[Finding], dialect: Dialect) -> None:
    given = advice_of(findings, model="m", base_url="http://h/v1", key_variable=None)
    assert given.can_run and given.dialect == dialect


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"text": "fails"}, "it gives no text."),
        ({"tool_calls": "fails"}, "it makes no tool calls"),
        ({"call_arguments": "fails"}, "the arguments of its calls are never valid."),
        ({"tool_results": "refused"}, "a conversation with the result of a tool is refused."),
    ],
)
def test_an_agent_needs_text_calls_and_results(changes: dict[str, str], reason: str) -> None:
    given = advice_of(held(**changes), model="m", base_url="http://h/v1", key_variable=None)
    assert not given.can_run and given.reasons[0].startswith(reason)


def test_calls_that_come_only_when_required_are_enough() -> None:
    findings = [*held(tool_calls="fails"), Finding("tool_choice required", "", "holds", "", 3, 3)]
    assert advice_of(findings, model="m", base_url="http://h/v1", key_variable=None).can_run


@pytest.mark.parametrize("model", ["m", 'a "quoted" \\ name', "a\nb\x1b[31m", "naïve 🦜", "it's"])
def test_the_line_of_code_is_python_that_makes_the_model(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [
        *held("logprobs of calls", "cached tokens", "max_completion_tokens"),
        Finding("json_schema", "", "refused", ""),
        Finding("max_tokens", "", "refused", ""),
        Finding("parallel calls", "", "refused", ""),
        Finding("usage in stream", "", "refused", ""),
        Finding("context window", "", "holds", "", figures={"context_window": 8192}),
    ]
    given = advice_of(findings, model=model, base_url="http://127.0.0.1:1/v1", key_variable="MY_KEY")
    ast.parse(given.code)
    assert max(map(len, given.code.splitlines())) <= 80 and "\x1b" not in given.code
    monkeypatch.setenv("MY_KEY", "sk-1")
    import os

    from agentkit.models.base import ModelProfile

    made = eval(given.code, {"os": os, "Dialect": Dialect, "ModelProfile": ModelProfile} | _CLASSES)
    assert made.name == model and made.profile == given.profile
    assert made.profile == ModelProfile(
        logprobs=True, prefix_cache=True, context_window=8192, parallel_tool_calls=False
    )


_CLASSES = {"OpenAICompatibleModel": OpenAICompatibleModel}


async def test_each_consequence_belongs_to_a_finding() -> None:
    from agentkit.models.endpoint_check.advice import _CONSEQUENCES

    with running(PretendedEndpoint(KEY)) as endpoint:
        check = await checked(endpoint, "tool_choice is ignored", "usage is zero", "stop is ignored", key=KEY)
        given = advice(check, endpoint)
    assert {finding.id for finding in check.findings} >= _CONSEQUENCES.keys()
    assert check.model == MODEL and given.can_run
    for id in ("tool_choice required", "tool_choice none", "usage", "stop"):
        assert _CONSEQUENCES[id] in given.consequences
