"""Advice from the findings: whether an agent can run, and the line that makes the model that suits.

Only what was seen changes a default of `Dialect` and `ModelProfile`; what could not be told stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from agentkit.models.base import ModelProfile
from agentkit.models.endpoint_check.findings import WORDS, Finding
from agentkit.models.openai.messages import Dialect

OTHER_CLASSES: Mapping[str, str] = {
    "Responses": "OpenAIResponsesModel",
    "Anthropic messages": "AnthropicModel",
    "Gemini": "GeminiModel",
}
"""Model class of each protocol beside chat completions."""

_CONSEQUENCES: Mapping[str, str] = {
    "stream": "Text reaches the user only when the reply is complete; `idle_timeout_s` must allow for it.",
    "end of stream": "A reply that is cut off cannot always be told from a complete one.",
    "usage in stream": "Streamed runs count no tokens, so `UsageLimits` on tokens do not bind there.",
    "usage": "Token counts, costs and `UsageLimits` on tokens are wrong.",
    "system prompt": "Instructions are not reliably followed; rules that matter belong into guardrails.",
    "Unicode": "Text beyond ASCII arrives broken.",
    "call arguments": "Malformed calls are validated and sent back to the model, which costs further requests.",
    "call ids": "agentkit gives such calls ids of its own.",
    "finish_reason of calls": "agentkit reads calls in spite of the finish reason; other clients may drop them.",
    "calls in streams": "Use the agent without streaming where tools matter.",
    "tool results": "The model does not use the results of tools; choose another model or chat template.",
    "tool_choice required": '`tool_choice="required"` is a wish here: the first answer may be text.',
    "tool_choice none": '`tool_choice="none"` is a wish here: calls may come, which agentkit refuses.',
    "parallel calls": "Each call takes a request of its own.",
    "strict arguments": "Arguments may break the schema; they are validated, and the model is asked again.",
    "json_schema": "The schema of an answer is not enforced: it stands in the prompt, and answers are validated.",
    "calls beside a schema": "A schema would forbid calls, so it is sent only when no tool may be called.",
    "schema beside tools": "A schema is not enforced beside tools, so the prompt holds it there.",
    "stop": "Stop texts have no effect; cut the text yourself.",
    "temperature 0": "Equal requests get different replies; tests need recorded replies.",
    "cached tokens": "Nothing is reported as cached: a long conversation may be computed anew at each step.",
    "images": "Pictures do not reach the model.",
    "context overflow": "A conversation that is too long is not recognised as one, so nothing shortens it.",
    "errors": "Errors of the server are not told in OpenAI's form; messages may be unclear.",
    "unknown model": "A misspelt model name is not noticed.",
}
"""Consequence of a finding that does not hold, for an agent."""
_CODE_CHARS = 60
"""Characters of a call on one line, beside `    profile=` within 80."""
_ALARMING = ("fails", "ignored", "refused")
_OPTIONAL = frozenset({"images", "unknown model"})
"""Findings that few agents need: they are told beside the table only if they are ignored silently."""


@dataclass(frozen=True, slots=True)
class Advice:
    """Summary of a check."""

    can_run: bool
    """Whether an agent with tools can run."""
    reasons: tuple[str, ...]
    """Reasons why none can; empty if one can."""
    consequences: tuple[str, ...]
    dialect: Dialect
    profile: ModelProfile
    code: str
    """Python that makes the model; "" if none suits."""


def advice_of(
    findings: Sequence[Finding], *, model: str, base_url: str, key_variable: str | None, is_openai: bool = False
) -> Advice:
    """Return the advice that follows from the findings.

    Args:
        findings: Findings of a check, complete or not.
        model: Name of the model on the server.
        base_url: Address that was checked.
        key_variable: Environment variable of the key; None if none was sent.
        is_openai: Whether the host is OpenAI's, whose token limit has another name.
    """
    known = {finding.id: finding for finding in findings}
    dialect, profile = _dialect(known, is_openai), _profile(known)
    reasons = _reasons(known)
    can_run = not reasons
    code = _code(dialect, profile, model, base_url, key_variable) if _holds(known, "text") else ""
    if not code:
        code = _other_code(known, model, base_url, key_variable)
    return Advice(can_run, reasons, _consequences(findings), dialect, profile, code)


def _holds(known: Mapping[str, Finding], id: str) -> bool:
    return id in known and known[id].holds


def _verdict(known: Mapping[str, Finding], id: str) -> str:
    return known[id].verdict if id in known else "unknown"


def _reasons(known: Mapping[str, Finding]) -> tuple[str, ...]:
    """Return what keeps an agent with tools from running."""
    if not _holds(known, "reachable"):
        return ("the endpoint was not reached.",) if "reachable" in known else ("nothing was checked.",)
    if _verdict(known, "protocol: chat completions") == "fails":
        others = [name for name in OTHER_CLASSES if _holds(known, f"protocol: {name}")]
        return (f"it speaks no chat completions{', but ' + ' and '.join(others) if others else ''}.",)
    if not _holds(known, "text"):
        return ("it gives no text." if "text" in known else "no text was asked for yet.",)
    if "tool calls" not in known:
        return ("tools were not checked yet.",)
    n_calls = sum(known[id].n_held or 0 for id in ("tool calls", "tool_choice required") if id in known)
    if not n_calls:
        return (f"it makes no tool calls ({WORDS[known['tool calls'].verdict]}: {known['tool calls'].detail}).",)
    if known.get("call arguments") is not None and known["call arguments"].n_held == 0:
        return ("the arguments of its calls are never valid.",)
    if _verdict(known, "tool results") == "refused":
        return ("a conversation with the result of a tool is refused.",)
    return ()


def _consequences(findings: Sequence[Finding]) -> tuple[str, ...]:
    told = [
        _CONSEQUENCES[finding.id]
        for finding in findings
        if finding.id in _CONSEQUENCES
        and finding.verdict in _ALARMING
        and not (finding.id in _OPTIONAL and finding.verdict != "ignored")
    ]
    return tuple(dict.fromkeys(told))


def _dialect(known: Mapping[str, Finding], is_openai: bool) -> Dialect:
    output = "json_schema"
    if _verdict(known, "json_schema") in _ALARMING:
        output = "json_object" if _holds(known, "json_object") else "prompt"
    both = ("calls beside a schema", "schema beside tools")
    return Dialect(
        output=output,
        output_with_tools=all(_verdict(known, id) not in _ALARMING for id in both) or output == "prompt",
        max_tokens_field=_token_field(known, is_openai),
        include_usage=_verdict(known, "usage in stream") != "refused",
    )


def _token_field(known: Mapping[str, Finding], is_openai: bool) -> Any:
    """Return the name of the token limit if it is not the one that the model class would choose."""
    usual, other = "max_tokens", "max_completion_tokens"
    if is_openai:
        usual, other = other, usual
    return other if not _holds(known, usual) and _holds(known, other) else None


def _profile(known: Mapping[str, Finding]) -> ModelProfile:
    window = known["context window"].figures.get("context_window") if "context window" in known else None
    return ModelProfile(
        logprobs=_holds(known, "logprobs of calls"),
        prefix_cache=_holds(known, "cached tokens"),
        context_window=window,
        parallel_tool_calls="refused"
        not in {_verdict(known, id) for id in ("parallel calls", "one call at a time")},
        native_output=_verdict(known, "json_schema") not in _ALARMING,
    )


def changed_fields(value: Dialect | ModelProfile) -> dict[str, Any]:
    """Return the fields whose value is not the default."""
    default = type(value)()
    return {
        field.name: getattr(value, field.name)
        for field in fields(value)
        if getattr(value, field.name) != getattr(default, field.name)
    }


def as_data(advice: Advice) -> dict[str, Any]:
    """Return the advice as JSON-able data."""
    return {**asdict(advice), "reasons": list(advice.reasons), "consequences": list(advice.consequences)}


def _code(dialect: Dialect, profile: ModelProfile, model: str, base_url: str, key_variable: str | None) -> str:
    more = [f"profile={_call('ModelProfile', changed_fields(profile), indent=4)},"]
    if changed := changed_fields(dialect):
        more.insert(0, f"dialect={_call('Dialect', changed, indent=4)},")
    return _made("OpenAICompatibleModel", model, base_url, key_variable, more)


def _other_code(known: Mapping[str, Finding], model: str, base_url: str, key_variable: str | None) -> str:
    """Return the line for a server that speaks another protocol than chat completions."""
    for protocol, name in OTHER_CLASSES.items():
        if _holds(known, f"protocol: {protocol}"):
            return _made(name, model, _address(name, base_url), key_variable, ())
    return ""


def _address(name: str, base_url: str) -> str:
    """Return the address in the form that a model class wants."""
    before_version = base_url.removesuffix("/v1").removesuffix("/v1beta")
    match name:
        case "AnthropicModel":
            return before_version
        case "GeminiModel":
            return f"{before_version}/v1beta"
        case _:
            return base_url


def _made(name: str, model: str, base_url: str, key_variable: str | None, more: Sequence[str]) -> str:
    key = '""' if key_variable is None else f"os.environ[{_literal(key_variable)}]"
    lines = [f"{_literal(model)},", f"base_url={_literal(base_url)},", f"api_key={key},", *more]
    return f"{name}(\n" + "".join(f"    {line}\n" for line in lines) + ")"


def _call(name: str, values: Mapping[str, Any], *, indent: int) -> str:
    """Return a call on one line; an argument a line if that is wider than a terminal."""
    arguments = [f"{key}={_literal(value)}" for key, value in values.items()]
    line = f"{name}({', '.join(arguments)})"
    if len(line) <= _CODE_CHARS:
        return line
    return f"{name}(\n" + "".join(f"{' ' * (indent + 4)}{each},\n" for each in arguments) + " " * indent + ")"


def _literal(value: Any) -> str:
    """Return a value as Python; text in double quotes, its control characters escaped."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
