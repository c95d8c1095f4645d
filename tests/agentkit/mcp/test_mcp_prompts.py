"""Prompts of servers as messages for a run, and completion of their arguments. The servers are mcp's own."""

from __future__ import annotations

import base64
from typing import Any

import mcp_types as types
import pytest
from mcp.server import MCPServer, Server
from mcp.server.mcpserver.prompts.base import AssistantMessage, Message, UserMessage

from agentkit import Agent
from agentkit.errors import MCPRequestError, UserError
from agentkit.mcp import MCPToolset, Prompt, PromptArgument
from agentkit.messages import BinaryContent, ModelRequest, ModelResponse, TextPart, UserPromptPart
from agentkit.testing import ScriptedModel

pytestmark = pytest.mark.anyio
both_eras = pytest.mark.parametrize("mode", ["auto", "legacy"])

PIXEL = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\2\0\0\0" + bytes(16)


@pytest.fixture
def library() -> MCPServer:
    """A server of mcp's own with two prompts and completion."""
    server = MCPServer("library")

    @server.prompt(title="Summary", description="Summarise\u200b a book.")
    def summarise(book: str, length: str = "short") -> str:
        return f"Summarise {book}, {length}."

    @server.prompt()
    def lesson() -> list[Message]:
        return [
            UserMessage("Be strict."),
            UserMessage("Answer in French."),
            AssistantMessage("D'accord."),
            UserMessage("What is a comma?"),
        ]

    @server.completion()
    async def complete(ref: Any, argument: Any, context: Any) -> types.Completion | None:
        if isinstance(ref, types.PromptReference) and argument.name == "book":
            given = (context.arguments or {}).get("length", "") if context else ""
            return types.Completion(values=[f"Emma{given}\u200b", "x" * 3_000, *(str(n) for n in range(98))])
        return None

    return server


@both_eras
async def test_prompts_are_listed_with_their_arguments(library: MCPServer, mode: str) -> None:
    async with MCPToolset(library, mode=mode) as toolset:
        summarise, lesson = await toolset.list_prompts()
        arguments = (PromptArgument("book", "", required=True), PromptArgument("length", "", required=False))
        assert summarise == Prompt("summarise", "Summary", "Summarise a book.", arguments)
        assert (lesson.name, lesson.arguments) == ("lesson", ())


@both_eras
async def test_a_prompt_becomes_the_prompt_and_the_history_of_a_run(library: MCPServer, mode: str) -> None:
    async with MCPToolset(library, mode=mode) as toolset:
        lesson = await toolset.get_prompt("lesson")
        summary = await toolset.get_prompt((await toolset.list_prompts())[0], {"book": "Emma"})
    assert (summary.text, summary.history, summary.is_untrusted) == ("Summarise Emma, short.", (), True)
    assert lesson.text == "What is a comma?"
    assert lesson.history == (
        ModelRequest((UserPromptPart("Be strict.\nAnswer in French."),)),
        ModelResponse((TextPart("D'accord."),)),
    )
    model = ScriptedModel(["Une virgule."])
    result = await Agent(model).run(lesson.prompt, message_history=lesson.history, tainted=lesson.is_untrusted)
    assert (result.output, result.state.tainted) == ("Une virgule.", True)
    assert result.messages[:3] == lesson.messages


async def test_a_missing_argument_and_an_unknown_prompt_are_errors(library: MCPServer) -> None:
    async with MCPToolset(library, id="library") as toolset:
        with pytest.raises(MCPRequestError, match="cannot get prompt 'summarise'"):
            await toolset.get_prompt("summarise")
        with pytest.raises(MCPRequestError, match="cannot get prompt 'none'"):
            await toolset.get_prompt("none")


def saying(*messages: types.PromptMessage) -> Server[Any]:
    async def on_get_prompt(context: Any, params: Any) -> types.GetPromptResult:
        return types.GetPromptResult(messages=list(messages))

    return Server("raw", version="1", on_get_prompt=on_get_prompt)


async def test_files_are_kept_and_hostile_text_is_cleaned_and_cut() -> None:
    image = types.ImageContent(data=base64.b64encode(PIXEL).decode(), mime_type="image/png")
    link = types.ResourceLink(uri="a:1", name="one")
    long = types.TextContent(text="y" * 300)
    server = saying(
        types.PromptMessage(role="user", content=types.TextContent(text="see\U000e0041")),
        types.PromptMessage(role="user", content=image),
        types.PromptMessage(role="assistant", content=image),
        types.PromptMessage(role="user", content=link),
        types.PromptMessage(role="user", content=long),
    )
    async with MCPToolset(server, result_limit=150) as toolset:
        prompt = await toolset.get_prompt("any")
    (first, model, last) = prompt.messages
    assert isinstance(first, ModelRequest) and isinstance(model, ModelResponse)
    assert first.parts == (
        UserPromptPart(("see\n[1 hidden characters removed]", BinaryContent(PIXEL, "image/png"))),
    )
    assert model.text == "[image/png, 45 bytes]"
    assert prompt.text.startswith("[resource a:1: one]\ny") and prompt.text.endswith("characters cut]")
    assert last.kind == "request" and len(prompt.text) < 150


async def test_a_prompt_that_ends_with_the_model_has_no_prompt() -> None:
    said = types.PromptMessage(role="assistant", content=types.TextContent(text="Hello."))
    async with MCPToolset(saying(said), trust="trusted") as toolset:
        prompt = await toolset.get_prompt("any")
    assert (prompt.prompt, prompt.history, prompt.is_untrusted) == ("", prompt.messages, False)


@both_eras
async def test_completions_are_bounded_and_cleaned(library: MCPServer, mode: str) -> None:
    async with MCPToolset(library, mode=mode) as toolset:
        values = await toolset.complete("book", "E", prompt="summarise", given={"length": "2"})
        assert values[0] == "Emma2\n[1 hidden characters removed]"
        assert len(values[1]) < 1_100 and len(values) == 100
        assert await toolset.complete("number", "1", template="books://{number}") == []
        with pytest.raises(UserError, match="either prompt=NAME or template=URI_TEMPLATE"):
            await toolset.complete("book", "E")
    async with MCPToolset(saying(), mode=mode) as toolset:
        assert await toolset.complete("book", "E", prompt="summarise") == []
