"""Probes of structured answers: schemas that the model would not follow by itself, alone and beside tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentkit.models.endpoint_check.findings import Finding, Sample, counted
from agentkit.models.endpoint_check.probe import Known, Probe, ProbeRequest, Replies, chat, samples
from agentkit.models.endpoint_check.replies import ChatReply, json_object, shown
from agentkit.models.endpoint_check.tool_probes import (
    CALL_TOKENS,
    CITIES,
    TIME,
    WEATHER,
    called,
    weather_question,
)

_QUESTIONS = ("Is the sky blue?", "Is ice cold?", "Is the number seven odd?")
_NONSENSE: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "verdict": {"type": "string", "enum": ["blorf", "quindle", "zaxu"]},
        "weight": {"type": "integer"},
    },
    "required": ["verdict", "weight"],
    "additionalProperties": False,
}
"""Schema that is in no prompt, so that only the server can make a reply follow it."""
SCHEMA_FORMAT: Mapping[str, Any] = {
    "type": "json_schema",
    "json_schema": {"name": "judgement", "strict": True, "schema": _NONSENSE},
}


def follows(chat: ChatReply) -> Sample:
    """Judge whether an answer follows the schema."""
    from agentkit.tools.json_schema import compile_schema

    found = json_object(chat.text)
    if found is None:
        if chat.finish_reason == "length":
            return Sample("fails", f"the answer was cut: {shown(chat.text, 50)!r}")
        what = "a call instead of an answer" if chat.calls else shown(chat.text, 60)
        return Sample("ignored", f"no JSON object: {what!r}")
    if compile_schema(_NONSENSE, name="judgement").problems(found):
        return Sample("fails", f"JSON, but not of the schema: {shown(chat.text, 60)!r}")
    return Sample("holds")


def _schema_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    loose = {"type": "json_schema", "json_schema": {"name": "judgement", "schema": _NONSENSE}}
    return {
        "strict": [chat(known, text, response_format=SCHEMA_FORMAT) for text in _QUESTIONS],
        "loose": [chat(known, _QUESTIONS[0], response_format=loose)],
    }


def _judge_schema(known: Known, replies: Replies) -> list[Finding]:
    strict = counted("json_schema", "json_schema", samples(replies["strict"], follows), detail="enforced")
    loose = samples(replies["loose"], follows)[0] if replies.get("loose") else Sample("unknown")
    detail = loose.detail or "enforced without `strict`, too"
    return [strict, Finding("json_schema without strict", "… without strict", loose.verdict, detail)]


SCHEMA = Probe("json_schema", _schema_requests, _judge_schema)


def _object_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    # OpenAI refuses json_object unless the prompt has the word JSON; the model is not asked to write it.
    asked = [f"{question} Say yes or no. (The program that reads this logs JSON.)" for question in _QUESTIONS]
    return {"object": [chat(known, text, response_format={"type": "json_object"}) for text in asked]}


def _judge_object(known: Known, replies: Replies) -> list[Finding]:
    def is_object(chat: ChatReply) -> Sample:
        if json_object(chat.text) is not None:
            return Sample("holds")
        if chat.finish_reason == "length" and chat.text.lstrip().startswith("{"):
            return Sample("unknown", "JSON that the token limit cut")
        return Sample("ignored", f"no JSON object: {shown(chat.text, 60)!r}")

    return [counted("json_object", "json_object", samples(replies["object"], is_object), detail="enforced")]


OBJECT = Probe("json_object", _object_requests, _judge_object)


def _both_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    fields: dict[str, Any] = {"tools": [WEATHER, TIME], "response_format": SCHEMA_FORMAT, "n_tokens": CALL_TOKENS}
    return {
        "call": [chat(known, weather_question(city), **fields) for city in CITIES],
        "answer": [chat(known, text, **fields) for text in _QUESTIONS],
    }


def _judge_both(known: Known, replies: Replies) -> list[Finding]:
    calls = counted("calls beside a schema", "calls beside a schema", samples(replies["call"], called))
    n_alone = known.findings["tool calls"].n_held
    if calls.n_held == 0 and not n_alone and calls.verdict == "fails":
        detail = "the model does not call by itself without a schema either"
        calls = Finding(calls.id, calls.title, "unknown", detail, 0, calls.n_asked)

    def answered(chat: ChatReply) -> Sample:
        return Sample("unknown", "the model called a tool") if chat.calls else follows(chat)

    answers = samples(replies["answer"], answered)
    return [calls, counted("schema beside tools", "schema beside tools", answers, detail="enforced")]


BOTH = Probe("schema and tools", _both_requests, _judge_both, needs=("tool calls", "json_schema"))
