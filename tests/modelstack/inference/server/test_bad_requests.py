"""Requests that no reply can be given to: each has an error that names the field, and the next one is answered."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from modelstack.inference.server.anthropic_messages import MessagesBody, messages_request
from tests.modelstack.inference.server.serving import NAME, Served, until

ASK = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}


@pytest.fixture(scope="module")
def http(tiny_server: Served) -> Iterator[httpx.Client]:
    with tiny_server.client as client:
        yield client


def nested(depth: int) -> Any:
    schema: Any = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


CHAT: dict[str, tuple[dict[str, Any], str, str]] = {
    "an unknown field": ({"reasoning_effort": "high"}, "reasoning_effort", "not known to this server"),
    "a penalty": ({"presence_penalty": 0.5}, "presence_penalty", "given: 0.5"),
    "no messages": ({"messages": []}, "messages", "at least 1 item"),
    "a role that there is not": ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0", "robot"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages.0", "image_url",
    ),
    "a temperature below 0": ({"temperature": -1}, "temperature", "given: -1"),
    "two limits": ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "differ"),
    "a forced call without tools": ({"tool_choice": "required"}, "tool_choice", "needs tools"),
    "a choice of another tool": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "hear"}}},
        "tool_choice", "'hear'; the request's tools: 'look'",
    ),
    "a name with a quote": ({"tools": [{"type": "function", "function": {"name": 'a"b'}}]}, "tools", "contains"),
    "a tool twice": ({"tools": [TOOL, TOOL]}, "", "given twice"),
    "a result without a call": (
        {"messages": [*ASK, {"role": "tool", "tool_call_id": "c9", "content": "x"}]},
        "messages.1.tool_call_id", "'c9' does not follow that call",
    ),
    "a result of another call": (
        {"messages": [
            *ASK,
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c2", "content": "x"},
        ]},
        "messages.2.tool_call_id", "known: 'c1'",
    ),
    "arguments that are no JSON": (
        {"messages": [*ASK, {"role": "assistant", "tool_calls": [
            {**CALL, "function": {"name": "look", "arguments": "{"}}
        ]}]},
        "messages.1.tool_calls", "not JSON",
    ),
    "a remote reference": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "http://a/b"}}}},
        "", "http://a/b",
    ),
    "a schema that nothing satisfies": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {
            "type": "integer", "minimum": 5, "maximum": 1,
        }}}},
        "", "less than the minimum of 5. No grammar enforces 'minimum'",
    ),
    "a schema of a hundred arrays": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": nested(180)}}},
        "", "nested more than 100 levels deep",
    ),
    "five stops": ({"stop": list("abcde")}, "stop", "at most 4"),
    "an empty stop": ({"stop": ""}, "stop", "empty"),
    "too many replies": ({"n": 100}, "n", "given: 100"),
    "a seed of another world": ({"seed": 2**70}, "seed", "given"),
    "a long conversation": ({"messages": [{"role": "user", "content": "word " * 9_000}]}, "messages", "must fit"),
}  # fmt: skip


@pytest.mark.usefixtures("each_recursion_limit")
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("case", CHAT)
def test_a_bad_request_is_refused_with_its_field(http: httpx.Client, case: str, streams: bool) -> None:
    fields, param, says = CHAT[case]
    body = {"model": NAME, "messages": ASK, "max_tokens": 40, "stream": streams, **fields}
    response = http.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"] == "application/json", response.text
    error = response.json()["error"]
    assert response.status_code == 400, response.text
    assert (error["param"] or "").startswith(param) and says in error["message"], error
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (b"", 400, "not JSON"),
        (b"\xff\xfe{}", 400, "not UTF-8: byte 0 is 0xff"),
        (b'{"model": NaN}', 400, "NaN is not JSON"),
        (b"[" * 100_000, 400, "nested too deeply"),
        (b'{"model": ' + b"[" * 300 + b"]" * 300 + b"}", 400, "more than 200 levels"),
        (b"[]", 400, "valid dictionary"),
        (b" " * 9_000_000, 413, "8,000,000 bytes"),
    ],
    ids=["empty", "bytes", "NaN", "brackets", "depth", "list", "large"],
)
def test_a_body_that_is_no_request(http: httpx.Client, content: bytes, status: int, says: str) -> None:
    response = http.post("/v1/chat/completions", content=content)
    assert response.status_code == status and says in response.json()["error"]["message"]


def test_a_body_larger_than_it_says_is_not_read_to_its_end(http: httpx.Client) -> None:
    response = http.post("/v1/chat/completions", content=(b" " * 1_000_000 for _ in range(100)))
    assert response.status_code == 413


def test_half_a_request_is_not_waited_for(tiny_server: Served, http: httpx.Client) -> None:
    """A client that breaks off in its body leaves nothing behind."""
    host, port = tiny_server.url.removeprefix("http://").split(":")
    for _ in range(20):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    assert http.get("/health").json() == {"status": "ok"}


def test_a_web_page_may_not_ask_a_server_without_a_key(http: httpx.Client) -> None:
    headers = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
    response = http.post("/v1/completions", json={"model": NAME, "prompt": "x"}, headers=headers)
    assert response.status_code == 403 and "https://evil.example" in response.json()["error"]["message"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/chat/completions", 405), ("GET", "/v2", 404)])
def test_a_path_or_method_that_there_is_not(http: httpx.Client, method: str, path: str, status: int) -> None:
    response = http.request(method, path)
    assert response.status_code == status and path in response.json()["error"]["message"]


def test_errors_of_messages_have_the_form_of_anthropic(http: httpx.Client) -> None:
    body = {"model": NAME, "max_tokens": 5, "messages": ASK, "cake": 1}
    response = http.post("/v1/messages", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert response.json()["error"]["message"].startswith("cake: the field 'cake' is not known")
    results = [{"type": "tool_result", "tool_use_id": "t1", "content": "x"}]
    body = {"model": NAME, "max_tokens": 5, "messages": [{"role": "user", "content": results}]}
    assert "'t1' does not follow that call" in http.post("/v1/messages", json=body).json()["error"]["message"]


def test_an_error_of_a_tool_is_told_as_one() -> None:
    call = {"type": "tool_use", "id": "t1", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "no such place", "is_error": True}
    turns: list[dict[str, Any]] = [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    body = MessagesBody.model_validate({"model": NAME, "max_tokens": 5, "messages": [*ASK, *turns]})
    last = messages_request(body, None, 0.0).turns[-1]
    assert (last.role, last.tool_name, last.text, last.is_error) == ("tool", "look", "no such place", True)


def test_the_figures_count_what_was_refused_and_what_was_written(http: httpx.Client) -> None:
    http.post("/v1/chat/completions", content=b"x")
    http.post("/v1/completions", json={"model": NAME, "prompt": "hello", "max_tokens": 3, "ignore_eos": True})
    figures: dict[str, str] = {}

    def is_counted() -> bool:  # a reply is counted after its last byte was sent
        for line in http.get("/metrics").text.splitlines():
            name, _, value = line.rpartition(" ")
            figures[name] = value
        return 'modelstack_requests_total{path="/v1/completions",status="200"}' in figures

    until(is_counted)
    assert float(figures['modelstack_requests_total{path="/v1/chat/completions",status="400"}']) >= 1
    assert float(figures["modelstack_reply_tokens_total"]) >= 3
    assert float(figures["modelstack_replies_open"]) == 0
    assert float(figures["modelstack_first_token_seconds_count"]) >= 1
