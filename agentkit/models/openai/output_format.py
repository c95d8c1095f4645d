"""The schema of a structured answer: as OpenAI's named format, or as an instruction for models without one."""

from __future__ import annotations

import json
import re
from typing import Any

from agentkit.models.base import OutputSchema
from agentkit.models.openai.strict_schema import allows_strict

MAX_SCHEMA_NAME_CHARS = 64
"""OpenAI's bound on the name of a response format."""


def json_schema_format(output: OutputSchema) -> dict[str, Any]:
    """Return name, description and schema of an answer; strict where OpenAI accepts the schema unchanged."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", output.name)[:MAX_SCHEMA_NAME_CHARS] or "output"
    described = {"description": output.description} if output.description else {}
    schema = dict(output.json_schema)
    return {"name": name, **described, "schema": schema, "strict": allows_strict(schema)}


def output_instruction(output: OutputSchema) -> str:
    """Return the request for an answer of this schema as text; only the runtime's validation enforces it then."""
    described = f" ({output.description})" if output.description else ""
    schema = json.dumps(dict(output.json_schema), ensure_ascii=False, separators=(",", ":"))
    return (
        f"Give your final answer{described} as one JSON object, with no other text and no code fence, "
        f"that is valid under this JSON Schema:\n{schema}"
    )
