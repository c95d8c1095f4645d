"""Probes of tool calls: whether the model calls, in which form, and which guarantees of the request hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentkit.models.endpoint_check.findings import Finding, Sample, counted
from agentkit.models.endpoint_check.probe import Known, Probe, ProbeRequest, Replies, chat, samples, system, user
from agentkit.models.endpoint_check.replies import (
    Call,
    ChatReply,
    ServerReply,
    at,
    chat_reply,
    list_at,
    sample_without_reply,
    shown,
)

CITIES = ("Paris", "Oslo", "Lima")
_SYSTEM = system("You are a helpful assistant with tools. Call a tool whenever one can answer the request.")
CALL_TOKENS = 160
"""Limit of a reply with a call: two short calls and their markers."""
CALL_IDS = ("tool calls", "tool_choice required")
"""Findings that show that calls are possible at all."""


def function_of(name: str, description: str, properties: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return a tool whose arguments are all required, and closed."""
    schema = {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": schema, **more},
    }


WEATHER = function_of(
    "get_weather",
    "Get the current weather of a city.",
    {
        "city": {"type": "string", "description": "Name of the city"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
    },
)
TIME = function_of("get_time", "Get the current time in a city.", {"city": {"type": "string"}})
_MODE = function_of(
    "set_mode",
    "Set the mode of the machine.",
    {"mode": {"type": "string", "enum": ["blorf", "quindle", "zaxu"]}},
    strict=True,
)
_TOOLS = {"get_weather": WEATHER, "get_time": TIME, "set_mode": _MODE}


def weather_question(city: str) -> list[dict[str, Any]]:
    """Return a conversation that asks for the weather of a city."""
    return [_SYSTEM, user(f"What is the weather in {city} right now, in celsius?")]


def fault_of(call: Call) -> str:
    """Return why a call cannot be executed as it is; "" if it can."""
    from agentkit.tools.json_schema import compile_schema

    if call.name not in _TOOLS:
        return f"a tool {shown(call.name, 40)!r} was not offered"
    if call.parsed is None:
        return f"arguments {shown(call.arguments, 60)!r} are not a JSON object"
    schema = _TOOLS[call.name]["function"]["parameters"]
    problems = compile_schema(schema, name=call.name).problems(call.parsed)
    return f"arguments {shown(call.arguments, 60)!r}: {shown(problems[0], 80)}" if problems else ""


def in_text(text: str) -> bool:
    """Return whether a text holds what should have been a call."""
    return "<tool_call" in text or "get_weather" in text or "get_time" in text


def called(chat: ChatReply) -> Sample:
    """Judge whether a reply has a call."""
    if chat.calls:
        return Sample("holds")
    if in_text(chat.text):
        return Sample("fails", f"the call stands in the text: {shown(chat.text, 60)!r}")
    return Sample("fails", f"answered {shown(chat.text, 60)!r}" if chat.text else "no call and no text")


def _weather_requests(known: Known, **fields: Any) -> list[ProbeRequest]:
    return [
        chat(known, weather_question(city), n_tokens=CALL_TOKENS, tools=[WEATHER, TIME], **fields)
        for city in CITIES
    ]


# -- calls by the model's own choice --------------------------------------------------------------------------


def _call_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    return {"auto": _weather_requests(known)}


def _judge_calls(known: Known, replies: Replies) -> list[Finding]:
    found = counted("tool calls", "tool calls", samples(replies["auto"], called))
    return [found, *_forms(replies["auto"], "")]


def _forms(replies: Sequence[ServerReply], where: str) -> list[Finding]:
    """Judge arguments, finish reasons and ids of the replies that have calls."""
    chats = [chat for reply in replies if (chat := chat_reply(reply)) and chat.calls]
    faults = [
        Sample("fails" if fault else "holds", fault) for chat in chats for fault in map(fault_of, chat.calls)
    ]
    reasons = [_reason(chat) for chat in chats]
    ids = [
        Sample("holds" if _ids_are_distinct(c) else "fails", "ids of calls are missing or equal") for c in chats
    ]
    return [
        counted(f"call arguments{where}", f"call arguments{where}", faults, detail="valid under the schema"),
        counted(f"finish_reason of calls{where}", f"finish_reason{where}", reasons, detail="'tool_calls'"),
        *([] if where else [counted("call ids", "call ids", ids)]),
    ]


def _reason(chat: ChatReply) -> Sample:
    if chat.finish_reason == "length":
        return Sample("unknown", "the token limit cut a call")
    held = chat.finish_reason == "tool_calls"
    return Sample("holds" if held else "fails", f"{chat.finish_reason!r} beside calls")


def _ids_are_distinct(chat: ChatReply) -> bool:
    ids = [call.id for call in chat.calls]
    return all(ids) and len(set(ids)) == len(ids)


CALLS = Probe("tool calls", _call_requests, _judge_calls)


def _stream_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    # `required` also makes a model call that rarely does by itself; it is left out where it is refused.
    choice = None if known.verdict("tool_choice required") == "refused" else "required"
    return {"streamed": _weather_requests(known, stream=True, tool_choice=choice)}


def _judge_stream(known: Known, replies: Replies) -> list[Finding]:
    def joined(chat: ChatReply) -> Sample:
        sample = called(chat)
        faults = [fault for call in chat.calls if (fault := fault_of(call))]
        return Sample("fails", faults[0]) if faults else sample

    found = counted("calls in streams", "calls in streams", samples(replies["streamed"], joined))
    n_pieces = [
        sum(bool(list_at(event.data, "choices", 0, "delta", "tool_calls")) for event in reply.events)
        for reply in replies["streamed"]
        if reply.is_stream
    ]
    if found.holds and n_pieces:
        detail = f"{found.detail}: joined from {min(n_pieces)} to {max(n_pieces)} pieces"
        found = Finding(found.id, found.title, found.verdict, detail, found.n_held, found.n_asked)
    return [found, *_forms(replies["streamed"], " in streams")[1:]]


STREAMED_CALLS = Probe("calls in streams", _stream_requests, _judge_stream, needs=("tool calls",))


# -- results --------------------------------------------------------------------------------------------------


def _result_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    return {
        "result": [
            chat(known, conversation_with_result(city, degrees), tools=[WEATHER, TIME], n_tokens=96)
            for city, degrees in zip(CITIES, _DEGREES, strict=True)
        ]
    }


_DEGREES = (17, 23, 31)


def conversation_with_result(city: str, degrees: int) -> list[dict[str, Any]]:
    """Return a conversation in which the tool has answered."""
    arguments = f'{{"city": "{city}", "unit": "celsius"}}'
    function = {"name": "get_weather", "arguments": arguments}
    call = {"id": f"call_{degrees}", "type": "function", "function": function}
    return [
        *weather_question(city),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": f"call_{degrees}", "content": f"{degrees} degrees celsius, cloudy"},
    ]


def _judge_results(known: Known, replies: Replies) -> list[Finding]:
    judged: list[Sample] = []
    for reply, degrees in zip(replies["result"], _DEGREES, strict=False):
        chat = chat_reply(reply)
        if chat is None:
            judged.append(sample_without_reply(reply))
        elif str(degrees) in chat.text:
            judged.append(Sample("holds"))
        else:
            what = f"called {chat.calls[0].name!r} again" if chat.calls else f"answered {shown(chat.text, 50)!r}"
            judged.append(Sample("fails", what))
    accepted = any(chat_reply(reply) for reply in replies["result"])
    found = counted("tool results", "tool results", judged, detail="the answer has the result")
    return [_with_figures(found, accepted=accepted)]


def _with_figures(finding: Finding, **figures: Any) -> Finding:
    return Finding(
        finding.id, finding.title, finding.verdict, finding.detail, finding.n_held, finding.n_asked, figures
    )


RESULTS = Probe("tool results", _result_requests, _judge_results, needs=("tool calls",))


# -- tool_choice ----------------------------------------------------------------------------------------------


def _choice_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    unfitting = ("How much is two plus three?", "Say good morning.", "Name a colour.")
    named = {"type": "function", "function": {"name": "get_time"}}
    tools = [WEATHER, TIME]
    return {
        "required": [
            chat(known, text, n_tokens=CALL_TOKENS, tools=tools, tool_choice="required") for text in unfitting
        ],
        "none": _weather_requests(known, tool_choice="none"),
        "named": _weather_requests(known, tool_choice=named),
    }


def _judge_choices(known: Known, replies: Replies) -> list[Finding]:
    def required(chat: ChatReply) -> Sample:
        if not chat.calls:
            return Sample("ignored", called(chat).detail)
        faults = [fault for call in chat.calls if (fault := fault_of(call))]
        return Sample("fails", faults[0]) if faults else Sample("holds")

    def none(chat: ChatReply) -> Sample:
        if chat.calls:
            return Sample("ignored", f"called {shown(chat.calls[0].name, 40)!r}")
        if "<tool_call" in chat.text or '"name"' in chat.text:
            return Sample("fails", f"the call stands in the text: {shown(chat.text, 50)!r}")
        return Sample("holds")

    def named(chat: ChatReply) -> Sample:
        names = {call.name for call in chat.calls}
        if names == {"get_time"}:
            return Sample("holds")
        other = ", ".join(sorted(names - {"get_time"}))
        return Sample("ignored", f"called {shown(other, 40)!r}" if other else called(chat).detail)

    found = [
        counted("tool_choice required", "tool_choice required", samples(replies["required"], required)),
        counted("tool_choice none", "tool_choice none", samples(replies["none"], none)),
        counted("tool_choice named", "tool_choice: a tool", samples(replies["named"], named)),
    ]
    if found[1].holds and known.findings["tool calls"].n_held == 0:
        detail = "the model does not call by itself either"
        found[1] = Finding(found[1].id, found[1].title, "unknown", detail, found[1].n_held, found[1].n_asked)
    return found


CHOICES = Probe("tool_choice", _choice_requests, _judge_choices, needs=("tool calls",))


# -- parallel calls, strict -----------------------------------------------------------------------------------


def _parallel_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    asked = (
        "What is the weather in Paris and in Oslo right now, in celsius? Call the tool for both at once.",
        "Compare the current weather of Lima, Oslo and Rome in celsius. Call the tool once for each city.",
        "Get the weather of Cairo in celsius and the time in Tokyo. Call both tools now.",
    )
    tools = [WEATHER, TIME]
    several, single = (
        [
            chat(known, [_SYSTEM, user(text)], n_tokens=2 * CALL_TOKENS, tools=tools, parallel_tool_calls=flag)
            for text in asked
        ]
        for flag in (True, False)
    )
    return {"several": several, "single": single}


def _judge_parallel(known: Known, replies: Replies) -> list[Finding]:
    def several(chat: ChatReply) -> Sample:
        n_calls = len(chat.calls)
        return Sample(
            "holds" if n_calls > 1 else "fails", "one call at a time" if n_calls else called(chat).detail
        )

    def single(chat: ChatReply) -> Sample:
        return Sample("holds" if len(chat.calls) <= 1 else "ignored", f"{len(chat.calls)} calls in one reply")

    together = counted("parallel calls", "parallel calls", samples(replies["several"], several))
    alone = counted("one call at a time", "parallel_tool_calls=false", samples(replies["single"], single))
    if alone.holds and not together.n_held:
        detail = "the model makes one call at a time in any case"
        alone = Finding(alone.id, alone.title, "unknown", detail, alone.n_held, alone.n_asked)
    return [together, alone]


PARALLEL = Probe("parallel calls", _parallel_requests, _judge_parallel, needs=("tool calls",))


def _strict_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    choice = "required" if known.verdict("tool_choice required") in ("holds", "fails") else None
    asked = ("Set the mode to 'turbo'.", "Set the mode to 'quiet'.", "Set the mode to 'eco'.")
    return {
        "strict": [
            chat(known, [_SYSTEM, user(text)], n_tokens=CALL_TOKENS, tools=[_MODE], tool_choice=choice)
            for text in asked
        ]
    }


def _judge_strict(known: Known, replies: Replies) -> list[Finding]:
    def enforced(chat: ChatReply) -> Sample:
        if not chat.calls:
            return Sample("unknown", "the model did not call")
        arguments = chat.calls[0].parsed
        if not fault_of(chat.calls[0]):
            return Sample("holds")
        return Sample("ignored", f"mode {at(arguments, 'mode')!r} is not in the schema's enum")

    return [counted("strict arguments", "strict arguments", samples(replies["strict"], enforced))]


STRICT = Probe("strict arguments", _strict_requests, _judge_strict, needs=("tool calls",))


def _logprob_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    return {"calls": _weather_requests(known, logprobs=True)}


def _judge_logprobs(known: Known, replies: Replies) -> list[Finding]:
    from agentkit.models.local.tool_probability import opening_call_probability

    def has_probability(chat: ChatReply) -> Sample:
        if not chat.calls:
            return Sample("unknown", "the model did not call")
        name, n_tokens = chat.calls[0].name, chat.completion_tokens or 0
        if opening_call_probability(chat.logprobs, name, n_tokens) is not None:
            return Sample("holds")
        return Sample("ignored", f"{len(chat.logprobs)} tokens for a call of {n_tokens}")

    id = "logprobs of calls"
    return [counted(id, id, samples(replies["calls"], has_probability), detail="calls have a probability")]


CALL_LOGPROBS = Probe("logprobs of calls", _logprob_requests, _judge_logprobs, needs=("tool calls", "logprobs"))
