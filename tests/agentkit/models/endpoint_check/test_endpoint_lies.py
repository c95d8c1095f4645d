"""A server that lies is caught in every lie, and in nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from pretended_endpoint import KEY, LIES, PretendedEndpoint, advice, checked, running

from agentkit.models.endpoint_check.checking import EndpointCheck
from agentkit.models.endpoint_check.findings import Finding

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("pretended endpoint")]

NOT_HELD_BY_THE_HONEST = {"protocol: Responses", "protocol: Anthropic messages", "protocol: Gemini"}
CAUGHT: Mapping[str, Mapping[str, str]] = {
    "tool_choice is ignored": {
        "tool_choice required": "ignored",
        "tool_choice none": "ignored",
        "tool_choice named": "ignored",
    },
    "one call at a time": {"parallel calls": "fails", "one call at a time": "unknown"},
    "parallel_tool_calls is ignored": {"one call at a time": "ignored"},
    "calls stand in the text": {
        "tool calls": "fails",
        "call arguments": "unknown",
        "finish_reason of calls": "unknown",
        "call ids": "unknown",
        "tool_choice required": "ignored",
        "tool_choice none": "unknown",
        "tool_choice named": "ignored",
        "calls in streams": "fails",
        "finish_reason of calls in streams": "unknown",
        "parallel calls": "fails",
        "one call at a time": "unknown",
        "strict arguments": "unknown",
        "calls beside a schema": "unknown",
        "logprobs of calls": "unknown",
    },
    "tools are refused": {
        "tool calls": "refused",
        "call arguments": "unknown",
        "finish_reason of calls": "unknown",
        "call ids": "unknown",
        "tool_choice": "unknown",
        "calls in streams": "unknown",
        "tool results": "unknown",
        "parallel calls": "unknown",
        "strict arguments": "unknown",
        "schema and tools": "unknown",
        "logprobs of calls": "unknown",
    },
    "finish_reason is stop beside calls": {
        "finish_reason of calls": "fails",
        "finish_reason of calls in streams": "fails",
    },
    "call ids are equal": {},  # equal between replies, which is allowed; several calls of one reply see below
    "arguments are no JSON": {
        "tool_choice required": "fails",
        "call arguments": "fails",
        "calls in streams": "fails",
        "strict arguments": "ignored",
    },
    "arguments break the schema": {
        "tool_choice required": "fails",
        "call arguments": "fails",
        "calls in streams": "fails",
        "strict arguments": "ignored",
    },
    "usage is zero": {
        "usage": "fails",
        "usage in stream": "fails",
        "cached tokens": "unknown",
        "logprobs of calls": "ignored",
    },
    "usage does not grow": {"usage": "fails"},
    "no usage in streams": {"usage in stream": "ignored"},
    "stream_options is refused": {"usage in stream": "refused"},
    "streams come in one lump": {"stream": "fails"},
    "streams are not streamed": {"stream": "ignored"},
    "no DONE": {"end of stream": "fails"},
    "the schema is ignored": {
        "json_schema": "ignored",
        "json_schema without strict": "ignored",
        "schema beside tools": "ignored",
    },
    "the schema is broken": {
        "json_schema": "fails",
        "json_schema without strict": "fails",
        "schema beside tools": "fails",
    },
    "json_schema is refused": {
        "json_schema": "refused",
        "json_schema without strict": "refused",
        "schema and tools": "unknown",
    },
    "no calls beside a schema": {"calls beside a schema": "fails"},
    "json_object is ignored": {"json_object": "ignored"},
    "images are ignored": {"images": "ignored"},
    "images are refused": {"images": "refused"},
    "long prompts are truncated": {"context overflow": "ignored"},
    "overflow is a strange error": {"context overflow": "fails"},
    "stop is ignored": {"stop": "ignored"},
    "max_tokens is ignored": {"max_tokens": "ignored", "max_completion_tokens": "ignored"},
    "max_tokens is refused": {"max_tokens": "refused", "protocol: chat completions": "refused"},
    "replies are random": {"temperature 0": "fails", "seed": "ignored"},
    "logprobs are left out": {"logprobs": "ignored", "logprobs of calls": "ignored"},
    "system prompts are dropped": {"system prompt": "fails"},
    "characters are broken": {"Unicode": "fails"},
    "results are not read": {"tool results": "fails"},
    "results are refused": {"tool results": "refused"},
    "errors have no form": {"errors": "fails"},
    "errors are 500": {
        "errors": "fails",
        "context overflow": "holds",
        "unknown model": "unknown",
        "wrong key": "unknown",
    },
    "any model answers": {"unknown model": "ignored"},
    "any key is accepted": {"wrong key": "ignored"},
    "unknown fields are ignored": {"unknown field": "ignored"},
    "nothing is cached": {"cached tokens": "fails"},
    "no text": {"text": "fails"},
    "the key is repeated": {},
    "models are not listed": {"model list": "refused", "context window": "unknown", "context overflow": "unknown"},
}
MAY_DIFFER: Mapping[str, set[str]] = {
    "streams are not streamed": {"end of stream", "usage in stream"},  # there is no stream to look at
    "tools are refused": {
        "tool_choice required",
        "tool_choice none",
        "tool_choice named",
        "finish_reason of calls in streams",
        "one call at a time",
        "calls beside a schema",
        "schema beside tools",
    },
    "json_schema is refused": {"calls beside a schema", "schema beside tools"},
    "errors have no form": {"context overflow"},
    "no text": {"max_tokens", "max_completion_tokens"},
}
"""Findings that are missing or other because of what the lie takes away."""


OF_THE_WIRE = {"no DONE", "no usage in streams", "streams are not streamed", "streams come in one lump"}
"""Lies that are told over HTTP: its connection divides a stream, and ends it."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[PretendedEndpoint]:
    with running(PretendedEndpoint(KEY)) as found:
        yield found


