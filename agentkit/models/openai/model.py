"""Any server that speaks OpenAI's chat completions: vLLM, llama.cpp, Ollama, SGLang, LM Studio, gateways, OpenAI.

Chat completions are the one interface that all of them have. Other modules hold the parts: `openai_messages`
(request body), `openai_exchange` (one attempt), `openai_reply` (reply), `openai_errors`, `retries`,
`http_clients`. This module is the model itself: its configuration, and the attempts under one deadline.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import urlsplit

import anyio
from pydantic import SecretStr

from agentkit.errors import ModelError, ModelTimeout, UserError
from agentkit.messages import ModelMessage, ModelResponse
from agentkit.models.base import (
    Model,
    ModelProfile,
    ModelRequestParameters,
    ModelSettings,
    OnDelta,
    check_model_requests_allowed,
)
from agentkit.models.openai.errors import Endpoint
from agentkit.models.openai.exchange import ChatExchange, ChatRequest
from agentkit.models.openai.http_clients import LoopClients, is_loopback
from agentkit.models.openai.messages import OPENAI, Dialect, chat_body
from agentkit.models.openai.reply import ReplyBuilder
from agentkit.models.providers import provider_of
from agentkit.models.retries import Backoff, worth_retrying

if TYPE_CHECKING:
    import httpx

_KEY_HEADERS = frozenset({"authorization", "api-key", "x-api-key"})
API_KEY_VARIABLE = "OPENAI_API_KEY"
OPENAI_HOST = "api.openai.com"
"""Host of OpenAI's API; regional hosts are its subdomains, such as `eu.api.openai.com`."""
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class OpenAICompatibleModel(Model):
    """A model behind an HTTP server with OpenAI's chat completions; serves concurrent requests and several loops.

    Inside `async with model:` connections are kept and shared; outside, each request opens its own.
    """

    def __init__(
        self,
        model_name: str,
        *,
        base_url: str = "http://127.0.0.1:8080/v1",
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        settings: ModelSettings = ModelSettings(),
        profile: ModelProfile | None = None,
        dialect: Dialect = OPENAI,
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
            base_url: The address before `/chat/completions`, without credentials or a query.
            api_key: Sent as a bearer token, "" for none. Default: OPENAI_API_KEY, over https or to loopback only.
            headers: Further headers; they take precedence, and their values are kept out of errors like the key.
            settings: Defaults that a request's own settings override.
            profile: Capabilities of the model; by default parallel calls, and native output if the dialect has it.
            dialect: How the server differs from OpenAI's.
            timeout_s: Longest wait for a reply to begin, retries and waits included, and for each further piece of
                it. Keep-alive signs are not pieces. A reply that continues may take any time.
            idle_timeout_s: Longest silence within a reply that has begun.
            connect_timeout_s: Time to connect, for each attempt.
            max_retries: Further attempts after transient failures before anything was delivered.
            backoff: Waits between attempts.
            http_client: The application's own client, for its proxies, certificates or transport. It is not
                closed, belongs to one event loop, and redirects are not followed with it either.

        Raises:
            UserError: the address, the key or a header cannot be used.
        """
        self._model_name = model_name
        self._base_url = _checked_url(base_url)
        key = _checked_key(api_key) if api_key is not None else _environment_key(self._base_url)
        sent = _request_headers(key, headers or {})
        self._headers = {name: SecretStr(value) for name, value in sent.items()}
        self._endpoint = Endpoint(
            model_name,
            self._base_url,
            has_key=not _KEY_HEADERS.isdisjoint(sent),
            secrets=_secrets(key, headers or {}),
        )
        self._settings = settings
        self._profile = profile or ModelProfile(native_output=dialect.output == "json_schema")
        self._dialect = _with_token_limit(dialect, self._base_url)
        self._timeout_s = timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._max_retries = max_retries
        self._backoff = backoff or Backoff()
        self._clients = LoopClients(self._base_url, http_client)

    @property
    def name(self) -> str:
        """The name of the model on the server."""
        return self._model_name

    @property
    def provider(self) -> str:
        """The provider that the address belongs to; "openai" if it is not known."""
        return provider_of(self._base_url)

    @property
    def profile(self) -> ModelProfile:
        """Capabilities of the model, as configured."""
        return self._profile

    def __repr__(self) -> str:
        """Name the model and its address; never the key."""
        return f"OpenAICompatibleModel({self._model_name!r}, base_url={self._base_url!r})"

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
        """Continue `messages`; streams if `on_delta` is given or the dialect requires it.

        Raises:
            ModelTimeout: the total or idle deadline passed.
            ModelConnectionError: the server was not reached, or the reply was cut off.
            ModelHTTPError: the server answered, or reported within its reply, an error.
            ContextWindowExceeded: the conversation is too long for the model.
            UnexpectedModelBehavior: the reply is not a chat completion, or exceeds a bound.
            UserError: the request cannot be expressed, or requests are blocked.
        """
        check_model_requests_allowed(self)
        settings = self._settings.merged(parameters.settings)
        stream = on_delta is not None or self._dialect.always_stream
        body = chat_body(
            self._model_name,
            messages,
            parameters,
            settings=settings,
            profile=self._profile,
            dialect=self._dialect,
            stream=stream,
        )
        request = ChatRequest(
            url=f"{self._base_url}/chat/completions",
            headers={
                "accept": "text/event-stream" if stream else "application/json",
                **{name: value.get_secret_value() for name, value in self._headers.items()},
            },
            content=_encoded(body),
            connect_timeout_s=self._connect_timeout_s,
            idle_timeout_s=self._idle_timeout_s,
        )
        tool_names = frozenset(tool.name for tool in parameters.tools)
        used_ids = _used_ids(messages)
        timeout_s = settings.timeout_s if settings.timeout_s is not None else self._timeout_s

        scope = anyio.CancelScope(deadline=anyio.current_time() + timeout_s)

        def go_on() -> None:
            scope.deadline = anyio.current_time() + timeout_s

        def new_exchange() -> ChatExchange:
            reply = ReplyBuilder(tool_names, used_ids)
            return ChatExchange(self._endpoint, reply, on_delta, self._backoff.now, go_on)

        attempts = _Attempts(new_exchange, self._max_retries, self._backoff)
        with scope:
            async with self._clients.borrowed() as client:
                return await attempts.run(client, request, scope)
        raise ModelTimeout(
            f"{self._model_name!r} at {self._base_url} did not go on within {timeout_s:g} s (timeout_s), "
            f"{attempts.progress}."
        ) from attempts.last_error


class _Attempts:
    """The attempts at one request."""

    def __init__(self, new_exchange: Callable[[], ChatExchange], max_retries: int, backoff: Backoff) -> None:
        self._new_exchange = new_exchange
        self._max_retries = max_retries
        self._backoff = backoff
        self._exchange: ChatExchange | None = None
        self._n_attempts = 0
        self.last_error: ModelError | None = None

    @property
    def progress(self) -> str:
        """Progress of the last attempt, as the end of a sentence."""
        if self._exchange is None:
            return "before the request was sent"
        return f"{self._exchange.progress} (attempt {self._n_attempts})"

    async def run(
        self, client: httpx.AsyncClient, request: ChatRequest, scope: anyio.CancelScope
    ) -> ModelResponse:
        """Try until an attempt succeeds, or fails for good; `scope` has the deadline."""
        while True:
            self._exchange = self._new_exchange()
            self._n_attempts += 1
            try:
                return await self._exchange.run(client, request)
            except ModelError as error:
                delay_s = self._delay_s(self._exchange, error, scope.deadline)
                if delay_s is None:
                    if self._n_attempts > 1:
                        error.add_note(f"This was attempt {self._n_attempts}.")
                    raise
                self.last_error = error
            await self._backoff.sleep(delay_s)

    def _delay_s(self, exchange: ChatExchange, error: ModelError, deadline: float) -> float | None:
        """Return the seconds before the next attempt; None if there is none, also for lack of time."""
        if exchange.delivered or self._n_attempts > self._max_retries or not worth_retrying(error):
            return None
        delay_s = self._backoff.delay_s(self._n_attempts, exchange.retry_after_s)
        return delay_s if anyio.current_time() + delay_s < deadline else None


def _with_token_limit(dialect: Dialect, base_url: str) -> Dialect:
    if dialect.max_tokens_field is not None:
        return dialect
    host = urlsplit(base_url).hostname or ""
    is_openai = host == OPENAI_HOST or host.endswith(f".{OPENAI_HOST}")
    return replace(dialect, max_tokens_field="max_completion_tokens" if is_openai else "max_tokens")


def _checked_url(base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable, parts = False, urlsplit("")
    if not usable or re.search(r"[\s\\\x00-\x1f\x7f]", base_url):
        raise UserError(f"base_url={base_url!r} is no http or https address, such as 'http://127.0.0.1:8080/v1'.")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise UserError(
            "base_url may hold no credentials, query or fragment: give the key as `api_key=`, other values as "
            "`headers=`."
        )
    return base_url.rstrip("/")


def _checked_key(key: str) -> str | None:
    key = key.strip()
    if key and not re.fullmatch(r"[\x21-\x7e]+", key):
        raise UserError("the API key has characters that no HTTP header can carry; was more copied than the key?")
    return key or None


def _environment_key(base_url: str) -> str | None:
    """Return the environment's key, except for a remote host over plain HTTP, where others could read it."""
    if urlsplit(base_url).scheme != "https" and not is_loopback(base_url):
        return None
    return _checked_key(os.environ.get(API_KEY_VARIABLE, ""))


def _request_headers(key: str | None, given: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of every request, in lower case. A compressed reply would escape the bounds on bytes."""
    headers = {"content-type": "application/json", "accept-encoding": "identity", "user-agent": "agentkit"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    for name, value in given.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise UserError(f"the header {name!r} has a name or a value that HTTP does not allow.")
        headers[name.lower()] = value
    return headers


def _secrets(key: str | None, headers: Mapping[str, str]) -> tuple[str, ...]:
    """Return the texts that errors must not show: the key and header values, also without scheme ("Bearer")."""
    values = [*headers.values(), *(value.split()[-1] for value in headers.values())]
    return tuple(dict.fromkeys([key, *values] if key else values))


def _used_ids(messages: Sequence[ModelMessage]) -> frozenset[str]:
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
