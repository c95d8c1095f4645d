"""Facts of a provider that the suite needs: one class each, and a folder of recorded bodies.

A recording is the body of a reply, `CASE.json` (whole) or `CASE.sse` (streamed); a case may have both. What the
model makes of it stands in `CASE.expected.json`, as the part of a stored `ModelResponse` that is compared.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from chat_server import ChatServer, Reply, raw, stream

from agentkit.messages import BinaryContent, ModelMessage, ModelRequest, UserPromptPart
from agentkit.models.base import ModelRequestParameters, ModelSettings, OutputSchema
from agentkit.models.http.model import HTTPModel
from agentkit.tools.definition import ToolDefinition

ModelAt = Callable[..., HTTPModel]
"""Makes a model of a `ChatServer`; options are those of the model."""
FOLDER = Path(__file__).parent
KEY = "sk-suite-0123456789"
WEATHER = ToolDefinition(
    "get_weather",
    "Weather of a place.",
    {
        "type": "object",
        "properties": {"location": {"type": "string"}},
        "required": ["location"],
        "additionalProperties": False,
    },
)
TIME = ToolDefinition("get_time", "The time now.")
CONTACT = OutputSchema(
    "Contact",
    {
        "type": "object",
        "properties": {"name": {"type": "string"}, "email": {"type": "string"}},
        "required": ["name", "email"],
        "additionalProperties": False,
    },
)
PNG = BinaryContent(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
        "1f15c4890000000d49444154789c6360f8cf500f0003860180b2f4a6d00000000049454e44ae426082"
    ),
    "image/png",
    "dot.png",
)


@dataclass(frozen=True)
class Case:
    """A request whose replies are recorded for each provider."""

    prompt: str = "Hello"
    parameters: ModelRequestParameters = ModelRequestParameters()

    @property
    def messages(self) -> tuple[ModelMessage, ...]:
        return (ModelRequest((UserPromptPart(self.prompt),)),)


_ASK_WEATHER = ModelRequestParameters(tools=(WEATHER, TIME))
CASES: Mapping[str, Case] = {
    "text": Case(),
    "one_call": Case("What is the weather in San Francisco?", _ASK_WEATHER),
    "parallel_calls": Case("What is the weather in Paris, and what in London?", _ASK_WEATHER),
    "empty_arguments": Case("What time is it?", _ASK_WEATHER),
    "structured_output": Case("Jane Doe, jane@example.com", ModelRequestParameters(output=CONTACT)),
    "thinking": Case("What is the weather in San Francisco?", _ASK_WEATHER),
    "usage_cache": Case("Once more, with a long prompt."),
    "stop_length": Case("Count.", ModelRequestParameters(settings=ModelSettings(max_tokens=5))),
    "refusal": Case("Something that the model must not do."),
}
"""Cases that every provider has, unless its class says why not (`missing`)."""
ERRORS = ("error_401", "error_404", "error_429", "error_500", "error_overloaded", "context_overflow")
"""Recorded bodies of error statuses (`CASE.json`)."""


@dataclass(frozen=True)
class Recording:
    """A recorded body of a reply with status 200."""

    file: Path

    @property
    def case(self) -> str:
        return self.file.stem

    @property
    def is_stream(self) -> bool:
        return self.file.suffix == ".sse"

    @property
    def content(self) -> bytes:
        return self.file.read_bytes()

    @property
    def events(self) -> list[bytes]:
        """The events of a stream, each with its empty line."""
        return [event + b"\n\n" for event in self.content.split(b"\n\n") if event.strip()]

    @property
    def expected(self) -> dict[str, Any]:
        return json.loads(self.file.with_name(f"{self.case}.expected.json").read_text())

    @property
    def reply(self) -> Reply:
        return stream([self.content]) if self.is_stream else raw(self.content)


def origin_of(server: ChatServer) -> str:
    """Return the address of a server without a path."""
    return server.base_url.removesuffix("/v1")


class ProviderProtocol(ABC):
    """A provider's protocol, as the suite uses it."""

    name: ClassVar[str]
    """Name of the folder of recordings."""
    provider: ClassVar[str]
    """`Model.provider`, under which signatures are kept."""
    key_header: ClassVar[str]
    """Header that carries the key, in lower case."""
    key_variable: ClassVar[str]
    """Environment variable that the error of a missing key names."""
    paths: ClassVar[frozenset[str]]
    """Paths that requests go to, with their queries."""
    statuses: ClassVar[Mapping[str, int]]
    """Status of `context_overflow`, of `error_overloaded`, and of `error_in_stream` as its error reports it."""
    has_end_event: ClassVar[bool] = True
    """A stream has a last event, after which nothing more is read."""
    missing: ClassVar[Mapping[str, str]] = {}
    """Cases that the protocol does not have, with the reason."""
    extra: ClassVar[Mapping[str, Case]] = {}
    """Cases of this protocol alone."""

    @abstractmethod
    def model(self, origin: str, **options: Any) -> HTTPModel:
        """Return a model of the server at `origin` (http://HOST:PORT), with KEY unless `options` say otherwise."""

    @abstractmethod
    def check_body(self, body: Any) -> None:
        """Validate a request's body against the types of the provider's own package."""

    @abstractmethod
    def signatures(self, body: Any) -> list[str]:
        """Return the signatures of earlier thoughts and calls in a body, as parts of our messages keep them."""

    @abstractmethod
    def files(self, body: Any) -> list[str]:
        """Return the base64 text of the files in a body, in order."""

    @abstractmethod
    def official_text(self, origin: str, *, streamed: bool) -> str:
        """Return the text that the provider's own package reads from the server."""

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    @property
    def cases(self) -> Mapping[str, Case]:
        return {**{name: case for name, case in CASES.items() if name not in self.missing}, **self.extra}

    def recordings(self, case: str) -> list[Recording]:
        """Return the recordings of a case, whole and streamed."""
        files = [self.folder / f"{case}{suffix}" for suffix in (".json", ".sse")]
        return [Recording(file) for file in files if file.exists()]

    @property
    def streamed_text(self) -> Recording:
        """The streamed reply from which broken ones are made."""
        return Recording(self.folder / "text.sse")

    def body_of(self, error: str) -> bytes:
        """Return the recorded body of an error."""
        return (self.folder / f"{error}.json").read_bytes()

    def status_of(self, error: str) -> int:
        """Return the status of a recorded error."""
        return self.statuses[error] if error in self.statuses else int(error.rpartition("_")[2])
