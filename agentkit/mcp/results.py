"""Turns a server's result into tool output for the model and the program. Pure functions.

The content blocks are the model's `content`, the structured value is the program's `data`. Images, audio and PDF
documents are files of the content, which the runtime checks (`agentkit.files`). Other binary resources are named
with type and size. Text that is cut or removed leaves a note.
"""

from __future__ import annotations

from base64 import b64decode
from itertools import groupby
from typing import TYPE_CHECKING

from pydantic_core import to_json

from agentkit.basics.base64_bytes import size_text
from agentkit.basics.hidden import strip_data
from agentkit.files import is_readable_type
from agentkit.messages import BinaryContent, Content, ContentItem, with_line
from agentkit.tools.json_schema import CheckTooCostly, SchemaCheck
from agentkit.tools.tool import ToolOutput

if TYPE_CHECKING:
    from mcp_types import CallToolResult, ContentBlock

MAX_ERROR_CHARS = 2_000
"""Characters of an error's reason; a longer one is cut."""


def tool_output(
    result: CallToolResult, *, output_check: SchemaCheck | None, limit: int, clean: bool
) -> ToolOutput:
    """Turn a result into an output whose text has at most `limit` characters besides its notes.

    `output_check` is the tool's output schema: a structured value that breaks it is an error result. `clean`
    removes hidden characters (an untrusted server).
    """
    structured = result.structured_content
    if result.is_error:
        text = _text(result) or "The tool failed and gave no reason."
        return ToolOutput(bounded(text, limit, clean=clean), structured, is_error=True)
    note = ""
    if output_check is not None:
        try:
            problems = _broken(result, output_check)
        except CheckTooCostly as reason:
            problems, note = [], f"\n[not verified: {reason}]"
        if problems:
            text = "The server's result breaks the tool's own output schema:\n" + "\n".join(problems)
            return ToolOutput(bounded(text, limit, clean=clean), is_error=True)
    content = _content(result, limit, clean=clean)
    if not content and structured is not None:
        content = bounded(to_json(structured).decode(), limit, clean=clean)
    return ToolOutput(with_line(content, note.strip()) if note else content, structured)


def bounded(text: str, limit: int, *, clean: bool) -> str:
    """Cut `text` to `limit` characters and, if `clean`, strip hidden ones; each change leaves a note."""
    n_chars = len(text)
    notes = ""
    if n_chars > limit:
        text = text[:limit]
        notes += f"\n[{n_chars - limit:,} of {n_chars:,} characters cut]"
    if clean:
        text, n_hidden = strip_data(text)
        if n_hidden:
            notes += f"\n[{n_hidden:,} hidden characters removed]"
    return text + notes


def error_text(said: object) -> str:
    """Return a server's reason for an error, cut to `MAX_ERROR_CHARS` and safe to print."""
    return bounded(str(said), MAX_ERROR_CHARS, clean=True)


def _broken(result: CallToolResult, check: SchemaCheck) -> list[str]:
    if "structured_content" not in result.model_fields_set:
        return ["(top level): the structured value is missing"]
    return check.problems(result.structured_content)


def _content(result: CallToolResult, limit: int, *, clean: bool) -> Content:
    """Return the blocks of a result: files, and text of at most `limit` characters in all."""
    blocks = [(block, _file(block)) for block in result.content]
    items: list[ContentItem] = []
    for is_text, group in groupby(blocks, key=lambda pair: pair[1] is None):
        if not is_text:
            items += [file for _, file in group if file is not None]
            continue
        text = "\n".join(_block(block) for block, _ in group)
        items.append(bounded(text, limit, clean=clean))
        limit = max(0, limit - len(text))
    if not items:
        return ""
    return items[0] if len(items) == 1 and isinstance(items[0], str) else tuple(items)


def _file(block: ContentBlock) -> BinaryContent | None:
    """Return the file in a block; None if it is text, a link, no base64, or of a type that models do not read."""
    from mcp_types import BlobResourceContents

    match block.type:
        case "image" | "audio":
            return _decoded(block.data, block.mime_type, None)
        case "resource" if isinstance(block.resource, BlobResourceContents):
            return _decoded(block.resource.blob, block.resource.mime_type, str(block.resource.uri))
        case _:
            return None


def _decoded(data: str, media_type: str | None, name: str | None) -> BinaryContent | None:
    if media_type is None or not is_readable_type(media_type):
        return None
    try:
        return BinaryContent(b64decode(data, validate=True), media_type, name)
    except ValueError:
        return None


def _text(result: CallToolResult) -> str:
    return "\n".join(_block(block) for block in result.content)


def _block(block: ContentBlock) -> str:
    from mcp_types import BlobResourceContents

    match block.type:
        case "text":
            return block.text
        case "image" | "audio":
            return f"[{block.type}: {block.mime_type}, {size_text(_n_decoded(block.data))}]"
        case "resource_link":
            facts = [block.title or block.name, block.mime_type, size_text(block.size) if block.size else None]
            return f"[resource {block.uri}: {', '.join(fact for fact in facts if fact)}]"
        case "resource":
            resource = block.resource
            if isinstance(resource, BlobResourceContents):
                size = size_text(_n_decoded(resource.blob))
                return f"[resource {resource.uri}: {resource.mime_type or 'binary'}, {size}]"
            return f"[resource {resource.uri}]\n{resource.text}"


def _n_decoded(base64: str) -> int:
    return len(base64) * 3 // 4
