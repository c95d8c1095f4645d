"""Probes of the connection: reachability, models, protocols, errors, keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentkit.models.endpoint_check.findings import Finding
from agentkit.models.endpoint_check.probe import Known, Probe, ProbeRequest, Replies, chat, first, user
from agentkit.models.endpoint_check.replies import (
    NOT_THERE,
    ServerReply,
    at,
    chat_reply,
    count_at,
    list_at,
    sample_without_reply,
    shown,
    text_at,
)

_NO_MODEL = "agentkit-doctor-no-such-model"
_NO_FIELD = "agentkit_doctor_no_such_field"
_HELLO = "Reply with the one word: hello"
_WINDOW_FIELDS = (
    "max_model_len",
    "context_length",
    "context_window",
    "loaded_context_length",
    "max_context_length",
)
"""Fields of a listed model that hold its context window, in vLLM, OpenRouter, Groq and LM Studio."""
_PROTOCOLS = ("chat completions", "Responses", "Anthropic messages", "Gemini")
_MAX_NAMES = 4
"""Model names in a finding."""


def model_names(reply: ServerReply) -> list[str]:
    """Return the ids in a list of models."""
    names = [text_at(entry, "id") for entry in list_at(reply.body, "data")] if reply.is_ok else []
    return [name for name in names if name]


def _connection_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    return {"models": [ProbeRequest("models")], "props": [ProbeRequest("/props")]}


def _judge_connection(known: Known, replies: Replies) -> list[Finding]:
    models, props = first(replies, "models"), first(replies, "props")
    if not models.status:
        return [Finding("reachable", "reachable", "fails", models.error)]
    if 300 <= models.status < 400:
        target = shown(models.location) or "nowhere"
        detail = f"redirects to {target}; give that address, redirects are not followed"
        return [Finding("reachable", "reachable", "fails", detail)]
    reached = Finding("reachable", "reachable", "holds", models.connection)
    return [reached, _listed(known, models), _window(known, models, props)]


def _listed(known: Known, models: ServerReply) -> Finding:
    names = model_names(models)
    if not names:
        detail = f"{models.status}: {models.reported or 'no list of models'}"
        if models.status in NOT_THERE:
            detail += "; most base URLs end in /v1"
        return Finding("model list", "model list", "fails" if models.is_ok else "refused", detail)
    listed = ", ".join(map(shown, names[:_MAX_NAMES])) + (", …" if len(names) > _MAX_NAMES else "")
    if known.model and known.model not in names:
        return Finding("model list", "model list", "fails", f"{known.model!r} is not listed; listed: {listed}")
    return Finding("model list", "model list", "holds", listed, figures={"n_models": len(names)})


def _window(known: Known, models: ServerReply, props: ServerReply) -> Finding:
    """Read the window from `/props` (llama.cpp's server) or from the listed model."""
    title = "context window"
    served = count_at(props.body, "default_generation_settings", "n_ctx") if props.is_ok else None
    if served:
        return Finding(title, title, "holds", f"{served:,} tokens (/props)", figures={"context_window": served})
    for entry in list_at(models.body, "data"):
        if text_at(entry, "id") == known.model:
            for name in _WINDOW_FIELDS:
                if size := count_at(entry, name):
                    figures = {"context_window": size}
                    return Finding(title, title, "holds", f"{size:,} tokens ({name} of /models)", figures=figures)
            if trained := count_at(entry, "meta", "n_ctx_train"):
                return Finding(
                    title, title, "unknown", f"trained for {trained:,} tokens; what is served is not told"
                )
    return Finding(title, title, "unknown", "not reported")


CONNECTION = Probe("connection and models", _connection_requests, _judge_connection, is_vital=True)


def _protocol_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    model = known.model
    responses = {"model": model, "input": _HELLO, "max_output_tokens": 64, "store": False}
    messages = {"model": model, "max_tokens": 64, "messages": [user(_HELLO)]}
    gemini = {"contents": [{"role": "user", "parts": [{"text": _HELLO}]}]}
    return {
        "chat completions": [chat(known, _HELLO)],
        "Responses": [ProbeRequest("responses", responses)],
        "Anthropic messages": [ProbeRequest("messages", messages, protocol="anthropic")],
        "Gemini": [ProbeRequest(f"/v1beta/models/{model}:generateContent", gemini, protocol="gemini")],
    }


_FORMS: Mapping[str, Callable[[Any], bool]] = {
    "chat completions": lambda body: bool(list_at(body, "choices")),
    "Responses": lambda body: text_at(body, "object") == "response" or bool(list_at(body, "output")),
    "Anthropic messages": lambda body: text_at(body, "type") == "message",
    "Gemini": lambda body: bool(list_at(body, "candidates")),
}
"""Signs of each protocol in a successful body."""


def _judge_protocols(known: Known, replies: Replies) -> list[Finding]:
    return [_protocol(name, known.model, first(replies, name)) for name in _PROTOCOLS]


def _protocol(name: str, model: str, reply: ServerReply) -> Finding:
    id = f"protocol: {name}"
    if reply.is_ok:
        if _FORMS[name](reply.body):
            return Finding(id, id, "holds", f"answered after {reply.elapsed_s:.1f} s")
        return Finding(id, id, "fails", f"another form: {shown(reply.text) or reply.content_type or 'empty'}")
    if reply.status in NOT_THERE and not _names_model(reply, model):
        return Finding(id, id, "fails", f"not there ({reply.status})")
    sample = sample_without_reply(reply)
    return Finding(id, id, sample.verdict, sample.detail)


def _names_model(reply: ServerReply, model: str) -> bool:
    """Return whether a 404 is about the model: the path names it, too, so only a JSON error of the API counts."""
    said = text_at(reply.body, "error", "message")
    return bool(said) and model in said and "generateContent" not in said


PROTOCOLS = Probe("protocols", _protocol_requests, _judge_protocols)


def _error_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    right = chat(known, _HELLO, n_tokens=8)
    assert right.body is not None
    return {
        "wrong": [ProbeRequest(right.path, {**right.body, "messages": "this is no list"})],
        "model": [ProbeRequest(right.path, {**right.body, "model": _NO_MODEL})],
        "field": [ProbeRequest(right.path, {**right.body, _NO_FIELD: 1})],
        "key": [ProbeRequest(right.path, right.body, key="wrong")],
    }


def _judge_errors(known: Known, replies: Replies) -> list[Finding]:
    return [
        _wrong_request(first(replies, "wrong")),
        _unknown_model(first(replies, "model")),
        _unknown_field(first(replies, "field")),
        _wrong_key(first(replies, "key")),
    ]


def _wrong_request(reply: ServerReply) -> Finding:
    id = title = "errors"
    if not reply.status:
        return Finding(id, title, "unknown", reply.error)
    if reply.is_ok:
        return Finding(id, title, "ignored", "`messages` of a wrong type were accepted")
    if 200 <= reply.status < 300:
        return Finding(id, title, "fails", f"an error under status {reply.status}: {reply.reported}")
    if reply.status >= 500:
        return Finding(id, title, "fails", f"a wrong request gets {reply.status}, so it would be sent again")
    if not (text_at(reply.body, "error", "message") or at(reply.body, "detail")):
        return Finding(id, title, "fails", f"{reply.status} without `error.message`: {reply.reported}")
    return Finding(id, title, "holds", f"{reply.status} with a message")


def _unknown_model(reply: ServerReply) -> Finding:
    id = title = "unknown model"
    if reply.is_ok:
        detail = "another model answers for it" if chat_reply(reply) else "accepted"
        return Finding(id, title, "ignored", detail)
    if reply.status in (400, 404, 422):
        return Finding(id, title, "holds", f"refused with {reply.status}")
    return _undecided(id, reply)


def _unknown_field(reply: ServerReply) -> Finding:
    id = title = "unknown field"
    if reply.is_ok:
        return Finding(id, title, "ignored", "a misspelt setting has no effect and no error")
    if reply.is_refused:
        return Finding(id, title, "holds", f"refused with {reply.status}")
    return _undecided(id, reply)


def _wrong_key(reply: ServerReply) -> Finding:
    id = title = "wrong key"
    if reply.is_ok:
        return Finding(id, title, "ignored", "any key is accepted")
    if reply.status in (401, 403):
        return Finding(id, title, "holds", f"refused with {reply.status}")
    return _undecided(id, reply)


def _undecided(id: str, reply: ServerReply) -> Finding:
    return Finding(id, id, "unknown", reply.error or f"{reply.status}: {reply.reported}")


ERRORS = Probe("errors", _error_requests, _judge_errors)
