"""Messages and tools of the runtime in the form of `modelstack.toolcalls`, and the convention of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentkit.messages import ModelResponse
from agentkit.tools.definition import ToolDefinition
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls.convention import ToolSpec
from modelstack.toolcalls.conventions.recognition import Recognised, recognise
from modelstack.toolcalls.manner import Manner

_NORMAL_TOKEN = 1
"""Token type of ordinary text in GGUF files."""


def convention_of_file(path: str | Path) -> Recognised:
    """Return the convention of a GGUF file without an adapter; only the names of its tokens are read.

    Raises:
        UserError: the one of `modelstack`: the file is not a GGUF file, or is damaged.
    """
    from modelstack.gguf_file import read_gguf_fields

    fields = read_gguf_fields(path, "tokenizer.")
    template = fields.get("tokenizer.chat_template")
    names = [str(name).encode() for name in fields.get("tokenizer.ggml.tokens", ())]
    special = [i for i, kind in enumerate(fields.get("tokenizer.ggml.token_type", ())) if kind != _NORMAL_TOKEN]
    begin, end = (fields.get(f"tokenizer.ggml.{role}_token_id") for role in ("bos", "eos"))
    asks_for_begin = "bos_token" in str(template) or bool(fields.get("tokenizer.ggml.add_bos_token"))
    vocabulary = Vocabulary(
        token_bytes=tuple(names),
        special_ids=frozenset(special),
        end_ids=() if end is None else (end,),
        encode=lambda text: [],
        bos_id=begin if asks_for_begin else None,
    )
    return recognise(template if isinstance(template, str) else None, vocabulary)


def tool_specs(tools: Sequence[ToolDefinition]) -> tuple[ToolSpec, ...]:
    """Return the tools in the form of `modelstack.toolcalls`."""
    return tuple(ToolSpec(tool.name, tool.description, tool.parameters_json_schema) for tool in tools)


def said(manner: Manner, response: ModelResponse) -> str:
    """Return a response from elsewhere in the form in which a model would have written it."""
    calls = response.tool_calls
    try:
        return manner.said(response.text, [(call.tool_name, call.arguments_dict()) for call in calls])
    except ValueError:  # arguments are not a JSON object; the part that answers the call says so
        bare: Mapping[str, Any] = {}
        return manner.said(response.text, [(call.tool_name, bare) for call in calls])
