"""The tools that a model has for skills: definitions and schemas. What they do is in `agentkit.skills.toolset`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from agentkit.tools.definition import ToolAnnotations, ToolDefinition
from agentkit.tools.json_schema import compile_schema
from agentkit.tools.tool import ApprovalRule, Tool, ToolCall

LOAD, READ, SEARCH, RUN = "load_skill", "read_skill_file", "search_skills", "run_skill_script"
MAX_NAMES_IN_SCHEMA = 100
"""Number of skills up to which a schema lists their names, so that a grammar allows no other."""
_READS = ToolAnnotations(read_only=True, destructive=False, idempotent=True, open_world=False)
_DESCRIPTIONS = {
    LOAD: "Load the instructions of a skill, and the list of its files. Do it before the task that it is for.",
    READ: "Read a text file of a skill.",
    SEARCH: "Find skills by words of their names and descriptions.",
    RUN: "Run a script of a skill. Returns its exit status and output.",
}
_TEXT: dict[str, Any] = {"type": "string"}


def skill_tool(
    name: str,
    call: ToolCall,
    skill_names: Sequence[str],
    *,
    untrusted_if: Callable[[str], bool] | None = None,
    requires_approval: ApprovalRule = False,
    annotations: ToolAnnotations = _READS,
    timeout_s: float | None = None,
) -> Tool:
    """Return one of the tools for the skills of these names."""
    schema = _schema(name, skill_names)
    return Tool(
        definition=ToolDefinition(name, _DESCRIPTIONS[name], schema, annotations=annotations),
        call=call,
        validate=compile_schema(schema, name=f"tool {name!r}").arguments,
        timeout_s=timeout_s,
        requires_approval=requires_approval,
        untrusted_if=untrusted_if,
        is_consequential=bool(annotations.destructive or annotations.open_world),
        is_repeatable=bool(annotations.read_only),
        allows_repeats=name == RUN,
    )


def _schema(name: str, skill_names: Sequence[str]) -> dict[str, Any]:
    skill = {**_TEXT, "description": "Name of the skill."}
    if len(skill_names) <= MAX_NAMES_IN_SCHEMA:
        skill["enum"] = list(skill_names)
    properties: dict[str, Any]
    if name == SEARCH:
        properties = {"query": {**_TEXT, "description": "Words that describe the task."}}
    elif name == READ:
        properties = {
            "name": skill,
            "path": {**_TEXT, "description": f"Path of the file, as {LOAD} lists it."},
            "offset": {
                "type": "integer",
                "minimum": 0,
                "default": 0,
                "description": "Character to begin at, in a long file.",
            },
        }
    elif name == RUN:
        properties = {
            "name": skill,
            "script": {**_TEXT, "description": f"Path of the script, as {LOAD} lists it."},
            "arguments": {
                "type": "array",
                "items": _TEXT,
                "default": [],
                "description": "Command line arguments.",
            },
        }
    else:
        properties = {"name": skill}
    required = [key for key, value in properties.items() if "default" not in value]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
