"""A model behind an HTTP API: its configuration, its connections, and the attempts at a request.

A provider is a subclass with four methods and a few class attributes; it adds no I/O. `errors` turns failures into
typed errors, `exchange` makes one attempt, `attempts` repeats it, `http_clients` holds the connections.
"""

from __future__ import annotations

import json
import logging
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict, cast

import anyio
from pydantic import SecretStr

from agentkit.errors import ModelTimeout, UserError
from agentkit.messages import ModelMessage, ModelResponse
from agentkit.models.base import (
    Model,
    ModelProfile,
    ModelRequestParameters,
    ModelSettings,
    OnDelta,
    check_model_requests_allowed,
)
from agentkit.models.http.attempts import Attempts
from agentkit.models.http.credentials import (
    KEY_HEADERS,
    checked_key,
    checked_url,
    environment_key,
    request_headers,
    secrets_of,
)
from agentkit.models.http.errors import Endpoint, ErrorFormat
from agentkit.models.http.exchange import HTTPExchange, HTTPRequest
from agentkit.models.http.http_clients import LoopClients
from agentkit.models.http.reply import ReplyBuilder
from agentkit.models.retries import Backoff

if TYPE_CHECKING:
    import httpx


logger = logging.getLogger(__name__)


class HTTPOptions(TypedDict, total=False):
    """Arguments that every provider's model passes on to `HTTPModel`."""

    api_key: str | None
    """Sent as the provider wants it, "" for none. Default: the environment's, over https or to loopback only."""
    headers: Mapping[str, str] | None
    """Further headers; they take precedence, and their values are kept out of errors like the key."""
    timeout_s: float
    """Longest wait for a reply to begin, retries and waits included, and for each further piece of it. Keep-alive
    signs are not pieces. A reply that continues may take any time."""
    idle_timeout_s: float
    """Longest silence within a reply that has begun."""
    connect_timeout_s: float
    """Time to connect, for each attempt."""
    max_retries: int
    """Further attempts after transient failures before anything was delivered."""
    backoff: Backoff | None
    """Waits between attempts."""
    http_client: httpx.AsyncClient | None
    """The application's own client, for its proxies, certificates or transport. It is not closed, belongs to one
    event loop, and redirects are not followed with it either."""


