"""Turns a server's result into tool output for the model and the program. Pure functions.

The text blocks are the model's `content`, the structured value is the program's `data`. Images, audio and binary
resources are named with type and size, never included. Text that is cut or removed leaves a note.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic_core import to_json

from agentkit.basics.hidden import strip_data
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
    text = _text(result)
    if not text and structured is not None:
        text = to_json(structured).decode()
    return ToolOutput(bounded(text, limit, clean=clean) + note, structured)


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


def _text(result: CallToolResult) -> str:
    return "\n".join(_block(block) for block in result.content)


def _block(block: ContentBlock) -> str:
    from mcp_types import BlobResourceContents

    match block.type:
        case "text":
            return block.text
        case "image" | "audio":
            return f"[{block.type}: {block.mime_type}, {_size(_n_decoded(block.data))}]"
        case "resource_link":
            facts = [block.title or block.name, block.mime_type, _size(block.size) if block.size else None]
            return f"[resource {block.uri}: {', '.join(fact for fact in facts if fact)}]"
        case "resource":
            resource = block.resource
            if isinstance(resource, BlobResourceContents):
                size = _size(_n_decoded(resource.blob))
                return f"[resource {resource.uri}: {resource.mime_type or 'binary'}, {size}]"
            return f"[resource {resource.uri}]\n{resource.text}"


def _size(n_bytes: int) -> str:
    """Return a size in words, without floats: a server may state a number too large for one."""
    return f"{n_bytes:,} bytes" if n_bytes < 10_000 else f"{n_bytes // 1000:,} kB"


def _n_decoded(base64: str) -> int:
    return len(base64) * 3 // 4
