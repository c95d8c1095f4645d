"""Runs the probes in order, under one deadline; findings are kept as they come, so an interruption loses none.

The order goes from what everything depends on to what only some agents need, and ends early if nothing answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import anyio

from agentkit.errors import UserError
from agentkit.models.endpoint_check import (
    answer_probes,
    connection_probes,
    content_probes,
    text_probes,
    tool_probes,
)
from agentkit.models.endpoint_check.findings import Finding
from agentkit.models.endpoint_check.probe import Known, Probe, ProbeRequest
from agentkit.models.endpoint_check.replies import ServerReply, shown

MAX_LOST = 3
"""Requests in a row without any response after which the server counts as gone."""
_MAX_LISTED = 8
"""Model names in the error that asks for one."""
_NO_NAMES = "the server lists no models, so the model's name is not known"
_GIVE_NAME = "give it as --model NAME."

PROBES = (
    text_probes.LIMITS,
    text_probes.TEXT,
    text_probes.STREAM,
    text_probes.USAGE,
    text_probes.SYSTEM,
    text_probes.UNICODE,
    tool_probes.CALLS,
    tool_probes.CHOICES,
    tool_probes.STREAMED_CALLS,
    tool_probes.RESULTS,
    tool_probes.PARALLEL,
    tool_probes.STRICT,
    answer_probes.SCHEMA,
    answer_probes.OBJECT,
    answer_probes.BOTH,
    text_probes.STOP,
    text_probes.SAMPLING,
    text_probes.LOGPROBS,
    tool_probes.CALL_LOGPROBS,
    content_probes.CACHE,
    content_probes.IMAGES,
    content_probes.OVERFLOW,
    connection_probes.ERRORS,
)
"""Probes of chat completions, in order."""

End = Literal["complete", "stopped", "deadline", "lost", "interrupted"]
"""Reason why a check ended. "stopped": a probe that everything depends on did not hold. "lost": the server no
longer answered. "interrupted" also stands while the check runs, so that it is true whenever the check is cut."""


async def _not_connected(request: ProbeRequest) -> ServerReply:
    return ServerReply(error="no connection was given")


@dataclass(slots=True)
class EndpointCheck:
    """A check of one endpoint; `findings` grows while it runs."""

    model: str = ""
    """Name of the model on the server; "": the only one that it lists."""
    total_s: float = 900.0
    """Seconds of the whole check."""
    send: Callable[[ProbeRequest], Awaitable[ServerReply]] = _not_connected
    """Sends a request; `Sender.send`, or a double in tests."""
    on_probe: Callable[[str], None] = lambda title: None
    """Called with the title of each probe before it is made."""
    is_openai: bool = False
    """Whether the host is OpenAI's, whose newer models take only `max_completion_tokens`."""
    findings: list[Finding] = field(default_factory=list[Finding])
    end: End = "interrupted"
    n_requests: int = 0
    _n_lost: int = 0

    async def run(self) -> None:
        """Make the probes.

        Raises:
            UserError: the server lists several models, or none, and no name was given.
        """
        with anyio.move_on_after(self.total_s) as scope:
            self.end = await self._run()
        if scope.cancelled_caught:
            self.end = "deadline"

    async def _run(self) -> End:
        known = Known(self.model, token_field="max_completion_tokens" if self.is_openai else "max_tokens")
        if (ended := await self._connect(known)) is not None:
            return ended
        known = replace(known, model=self.model)
        known = await self._made(connection_probes.PROTOCOLS, known)
        if known.verdict("protocol: chat completions") == "fails":
            return "stopped"
        for probe in PROBES:
            if self._n_lost >= MAX_LOST:
                return "lost"
            known = await self._made(probe, known)
            if probe is text_probes.LIMITS:
                known = _with_token_field(known)
            if probe.is_vital and any(not finding.holds for finding in self.findings[-1:]):
                return "stopped"
        return "complete"

    async def _connect(self, known: Known) -> End | None:
        """Look at connection and models, and find the model's name; return the reason to end, or None."""
        probe = connection_probes.CONNECTION
        self.on_probe(probe.title)
        replies = await self._replies(probe.requests(known))
        if not self.model and replies["models"][0].is_ok:
            self.model = _only_model(connection_probes.model_names(replies["models"][0]))
        elif not self.model and replies["models"][0].status:
            raise UserError(f"{_NO_NAMES} (status {replies['models'][0].status} at /models); {_GIVE_NAME}")
        self.findings += probe.judge(replace(known, model=self.model), replies)
        return None if self.findings[0].holds else "stopped"

    async def _made(self, probe: Probe, known: Known) -> Known:
        """Make a probe, and return what is known then."""
        self.on_probe(probe.title)
        if useless := [id for id in probe.needs if known.verdict(id) in ("refused", None)]:
            detail = f"not asked: {useless[0]} is refused"
            found: Sequence[Finding] = [Finding(probe.title, probe.title, "unknown", detail)]
        else:
            found = probe.judge(known, await self._replies(probe.requests(known)))
        self.findings += found
        return replace(known, findings={**known.findings, **{finding.id: finding for finding in self.findings}})

    async def _replies(self, groups: Mapping[str, Sequence[ProbeRequest]]) -> dict[str, list[ServerReply]]:
        """Ask all groups; a group ends at a refusal, which asking again would not change."""
        replies: dict[str, list[ServerReply]] = {}
        for group, requests in groups.items():
            replies[group] = []
            for request in requests:
                reply = await self.send(request)
                self.n_requests += 1
                self._n_lost = 0 if reply.status else self._n_lost + 1
                replies[group].append(reply)
                if reply.is_refused or self._n_lost >= MAX_LOST:
                    break
        return replies


def _only_model(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    if not names:
        raise UserError(f"{_NO_NAMES}; {_GIVE_NAME}")
    listed = ", ".join(shown(name, 60) for name in names[:_MAX_LISTED])
    more = f" and {len(names) - _MAX_LISTED:,} more" if len(names) > _MAX_LISTED else ""
    raise UserError(f"the server lists {len(names):,} models: {listed}{more}; choose one with --model NAME.")


def _with_token_field(known: Known) -> Known:
    """Choose the name of the token limit that works; the usual one if both or none do."""
    holds = [name for name in ("max_tokens", "max_completion_tokens") if known.verdict(name) == "holds"]
    if known.token_field in holds or not holds:
        accepted = [name for name in ("max_tokens", "max_completion_tokens") if known.verdict(name) != "refused"]
        holds = [known.token_field] if known.token_field in (holds or accepted) else accepted
    if not holds:
        return known
    return replace(known, token_field="max_tokens" if holds[0] == "max_tokens" else "max_completion_tokens")
