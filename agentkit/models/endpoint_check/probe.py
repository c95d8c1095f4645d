"""A probe: requests as data, and a pure function that judges the replies.

Where the outcome depends on the model's choice, three requests are sent. Each asks something else, because equal
requests get equal replies from many servers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from agentkit.models.endpoint_check.findings import Finding, Sample, Verdict
from agentkit.models.endpoint_check.replies import ChatReply, ServerReply, chat_reply, sample_without_reply

THINKING_TOKENS = 1024
"""Tokens added to the limit of a reply if the model thinks first."""


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """A request to the endpoint."""

    path: str
    """Path after the base URL; with "/" in front, after the server's root."""
    body: Mapping[str, Any] | None = None
    """JSON body; None: a GET request."""
    key: Literal["given", "wrong"] = "given"
    protocol: Literal["openai", "anthropic", "gemini"] = "openai"
    """Protocol whose header carries the key."""


@dataclass(frozen=True, slots=True)
class Known:
    """Facts about the endpoint that later probes rely on."""

    model: str
    token_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    findings: Mapping[str, Finding] = field(default_factory=dict[str, Finding])
    """Findings so far, by id."""

    def verdict(self, id: str) -> Verdict | None:
        """Return the verdict of a probe; None if it was not made."""
        finding = self.findings.get(id)
        return None if finding is None else finding.verdict

    def figure(self, id: str, name: str) -> Any:
        """Return a figure of a finding; None if there is none."""
        finding = self.findings.get(id)
        return None if finding is None else finding.figures.get(name)

    @property
    def thinks(self) -> bool:
        """Whether the model writes a thought before its answer."""
        return bool(self.figure("text", "thinks"))

    @property
    def context_window(self) -> int | None:
        """Context window in tokens, as the server reports it."""
        return self.figure("context window", "context_window")


Replies = Mapping[str, Sequence[ServerReply]]
"""Replies to each group of requests; a group may be shorter than asked after a refusal."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Requests, in named groups of samples, and the judge of their replies."""

    title: str
    requests: Callable[[Known], Mapping[str, Sequence[ProbeRequest]]]
    judge: Callable[[Known, Replies], Sequence[Finding]]
    needs: tuple[str, ...] = ()
    """Ids of findings that must not be refused for this probe to make sense."""
    is_vital: bool = False
    """Whether the check ends if a finding of this probe does not hold."""


def chat(known: Known, prompt: str | Sequence[Any], *, n_tokens: int = 64, **fields: Any) -> ProbeRequest:
    """Return a chat completion request for a prompt or a list of messages; None as a field leaves it out."""
    messages = [user(prompt)] if isinstance(prompt, str) else list(prompt)
    limit = {known.token_field: n_tokens + (THINKING_TOKENS if known.thinks else 0)}
    body = {"model": known.model, "messages": messages, **limit, **fields}
    return ProbeRequest("chat/completions", {name: value for name, value in body.items() if value is not None})


def user(content: Any) -> dict[str, Any]:
    """Return a user's message."""
    return {"role": "user", "content": content}


def system(content: str) -> dict[str, Any]:
    """Return a system message."""
    return {"role": "system", "content": content}


def samples(replies: Sequence[ServerReply], judge: Callable[[ChatReply], Sample]) -> list[Sample]:
    """Judge each reply that is a chat completion; the others tell why they are none."""
    read = [(reply, chat_reply(reply)) for reply in replies]
    return [sample_without_reply(reply) if chat is None else judge(chat) for reply, chat in read]


def first(replies: Replies, group: str) -> ServerReply:
    """Return the first reply of a group; an empty one if nothing was asked."""
    return replies[group][0] if replies.get(group) else ServerReply(error="not asked")
