"""An endpoint that does everything right, with a model that follows rules, and that can be told to lie.

A lie is one of `LIES`. `running` serves it over HTTP on loopback, which divides a stream as the network does.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import threading
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from agentkit.models.endpoint_check.advice import Advice, advice_of
from agentkit.models.endpoint_check.checking import EndpointCheck
from agentkit.models.endpoint_check.sending import Sender
from agentkit.models.http.http_clients import LoopClients

MODEL = "honest-1"
KEY = "sk-pretended-0123456789"
WINDOW = 4096
LIES = (
    "tool_choice is ignored",
    "one call at a time",
    "parallel_tool_calls is ignored",
    "calls stand in the text",
    "tools are refused",
    "finish_reason is stop beside calls",
    "call ids are equal",
    "arguments are no JSON",
    "arguments break the schema",
    "usage is zero",
    "usage does not grow",
    "no usage in streams",
    "stream_options is refused",
    "streams come in one lump",
    "streams are not streamed",
    "no DONE",
    "the schema is ignored",
    "the schema is broken",
    "json_schema is refused",
    "no calls beside a schema",
    "json_object is ignored",
    "images are ignored",
    "images are refused",
    "long prompts are truncated",
    "overflow is a strange error",
    "stop is ignored",
    "max_tokens is ignored",
    "max_tokens is refused",
    "replies are random",
    "logprobs are left out",
    "system prompts are dropped",
    "characters are broken",
    "results are not read",
    "results are refused",
    "errors have no form",
    "errors are 500",
    "any model answers",
    "any key is accepted",
    "unknown fields are ignored",
    "nothing is cached",
    "no text",
    "the key is repeated",
    "models are not listed",
)
_FIELDS = {
    "model",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "stream",
    "stream_options",
    "temperature",
    "seed",
    "stop",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "logprobs",
}
_BOATS = ("Heron", "Plover", "Curlew", "Dunlin", "Avocet")


class Refusal(Exception):
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class PretendedEndpoint:
    """The endpoint; `lies` may be changed between requests."""

    def __init__(self, key: str | None = None) -> None:
        self.key = key
        self.lies: set[str] = set()
        self.url = ""
        self.bodies: list[Any] = []
        self.is_hanging = threading.Event()
        self._n_replies = 0

    def asgi(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )

    async def _models(self, request: Request) -> Response:
        if "models are not listed" in self.lies:
            return PlainTextResponse("Not Found", 404)
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "max_model_len": WINDOW}]})

    async def _chat(self, request: Request) -> Response:
        try:
            return await self._answered(request)
        except Refusal as refusal:
            if "errors have no form" in self.lies:
                return PlainTextResponse("bad request", refusal.status)
            status = 500 if "errors are 500" in self.lies else refusal.status
            error = {"message": str(refusal), "type": "invalid_request_error", "code": refusal.code}
            return JSONResponse({"error": error}, status)

    async def _answered(self, request: Request) -> Response:
        sent_key = request.headers.get("authorization", "")
        if self.key and sent_key != f"Bearer {self.key}" and "any key is accepted" not in self.lies:
            raise Refusal(401, f"the key {sent_key!r} is wrong")
        body = json.loads(await request.body())
        self.bodies.append(body)
        if "tools" in body and "it hangs at tools" in self.lies:
            self.is_hanging.set()
            await asyncio.sleep(60)
        self._check(body)
        message, reason, usage = self._reply(body)
        if body.get("stream") and "streams are not streamed" not in self.lies:
            return StreamingResponse(self._events(body, message, reason, usage), media_type="text/event-stream")
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": reason}
        if body.get("logprobs") and "logprobs are left out" not in self.lies:
            choice["logprobs"] = {"content": _logprobs(message)}
        return JSONResponse(
            {"id": "c", "object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage}
        )

    def _check(self, body: Any) -> None:
        if body.get("model") != MODEL and "any model answers" not in self.lies:
            raise Refusal(404, "there is no such model here", "model_not_found")
        if not isinstance(body.get("messages"), list):
            raise Refusal(400, "`messages` is no list")
        if (unknown := body.keys() - _FIELDS) and "unknown fields are ignored" not in self.lies:
            raise Refusal(400, f"unknown: {', '.join(unknown)}")
        refused = {
            "max_tokens is refused": "max_tokens" in body,
            "stream_options is refused": "stream_options" in body,
            "tools are refused": "tools" in body,
            "results are refused": body["messages"][-1]["role"] == "tool",
            "json_schema is refused": _format(body) == "json_schema",
            "images are refused": "image_url" in json.dumps(body["messages"]),
        }
        for lie, is_asked in refused.items():
            if is_asked and lie in self.lies:
                raise Refusal(400, lie)
        if _n_tokens(body["messages"]) > WINDOW and "long prompts are truncated" not in self.lies:
            if "overflow is a strange error" in self.lies:
                raise Refusal(500, "internal error")
            raise Refusal(400, "This model's maximum context length is 4096", "context_length_exceeded")

    # -- the model ----------------------------------------------------------------------------------------------

    def _reply(self, body: Any) -> tuple[dict[str, Any], str, Any]:
        self._n_replies += 1
        calls = self._calls(body)
        text = "" if calls else self._text(body)
        if calls and "calls stand in the text" in self.lies:
            written = [{"name": c["function"]["name"], "arguments": c["function"]["arguments"]} for c in calls]
            calls, text = [], "<tool_call>" + json.dumps(written[0]) + "</tool_call>"
        text, reason = self._cut(body, text)
        message: dict[str, Any] = {"role": "assistant", "content": text if not calls else None}
        if calls:
            message["tool_calls"] = calls
            reason = "stop" if "finish_reason is stop beside calls" in self.lies else "tool_calls"
        return message, reason, self._usage(body, message)

    def _calls(self, body: Any) -> list[dict[str, Any]]:
        tools = {tool["function"]["name"]: tool["function"] for tool in body.get("tools", ())}
        choice = body.get("tool_choice", "auto") if "tool_choice is ignored" not in self.lies else "auto"
        last = body["messages"][-1]
        if not tools or choice == "none" or (last["role"] == "tool" and "results are not read" not in self.lies):
            return []
        if _format(body) and "no calls beside a schema" in self.lies:
            return []
        asked = next(m["content"] for m in reversed(body["messages"]) if m["role"] == "user")
        wanted = self._wanted(asked, tools)
        if isinstance(choice, dict):
            wanted = [(choice["function"]["name"], "Paris")]
        elif choice == "required" and not wanted:
            wanted = [(next(iter(tools)), "Paris")]
        one = not body.get("parallel_tool_calls", True) and "parallel_tool_calls is ignored" not in self.lies
        if one or "one call at a time" in self.lies:
            wanted = wanted[:1]
        return [self._call(tools[name], city, number) for number, (name, city) in enumerate(wanted)]

    def _wanted(self, asked: str, tools: Any) -> list[tuple[str, str]]:
        cities = re.findall(r"\b(Paris|Oslo|Lima|Rome|Cairo|Tokyo)\b", asked)
        if "set_mode" in tools:
            return [("set_mode", "")]
        if "time in Tokyo" in asked:
            return [("get_weather", "Cairo"), ("get_time", "Tokyo")]
        return [("get_weather", city) for city in cities] if "weather" in asked else []

    def _call(self, tool: Any, city: str, number: int) -> dict[str, Any]:
        broken = "arguments break the schema" in self.lies
        values = {"city": city, "unit": "kelvin" if broken else "celsius", "mode": "turbo" if broken else "zaxu"}
        names = tool["parameters"]["properties"]
        arguments = json.dumps({name: values[name] for name in names} | ({"more": 1} if broken else {}))
        if "arguments are no JSON" in self.lies:
            arguments = arguments[:-1]
        id = "call_1" if "call ids are equal" in self.lies else f"call_{self._n_replies}_{number}"
        return {"id": id, "type": "function", "function": {"name": tool["name"], "arguments": arguments}}

    def _text(self, body: Any) -> str:
        if "no text" in self.lies:
            return ""
        if (kind := _format(body)) and (found := self._formatted(body, kind)) is not None:
            return found
        last = body["messages"][-1]
        content = last["content"]
        if isinstance(content, list):
            return self._seen(content)
        if last["role"] == "tool":
            return f"It is {content}."
        if code := re.search(r"code word of today is '(\w+)'", json.dumps(body["messages"])):
            return "I know no word." if "system prompts are dropped" in self.lies else code[1]
        if repeated := re.search("nothing else: (.*)", content):
            return repeated[1].encode().decode("latin-1") if "characters are broken" in self.lies else repeated[1]
        if content.startswith("Count from"):
            return ", ".join(map(str, range(1, 31)))
        if "boat" in content and "Invent" in content:
            return f"The {_BOATS[self._drawn(body) % len(_BOATS)]}, since it floats."
        if "the key is repeated" in self.lies:
            return f"The key is {self.key}."
        return "Yellow, I would say."

    def _formatted(self, body: Any, kind: str) -> str | None:
        if kind == "json_object":
            return None if "json_object is ignored" in self.lies else '{"answer": "yes"}'
        if "the schema is ignored" in self.lies:
            return None
        if "the schema is broken" in self.lies:
            return '{"verdict": "yes"}'
        names = body["response_format"]["json_schema"]["schema"]["properties"]
        return json.dumps({"verdict": names["verdict"]["enum"][1], "weight": 3})

    def _seen(self, parts: Any) -> str:
        if len(parts) == 1 or "images are ignored" in self.lies:
            return "red"
        png = base64.b64decode(parts[1]["image_url"]["url"].partition(",")[2])
        start = png.index(b"IDAT") + 4
        pixel = zlib.decompressobj().decompress(png[start:])[1:4]
        return ("red", "green", "blue")[max(range(3), key=pixel.__getitem__)]

    def _drawn(self, body: Any) -> int:
        if "replies are random" in self.lies:
            return self._n_replies
        if not body.get("temperature", 1):
            return 0
        return int.from_bytes(hashlib.sha256(str(body.get("seed", self._n_replies)).encode()).digest()[:4], "big")

    def _cut(self, body: Any, text: str) -> tuple[str, str]:
        for stop in body.get("stop", ()) if "stop is ignored" not in self.lies else ():
            text = text.partition(stop)[0]
        limit = body.get("max_tokens", body.get("max_completion_tokens", 10_000))
        tokens = _tokens(text)
        if len(tokens) <= limit or "max_tokens is ignored" in self.lies:
            return text, "stop"
        return "".join(tokens[:limit]), "length"

    def _usage(self, body: Any, message: dict[str, Any]) -> Any:
        if "usage is zero" in self.lies:
            return {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        messages = body["messages"]
        if "images are ignored" in self.lies:
            messages = [
                {**m, "content": m["content"][:1]} if isinstance(m["content"], list) else m for m in messages
            ]
        n_prompt = 30 if "usage does not grow" in self.lies else _n_tokens(messages)
        if "long prompts are truncated" in self.lies:
            n_prompt = min(n_prompt, WINDOW)
        n_reply = _n_reply(message)
        again = body in self.bodies[:-1] and "nothing is cached" not in self.lies
        return {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_reply,
            "total_tokens": n_prompt + n_reply,
            "prompt_tokens_details": {"cached_tokens": n_prompt - 1 if again else 0},
        }

    # -- streams ------------------------------------------------------------------------------------------------

    async def _events(self, body: Any, message: Any, reason: str, usage: Any) -> AsyncIterator[bytes]:
        tokens = _tokens(message["content"] or "")
        size = len(tokens) or 1 if "streams come in one lump" in self.lies else max(1, len(tokens) // 8)
        for start in range(0, len(tokens), size):
            yield _event({"content": "".join(tokens[start : start + size])})
            await asyncio.sleep(0.004)
        for index, call in enumerate(message.get("tool_calls", ())):
            arguments = call["function"]["arguments"]
            opening = {**call, "index": index, "function": {**call["function"], "arguments": ""}}
            yield _event({"tool_calls": [opening]})
            for piece in (arguments[:9], arguments[9:]):
                yield _event({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        yield _event({}, reason)
        if "stream_options" in body and "no usage in streams" not in self.lies:
            yield b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"
        if "no DONE" not in self.lies:
            yield b"data: [DONE]\n\n"


def _event(delta: Any, reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return b"data: " + json.dumps({"object": "chat.completion.chunk", "choices": [choice]}).encode() + b"\n\n"


def _format(body: Any) -> str:
    return body.get("response_format", {}).get("type", "")


def _tokens(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+", text)


def _n_tokens(messages: Any) -> int:
    """Return a quarter of the characters; a picture counts 80."""
    n_pictures = json.dumps(messages).count("image_url") // 2
    texts = re.sub(r"base64,[^\"]*", "", json.dumps(messages))
    return len(texts) // 4 + 80 * n_pictures


def _n_reply(message: Any) -> int:
    return len(_logprobs(message))


def _logprobs(message: Any) -> list[dict[str, Any]]:
    """Return the tokens of a reply; like vLLM, also those of its calls."""
    written = message["content"] or "".join(
        f'<tool_call> {{"name": "{call["function"]["name"]}" {call["function"]["arguments"]}'
        for call in message.get("tool_calls", ())
    )
    return [{"token": token, "logprob": -0.01 * n - 0.1} for n, token in enumerate(_tokens(written))]


@contextmanager
def running(endpoint: PretendedEndpoint) -> Iterator[PretendedEndpoint]:
    """Serve the endpoint on a port of this machine until the block is left."""
    config = uvicorn.Config(endpoint.asgi(), host="127.0.0.1", port=0, log_level="error")
    listener = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        endpoint.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        yield endpoint
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


class _InProcess(httpx.AsyncBaseTransport):
    """Sends requests to an application in this event loop; its client reads each piece of a reply by itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        messages = asyncio.Queue[Message]()
        asked: list[Message] = [{"type": "http.request", "body": await request.aread()}]

        async def receive() -> Message:
            return asked.pop() if asked else await asyncio.Future[Message]()

        scope: dict[str, Any] = {
            "type": "http",
            "method": request.method,
            "path": request.url.path,
            "query_string": request.url.query,
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
        }
        answering = asyncio.ensure_future(self._app(scope, receive, messages.put))
        start = await messages.get()
        return httpx.Response(start["status"], headers=start["headers"], stream=_Pieces(messages, answering))


