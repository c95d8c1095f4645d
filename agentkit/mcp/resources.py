"""Resources of a server: data that the application reads by URI. Pure functions and values.

Everything here is untrusted: the number of resources, names, prose, sizes and contents.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentkit.errors import MCPRequestError
from agentkit.mcp.paging import MAX_NAME_CHARS, MAX_URI_CHARS, is_usable, prose, title
from agentkit.mcp.results import bounded, tool_output
from agentkit.messages import BinaryContent, Content

if TYPE_CHECKING:
    import mcp_types as types

MAX_MEDIA_TYPE_CHARS = 200

GivenContent = str | tuple[str | BinaryContent, ...]
"""Text, or texts and files, as `agent.run` takes them."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource that a server lists."""

    uri: str
    name: str
    title: str | None = None
    description: str = ""
    media_type: str | None = None
    size: int | None = None
    """Bytes, as the server states it."""


@dataclass(frozen=True, slots=True)
class ResourceTemplate:
    """A family of resources; the URI of one comes from filling in the template (RFC 6570)."""

    uri_template: str
    name: str
    title: str | None = None
    description: str = ""
    media_type: str | None = None
    """Media type of all resources of the family; None if they differ."""


@dataclass(frozen=True, slots=True)
class ResourceItem:
    """Part of a resource: a text or a file."""

    uri: str
    data: str | bytes = field(repr=False)
    media_type: str | None = None


@dataclass(frozen=True, slots=True)
class ResourceContents:
    """Contents of a resource that was read."""

    uri: str
    items: tuple[ResourceItem, ...]
    """The contents: one, or several if the URI names a collection."""
    content: GivenContent = field(repr=False)
    """The contents for a model: text, and files that models read; other files are named with type and size."""
    is_untrusted: bool = True
    """True unless the toolset has `trust="trusted"`; give it to a run as `tainted`."""

    @property
    def text(self) -> str:
        """The texts of the items, separated by line breaks."""
        return "\n".join(item.data for item in self.items if isinstance(item.data, str))


def resources_of(wire: Sequence[types.Resource]) -> list[Resource]:
    """Return the usable resources of a list, in order."""
    return [
        Resource(
            uri=str(each.uri),
            name=prose(each.name, MAX_NAME_CHARS),
            title=title(each.title),
            description=prose(each.description),
            media_type=_media_type(each.mime_type),
            size=each.size,
        )
        for each in wire
        if is_usable(str(each.uri), MAX_URI_CHARS)
    ]


def templates_of(wire: Sequence[types.ResourceTemplate]) -> list[ResourceTemplate]:
    """Return the usable templates of a list, in order."""
    return [
        ResourceTemplate(
            uri_template=each.uri_template,
            name=prose(each.name, MAX_NAME_CHARS),
            title=title(each.title),
            description=prose(each.description),
            media_type=_media_type(each.mime_type),
        )
        for each in wire
        if is_usable(each.uri_template, MAX_URI_CHARS)
    ]


def contents_of(
    uri: str, wire: Sequence[types.TextResourceContents | types.BlobResourceContents], *, limit: int, clean: bool
) -> ResourceContents:
    """Return the contents of a resource; `limit` bounds the characters of its texts.

    `clean` removes hidden characters from texts (an untrusted server). Text that is cut or removed leaves a note.

    Raises:
        MCPRequestError: binary content is not Base64.
    """
    items: list[ResourceItem] = []
    for each in wire:
        at = prose(str(each.uri), MAX_URI_CHARS)
        media_type = _media_type(each.mime_type)
        data = getattr(each, "blob", None)
        if data is None:
            text: str = getattr(each, "text", "")
            items.append(ResourceItem(at, bounded(text, limit, clean=clean), media_type))
            limit = max(0, limit - len(text))
            continue
        try:
            items.append(ResourceItem(at, b64decode(data, validate=True), media_type))
        except ValueError as error:
            raise MCPRequestError(
                f"resource {uri[:200]!a}: its content is not Base64, as MCP requires."
            ) from error
    return ResourceContents(uri, tuple(items), _for_model(items, wire), is_untrusted=clean)


def _for_model(
    items: Sequence[ResourceItem], wire: Sequence[types.TextResourceContents | types.BlobResourceContents]
) -> GivenContent:
    import mcp_types as types

    blocks: list[types.ContentBlock] = [
        types.TextContent(text=item.data)
        if isinstance(item.data, str)
        else types.EmbeddedResource(
            resource=sent.model_copy(update={"uri": item.uri, "mime_type": item.media_type})
        )
        for item, sent in zip(items, wire, strict=True)
    ]
    result = types.CallToolResult(content=blocks)
    n_chars = sum(len(item.data) for item in items if isinstance(item.data, str))
    limit = n_chars + len(items) * MAX_URI_CHARS
    return given_content(tool_output(result, output_check=None, limit=limit, clean=False).content)


def given_content(content: Content) -> GivenContent:
    """Return content of a server's answer as a prompt takes it; it has bytes, no references to files."""
    if isinstance(content, str):
        return content
    return tuple(item for item in content if isinstance(item, str | BinaryContent))


def _media_type(given: str | None) -> str | None:
    return prose(given, MAX_MEDIA_TYPE_CHARS) or None