class HTTPModel(Model):
    """A model behind an HTTP server; serves concurrent requests and several event loops.

    Inside `async with model:` connections are kept and shared; outside, each request opens its own.
    """

    key_variables: ClassVar[tuple[str, ...]]
    """Environment variables of the key, in order of precedence."""
    errors: ClassVar[ErrorFormat]
    """How the provider reports errors."""

    def __init__(
        self,
        model_name: str,
        *,
        base_url: str,
        settings: ModelSettings = ModelSettings(),
        profile: ModelProfile = ModelProfile(),
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 120.0,
        idle_timeout_s: float = 60.0,
        connect_timeout_s: float = 10.0,
        max_retries: int = 3,
        backoff: Backoff | None = None,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        """Configure the model; nothing is opened or imported yet.

        Args:
            model_name: The name of the model on the server.
            base_url: The address before the provider's paths, without credentials or a query.
            settings: Defaults that a request's own settings override.
            profile: Capabilities of the model.
            api_key: This and the other arguments are described in `HTTPOptions`.
            headers: See there.
            timeout_s: See there.
            idle_timeout_s: See there.
            connect_timeout_s: See there.
            max_retries: See there.
            backoff: See there.
            http_client: See there.

        Raises:
            UserError: the address, the key or a header cannot be used.
        """
        self._model_name = model_name
        self._base_url = checked_url(base_url)
        key = checked_key(api_key) if api_key is not None else environment_key(self._base_url, self.key_variables)
        sent = request_headers(self._key_headers(key) if key else {}, {**self._fixed_headers(), **(headers or {})})
        self._headers = {name: SecretStr(value) for name, value in sent.items()}
        self._endpoint = Endpoint(
            model_name,
            self._base_url,
            self.errors,
            has_key=not KEY_HEADERS.isdisjoint(sent),
            secrets=secrets_of(key, headers or {}),
        )
        self._settings = settings
        self._profile = profile
        self._timeout_s = timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._max_retries = max_retries
        self._backoff = backoff or Backoff()
        self._clients = LoopClients(self._base_url, http_client)
        self._logged: frozenset[str] = frozenset()
        """Names of settings that were left out, and logged."""

    # -- what a provider gives ---------------------------------------------------------------------------------

    def _key_headers(self, key: str) -> Mapping[str, str]:
        """Return the headers that carry the key; by default as a bearer token."""
        return {"authorization": f"Bearer {key}"}

    def _fixed_headers(self) -> Mapping[str, str]:
        """Return further headers that the provider demands, such as a version."""
        return {}

    def _streams(self, *, has_listener: bool) -> bool:
        """Return whether to request an event stream; by default if there is a listener for deltas."""
        return has_listener

    def _left_out(self, settings: ModelSettings) -> Collection[str]:
        """Return the names of the settings for sampling that the model does not take.

        They are not sent, and logged once: a setting that suits one model of an application must not stop another.
        """
        return ()

    @abstractmethod
    def _path(self, *, stream: bool) -> str:
        """Return what follows the base address, beginning with a slash; may hold a query, never the key."""

    @abstractmethod
    def _body(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        settings: ModelSettings,
        *,
        stream: bool,
    ) -> dict[str, Any]:
        """Return the JSON body of a request. `settings` are merged already; ignore `parameters.settings`.

        Raises:
            UserError: the request cannot be expressed.
        """

    @abstractmethod
    def _new_reply(self, messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ReplyBuilder:
        """Return an empty reply; called for each attempt."""

    # -- what all providers share ------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name of the model on the server."""
        return self._model_name

    @property
    @abstractmethod
    def provider(self) -> str:
        """The provider in OpenTelemetry's terms; signatures of thoughts and calls are kept under this name."""

    @property
    def base_url(self) -> str:
        """The address before the provider's paths."""
        return self._base_url

    @property
    def profile(self) -> ModelProfile:
        """Capabilities of the model, as configured."""
        return self._profile

    def __repr__(self) -> str:
        """Name the model and its address; never the key."""
        return f"{type(self).__name__}({self._model_name!r}, base_url={self._base_url!r})"

    async def __aenter__(self) -> Self:
        """Open this event loop's connections, or join those that are open."""
        await self._clients.acquire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close this event loop's connections when their last user leaves."""
        await self._clients.release()

    async def request(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        *,
        on_delta: OnDelta | None = None,
    ) -> ModelResponse:
        """Continue `messages`; streams if `on_delta` is given or the provider requires it.

        Raises:
            ModelTimeout: the total or idle deadline passed.
            ModelConnectionError: the server was not reached, or the reply was cut off.
            ModelHTTPError: the server answered, or reported within its reply, an error.
            ContextWindowExceeded: the conversation is too long for the model.
            UnexpectedModelBehavior: the reply is not one of the provider's protocol, or exceeds a bound.
            UserError: the request cannot be expressed, or requests are blocked.
        """
        check_model_requests_allowed(self)
        settings = self._sendable(self._settings.merged(parameters.settings))
        stream = self._streams(has_listener=on_delta is not None)
        request = HTTPRequest(
            url=self._base_url + self._path(stream=stream),
            headers={
                "accept": "text/event-stream" if stream else "application/json",
                **{name: value.get_secret_value() for name, value in self._headers.items()},
            },
            content=_encoded(self._body(messages, parameters, settings, stream=stream)),
            connect_timeout_s=self._connect_timeout_s,
            idle_timeout_s=self._idle_timeout_s,
        )
        timeout_s = settings.timeout_s if settings.timeout_s is not None else self._timeout_s
        scope = anyio.CancelScope(deadline=anyio.current_time() + timeout_s)

        def go_on() -> None:
            scope.deadline = anyio.current_time() + timeout_s

        def new_exchange() -> HTTPExchange:
            reply = self._new_reply(messages, parameters)
            return HTTPExchange(self._endpoint, reply, on_delta, self._backoff.now, go_on)

        attempts = Attempts(new_exchange, self._max_retries, self._backoff)
        with scope:
            async with self._clients.borrowed() as client:
                return await attempts.run(client, request, scope)
        raise ModelTimeout(
            f"{self._model_name!r} at {self._base_url} did not go on within {timeout_s:g} s (timeout_s), "
            f"{attempts.progress}."
        ) from attempts.last_error

    def _sendable(self, settings: ModelSettings) -> ModelSettings:
        """Return the settings without those that the model does not take."""
        given = [name for name in self._left_out(settings) if getattr(settings, name) is not None]
        if not given:
            return settings
        if new := [name for name in given if name not in self._logged]:
            self._logged = self._logged.union(new)
            logger.warning("%s does not take %s; not sent", self._model_name, ", ".join(sorted(new)))
        return replace(settings, **dict.fromkeys(given))


def used_call_ids(messages: Sequence[ModelMessage]) -> frozenset[str]:
    """Return the ids of the calls in a conversation, which a new call must not repeat."""
    return frozenset(call.tool_call_id for m in messages if isinstance(m, ModelResponse) for call in m.tool_calls)


def _encoded(body: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain_mapping)
    except (TypeError, ValueError) as error:
        raise UserError(f"a tool's schema, the settings or extra_body hold what JSON cannot: {error}") from error
    return text.encode("utf-8", "replace")


def _plain_mapping(value: object) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, Any]", value))
    raise TypeError(f"{type(value).__name__} is not JSON-able")