class _Pieces(httpx.AsyncByteStream):
    def __init__(self, messages: asyncio.Queue[Message], answering: asyncio.Task[None]) -> None:
        self._messages, self._answering = messages, answering

    async def __aiter__(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._messages.get()
            more = message.get("more_body", False)
            if message.get("body"):
                yield message["body"]

    async def aclose(self) -> None:
        self._answering.cancel()
        await asyncio.wait([self._answering])


async def checked(endpoint: PretendedEndpoint, *lies: str, key: str | None = KEY) -> EndpointCheck:
    """Check the endpoint where it is served; where it is not, in this process, which takes a fifth of the time."""
    endpoint.lies = set(lies)
    endpoint.bodies.clear()
    if endpoint.url:
        async with LoopClients(endpoint.url).borrowed() as client:
            return await _checked(client, endpoint.url, key)
    async with httpx.AsyncClient(transport=_InProcess(endpoint.asgi())) as client:
        return await _checked(client, "http://in-process/v1", key)


async def _checked(client: httpx.AsyncClient, url: str, key: str | None) -> EndpointCheck:
    check = EndpointCheck(MODEL, send=Sender(client, url, key, timeout_s=20.0).send)
    await check.run()
    return check


def advice(check: EndpointCheck, endpoint: PretendedEndpoint) -> Advice:
    return advice_of(check.findings, model=check.model, base_url=endpoint.url, key_variable="PRETENDED_KEY")