def by_id(check: EndpointCheck) -> dict[str, Finding]:
    found = {finding.id: finding for finding in check.findings}
    assert len(found) == len(check.findings), "two findings have one id"
    return found


async def test_the_honest_server_holds_everything(endpoint: PretendedEndpoint) -> None:
    check = await checked(endpoint)
    found = by_id(check)
    not_held = {id: (f.verdict, f.detail) for id, f in found.items() if not f.holds}
    assert not_held.keys() == NOT_HELD_BY_THE_HONEST, not_held
    assert (
        check.end == "complete" and check.n_requests == len(endpoint.bodies) + 6
    )  # models, props, protocols, key
    assert found["tool calls"].detail == "held 3 of 3" and found["images"].n_asked == 3
    given = advice(check, endpoint)
    assert given.can_run and given.consequences == () and given.reasons == ()
    assert given.profile.native_output and given.profile.logprobs and given.profile.prefix_cache
    assert given.profile.context_window == 4096


@pytest.mark.parametrize("lie", sorted(LIES))
async def test_each_lie_is_caught_and_nothing_else(lie: str, endpoint: PretendedEndpoint) -> None:
    found = by_id(await checked(endpoint if lie in OF_THE_WIRE else PretendedEndpoint(KEY), lie))
    for id, verdict in CAUGHT[lie].items():
        assert id in found, f"{id} was not judged"
        assert found[id].verdict == verdict, found[id]
    others = {
        id: (finding.verdict, finding.detail)
        for id, finding in found.items()
        if not finding.holds and id not in NOT_HELD_BY_THE_HONEST | CAUGHT[lie].keys() | MAY_DIFFER.get(lie, set())
    }
    assert not others


async def test_every_lie_has_its_verdict() -> None:
    assert CAUGHT.keys() == set(LIES)
    assert {lie for lie in LIES if not CAUGHT[lie]} == {"call ids are equal", "the key is repeated"}
