"""What servers say when they fail, in their own words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentkit.errors import ContextWindowExceeded, ModelHTTPError
from agentkit.models.http.errors import Endpoint, error_in_reply, status_error
from agentkit.models.openai.errors import CHAT_ERRORS

ENDPOINT = Endpoint(
    "m", "http://host/v1", CHAT_ERRORS, has_key=True, secrets=("sk-secret-key", "Bearer tok-12345", "tok-12345")
)

OVERFLOWS: dict[str, tuple[int, Any]] = {
    "OpenAI": (
        400,
        {
            "error": {
                "message": "This model's maximum context length is 8192 tokens. However, your messages resulted "
                "in 9001 tokens. Please reduce the length of the messages.",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "context_length_exceeded",
            }
        },
    ),
    "OpenAI, by its code alone": (400, {"error": {"message": "Too much.", "code": "context_length_exceeded"}}),
    "vLLM": (
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 16384 tokens. However, you requested 122946 tokens "
            "(112946 in the messages, 10000 in the completion).",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
    ),
    "vLLM, engine": (
        400,
        {
            "error": {
                "message": "The decoder prompt (length 21535) is longer than the maximum model length of 16384."
            }
        },
    ),
    "vLLM, older engine": (
        400,
        {"message": "The prompt (total length 25938) is too long to fit into the model (context length 4096)."},
    ),
    "llama.cpp": (
        400,
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size, try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 14429,
                "n_ctx": 8192,
            }
        },
    ),
    "llama.cpp, older": (
        500,
        {
            "error": {
                "code": 500,
                "message": "the request exceeds the available context size. try increasing the context size or "
                "enable context shift",
                "type": "server_error",
            }
        },
    ),
    "llama-cpp-python": (500, {"error": {"message": "Requested tokens (2285) exceed context window of 2048"}}),
    "SGLang": (
        400,
        {"message": "The input (9000 tokens) is longer than the model's context length (8192 tokens)."},
    ),
    "SGLang, with completion": (
        400,
        {"message": "Requested token count exceeds the model's maximum context length of 8192 tokens."},
    ),
    "TGI": (
        422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000",
            "error_type": "validation",
        },
    ),
    "LM Studio": (
        400,
        {
            "error": "Trying to keep the first 5000 tokens when context the overflows. However, the model is "
            "loaded with context length of only 4096 tokens."
        },
    ),
    "Anthropic": (
        400,
        {"error": {"type": "invalid_request_error", "message": "prompt is too long: 210000 tokens"}},
    ),
}


@pytest.mark.parametrize(("status_code", "body"), OVERFLOWS.values(), ids=OVERFLOWS.keys())
def test_context_overflow_is_recognised(status_code: int, body: Any) -> None:
    assert isinstance(status_error(ENDPOINT, status_code, json.dumps(body)), ContextWindowExceeded)
    assert isinstance(error_in_reply(ENDPOINT, {"error": body.get("error", body)}), ContextWindowExceeded)


@pytest.mark.parametrize(
    ("status_code", "message"),
    [
        (400, "max_tokens is too large: 9999. This model supports at most 4096 completion tokens."),
        (429, "Request too large for m on tokens per min (TPM): Limit 30000, Requested 40000."),
        (400, "Invalid schema for function 'context': maximum of 100 properties."),
        (413, "Payload Too Large"),
        (503, "maximum context length of the queue"),
    ],
)
def test_other_errors_are_no_overflow(status_code: int, message: str) -> None:
    error = status_error(ENDPOINT, status_code, json.dumps({"error": {"message": message}}))
    assert isinstance(error, ModelHTTPError)
    assert message in str(error)


@pytest.mark.parametrize(
    ("status_code", "body", "hint"),
    [
        (401, "", "a key was sent; give `api_key=`"),
        (403, "", "a key was sent; give `api_key=`"),
        (404, '{"error":{"message":"The model `m` does not exist"}}', "check the model's name and base_url"),
        (413, "", "too large for the server or a proxy"),
        (
            400,
            '{"error":{"message":"response_format json_schema is not supported"}}',
            "Dialect(output='json_object')",
        ),
        (400, "Use 'max_completion_tokens' instead.", "Dialect(max_tokens_field=...)"),
        (422, '{"detail":[{"loc":["body","stream_options"]}]}', "Dialect(include_usage=False)"),
        (400, "'parallel_tool_calls' is not supported", "ModelProfile(parallel_tool_calls=False)"),
    ],
)
def test_hints_say_what_to_change(status_code: int, body: str, hint: str) -> None:
    error = status_error(ENDPOINT, status_code, body)
    assert isinstance(error, ModelHTTPError)
    assert error.status_code == status_code
    assert error.retryable is False
    assert hint in str(error)


def test_without_a_key_the_hint_says_so() -> None:
    assert "no key was sent" in str(status_error(Endpoint("m", "http://host/v1", CHAT_ERRORS), 401, ""))


def test_a_redirect_names_its_target() -> None:
    error = status_error(ENDPOINT, 308, "", {"location": "https://elsewhere.example/v1"})
    assert "redirects (308) to 'https://elsewhere.example/v1'" in str(error)
    assert "to 'nowhere'" in str(status_error(ENDPOINT, 302, ""))


@pytest.mark.parametrize("status_code", [408, 409, 425, 429, 500, 502, 503])
def test_transient_statuses_are_retryable(status_code: int) -> None:
    assert status_error(ENDPOINT, status_code, "").retryable


def test_an_html_page_is_named_by_its_title() -> None:
    page = "<!DOCTYPE html>\n<html><head><title> 502 Bad Gateway </title></head><body>" + "x" * 9000
    error = status_error(ENDPOINT, 502, page)
    assert isinstance(error, ModelHTTPError)
    assert str(error) == "'m' at http://host/v1 answered 502: an HTML page, '502 Bad Gateway'"
    assert "an HTML page" in str(status_error(ENDPOINT, 502, "<html>"))


def test_long_bodies_are_cut() -> None:
    error = status_error(ENDPOINT, 500, "x" * 100_000)
    assert isinstance(error, ModelHTTPError)
    assert len(str(error)) < 2200
    assert len(error.body) < 2100


def test_secrets_that_the_server_repeats_are_blanked() -> None:
    body = json.dumps(
        {"error": {"message": "Incorrect API key provided: sk-secret-key. Header: Bearer tok-12345"}}
    )
    error = status_error(ENDPOINT, 401, body)
    assert isinstance(error, ModelHTTPError)
    assert "Incorrect API key provided: [secret]. Header: [secret]" in str(error)
    assert "secret-key" not in f"{error}{error.body}{ENDPOINT!r}"
    assert "tok-12345" not in f"{error}{error.body}{ENDPOINT!r}"
    assert "tok" not in str(status_error(ENDPOINT, 307, "", {"location": "http://x/?t=tok-12345"}))


@pytest.mark.parametrize(
    ("reply", "status_code", "retryable"),
    [
        ({"error": {"message": "boom", "code": 503}}, 503, True),
        ({"error": {"message": "boom", "code": "429"}}, 429, True),
        ({"error": {"message": "boom", "type": "server_error", "code": None}}, 500, True),
        ({"error": {"message": "boom", "type": "invalid_request_error", "code": 400}}, 400, False),
        ({"error": {"message": "boom", "type": "odd", "code": 7}}, 200, True),
        ({"error": "boom"}, 200, True),
        ({"error": ["boom"]}, 200, True),
        ({"object": "error", "message": "boom", "code": 400}, 400, False),
    ],
)
def test_an_error_in_a_reply_has_the_status_it_names(reply: Any, status_code: int, retryable: bool) -> None:
    error = error_in_reply(ENDPOINT, reply)
    assert isinstance(error, ModelHTTPError)
    assert (error.status_code, error.retryable) == (status_code, retryable)
    assert "boom" in str(error)


@pytest.mark.parametrize("reply", [{}, {"error": None}, {"error": ""}, [], "error", None])
def test_other_replies_have_no_error(reply: Any) -> None:
    assert error_in_reply(ENDPOINT, reply) is None


@pytest.mark.parametrize("body", ["", "null", "[]", "{", '[{"error": {"message": "in a list"}}]', "[" * 99_999])
def test_any_body_gives_an_error(body: str) -> None:
    assert isinstance(status_error(ENDPOINT, 500, body), ModelHTTPError)
