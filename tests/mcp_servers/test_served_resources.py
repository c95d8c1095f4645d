"""Resources, prompts and completion of the servers' base, seen by mcp's own client in both eras."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Annotated, Any

import anyio
import mcp_types as types
import pytest
from mcp import Client, MCPError
from mcp.server.lowlevel.server import Server
from pydantic import Field

from mcp_servers import resources as resources_module
from mcp_servers.completion import Given
from mcp_servers.current_request import current_request
from mcp_servers.failures import ToolFailure
from mcp_servers.prompts import MAX_ARGUMENT_CHARS, prompt
from mcp_servers.resources import MAX_LISTED, MAX_RESOURCE_BYTES, MAX_URI_CHARS, Body, Resources, Template, uri_of
from mcp_servers.strict import strict_server
from mcp_servers.watching import MAX_WATCHED

pytestmark = pytest.mark.anyio
both_eras = pytest.mark.parametrize("mode", ["auto", "legacy"])


class Shelf:
    """A few notes, some of them of extreme sizes."""

    def __init__(self) -> None:
        self.notes = {"one": "First\u200b note.", "b/c": "Second."}
        self.sizes = {"full": MAX_RESOURCE_BYTES, "over": MAX_RESOURCE_BYTES + 1}

    def read(self, name: str) -> Body:
        if name in self.sizes:
            return Body("x" * self.sizes[name])
        if name not in self.notes:
            raise ToolFailure(f"There is no note \u202e{name!r}.")
        return Body(self.notes[name], "text/markdown")

    async def picture(self) -> Body:
        return Body(b"\x89PNG", "image/png")

    async def names(self, value: str, given: Given) -> Iterable[str]:
        if given.get("kind") == "none":
            raise ToolFailure("no such kind")
        return (*self.notes, *(f"One{n}" for n in range(200)))

    def listed(self) -> list[types.Resource]:
        return [
            types.Resource(uri=uri_of("notes:///{name}", name=f"n{n}"), name=f"n{n}")
            for n in range(MAX_LISTED + 5)
        ]

    def state(self, uri: str) -> object:
        if uri == "notes:///refused":
            raise ToolFailure("refused")
        if uri == "notes:///broken":
            raise PermissionError("broken")
        return self.notes.get(uri.removeprefix("notes:///"))


def praise(
    name: Annotated[str, Field(description="Whom to praise.")],
    how: Annotated[str, Field(description="In which words.")] = "warmly",
) -> str:
    """Praise a person.

    Further text is not published.
    """
    if name == "nobody":
        raise ToolFailure("Nobody cannot be praised.")
    return f"Praise {name} {how}.\u200b"


def served(shelf: Shelf | None = None) -> Server[Any]:
    shelf = shelf or Shelf()
    templates = (
        Template("notes:///picture", "picture", "A picture.", shelf.picture, "image/png"),
        Template("notes:///{name}", "note", "A note by its name.", shelf.read, completers={"name": shelf.names}),
    )
    return strict_server(
        "shelf",
        instructions="",
        tools=[],
        resources=Resources(templates, shelf.listed, state=shelf.state),
        prompts=[prompt(praise, {"name": shelf.names})],
        poll_s=0.02,
    )


@both_eras
async def test_resources_are_listed_in_pages_up_to_a_limit(mode: str) -> None:
    async with Client(served(), mode=mode) as client:
        found: list[types.Resource] = []
        page = await client.list_resources()
        found += page.resources
        while page.next_cursor is not None:
            page = await client.list_resources(cursor=page.next_cursor)
            found += page.resources
        assert len(found) == MAX_LISTED
        assert (found[0].uri, found[0].mime_type, found[-1].name) == (
            "notes:///picture",
            "image/png",
            f"n{MAX_LISTED - 2}",
        )
        (template,) = (await client.list_resource_templates()).resource_templates
        assert (template.uri_template, template.description) == ("notes:///{name}", "A note by its name.")
        for cursor in ("x", "-1", "9" * 5_000, "２"):
            with pytest.raises(MCPError, match="is not from this list"):
                await client.list_resources(cursor=cursor)


@both_eras
async def test_a_resource_is_read_by_the_first_template_that_matches(mode: str) -> None:
    async with Client(served(), mode=mode) as client:
        (text,) = (await client.read_resource("notes:///one")).contents
        assert isinstance(text, types.TextResourceContents)
        assert (text.uri, text.text, text.mime_type) == ("notes:///one", "First note.", "text/markdown")
        (picture,) = (await client.read_resource("notes:///picture")).contents
        assert isinstance(picture, types.BlobResourceContents)
        assert base64.b64decode(picture.blob) == b"\x89PNG"
        (slash,) = (await client.read_resource("notes:///b%2Fc")).contents
        assert isinstance(slash, types.TextResourceContents) and slash.text == "Second."
        (full,) = (await client.read_resource("notes:///full")).contents
        assert isinstance(full, types.TextResourceContents) and len(full.text) == MAX_RESOURCE_BYTES


@both_eras
@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("notes:///none", "There is no note 'none'"),
        (
            "files:///one",
            "'files:///one' is no resource of this server. Its resources are: notes:///picture, notes",
        ),
        ("notes:///a/b", "is no resource of this server"),
        ("notes:///over", "at most 500,000 can be read as a resource"),
        ("notes:///" + "x" * MAX_URI_CHARS, "8,201 characters; at most 8,192"),
    ],
)
async def test_an_unreadable_uri_is_a_protocol_error_of_the_era(uri: str, message: str, mode: str) -> None:
    async with Client(served(), mode=mode) as client:
        with pytest.raises(MCPError) as caught:
            await client.read_resource(uri)
    assert message in str(caught.value)
    assert caught.value.code == (types.INVALID_PARAMS if mode == "auto" else resources_module.RESOURCE_NOT_FOUND)


@both_eras
async def test_prompts_have_the_arguments_of_their_functions(mode: str) -> None:
    async with Client(served(), mode=mode) as client:
        (listed,) = (await client.list_prompts()).prompts
        assert listed == types.Prompt(
            name="praise",
            description="Praise a person.",
            arguments=[
                types.PromptArgument(name="name", description="Whom to praise.", required=True),
                types.PromptArgument(name="how", description="In which words.", required=False),
            ],
        )
        (message,) = (await client.get_prompt("praise", {"name": "Ann"})).messages
        assert (message.role, message.content) == ("user", types.TextContent(text="Praise Ann warmly."))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("prase", {}, "Unknown prompt 'prase'. Did you mean 'praise'? The prompts are: praise."),
        ("praise", {}, "praise: missing argument 'name'."),
        (
            "praise",
            {"nam": "Ann"},
            "praise: unknown argument 'nam'. Did you mean 'name'? Its arguments: name, how.",
        ),
        ("praise", {"name": "x" * (MAX_ARGUMENT_CHARS + 1)}, "has 10,001 characters; at most 10,000 are allowed."),
        ("praise", {"name": "nobody"}, "Nobody cannot be praised."),
    ],
)
async def test_a_wrong_prompt_names_the_rule(name: str, arguments: dict[str, str], message: str) -> None:
    async with Client(served()) as client:
        with pytest.raises(MCPError) as caught:
            await client.get_prompt(name, arguments)
    assert message in str(caught.value) and caught.value.code == types.INVALID_PARAMS


@both_eras
async def test_completions_begin_with_what_was_typed_and_are_at_most_a_hundred(mode: str) -> None:
    async with Client(served(), mode=mode) as client:
        name = types.ResourceTemplateReference(uri="notes:///{name}")
        found = (await client.complete(name, {"name": "name", "value": "oNe"})).completion
        assert (found.values[:2], len(found.values), found.total, found.has_more) == (
            ["one", "One0"],
            100,
            201,
            True,
        )
        of_prompt = types.PromptReference(name="praise")
        found = (await client.complete(of_prompt, {"name": "name", "value": "b"})).completion
        assert (found.values, found.total, found.has_more) == (["b/c"], 1, False)
        for reference, argument, given in (
            (of_prompt, "how", None),
            (types.PromptReference(name="none"), "name", None),
            (of_prompt, "name", {"kind": "none"}),
        ):
            found = (await client.complete(reference, {"name": argument, "value": ""}, given)).completion
            assert found.values == []


# -- subscriptions ---------------------------------------------------------------------------------------------


async def test_a_subscription_of_the_later_era_is_a_stream_of_the_changes() -> None:
    shelf = Shelf()
    async with (
        Client(served(shelf)) as client,
        client.listen(resource_subscriptions=["notes:///one", "notes:///refused", "notes:///broken"]) as changes,
    ):
        assert client.server_capabilities.resources == types.ResourcesCapability(subscribe=True, list_changed=True)
        shelf.notes["one"] = "Changed."
        with anyio.fail_after(10):
            assert (await anext(changes)).uri == "notes:///one"  # pyright: ignore[reportAttributeAccessIssue]


async def test_a_subscription_of_the_earlier_era_is_told_until_it_ends() -> None:
    shelf = Shelf()
    told: list[str] = []
    heard = anyio.Event()

    async def hear(message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification):
            told.append(str(message.params.uri))
            heard.set()

    async with Client(served(shelf), mode="legacy", message_handler=hear) as client:
        for uri in ("notes:///one", "notes:///b%2Fc", "notes:///one"):
            await client.session.send_request(
                types.SubscribeRequest(params=types.SubscribeRequestParams(uri=uri)), types.EmptyResult
            )
        shelf.notes["one"] = "Changed."
        with anyio.fail_after(10):
            await heard.wait()
        for _ in range(2):
            await client.session.send_request(
                types.UnsubscribeRequest(params=types.UnsubscribeRequestParams(uri="notes:///one")),
                types.EmptyResult,
            )
        shelf.notes["one"] = "Changed again."
        await anyio.sleep(0.2)
    assert told == ["notes:///one"]


@both_eras
async def test_the_number_of_watched_resources_is_limited(mode: str) -> None:
    uris = [f"notes:///{n}" for n in range(MAX_WATCHED + 1)]
    async with Client(served(), mode=mode) as client:
        with pytest.raises(MCPError, match="At most 100 resources are watched"):
            if mode == "auto":
                async with client.listen(resource_subscriptions=uris):
                    pass
            for uri in uris:
                request = types.SubscribeRequest(params=types.SubscribeRequestParams(uri=uri))
                await client.session.send_request(request, types.EmptyResult)


async def test_a_server_with_tools_only_offers_nothing_else() -> None:
    async with Client(strict_server("bare", instructions="", tools=[])) as client:
        declared = client.server_capabilities
        assert (declared.resources, declared.prompts, declared.completions, declared.logging) == (None,) * 4


def test_no_request_is_served_outside_of_a_tool() -> None:
    with pytest.raises(LookupError, match="call this from a tool's function"):
        current_request()
