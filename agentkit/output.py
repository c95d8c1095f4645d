"""The final answer: text, or any type that pydantic knows, in the same grammar as the tool calls.

A structured answer is always a JSON object; a type whose schema is not an object (a list, a number, a union) is
wrapped in `{"result": ...}`, as MCP does with tool results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from agentkit.errors import ModelRetry, UserError
from agentkit.models.base import OutputSchema

if TYPE_CHECKING:
    from pydantic import TypeAdapter

OutputT = TypeVar("OutputT")
_RESULT = "result"


@dataclass(frozen=True, slots=True)
class OutputSpec(Generic[OutputT]):
    """Schema that requests an output, and the parser for it."""

    schema: OutputSchema | None
    """Schema of the answer; None for plain text."""
    adapter: TypeAdapter[OutputT] | None

    def parse(self, text: str) -> OutputT:
        """Parse the model's answer.

        Raises:
            ModelRetry: the answer does not fit the type; the message tells the model why.
        """
        if self.adapter is None or self.schema is None:
            return text  # pyright: ignore[reportReturnType] - OutputT is str without an adapter
        from pydantic import ValidationError

        try:
            if not self.schema.wrapped:
                return self.adapter.validate_json(text)
            return self.adapter.validate_python(_unwrap(text))
        except ValidationError as error:
            lines = [
                f"{'.'.join(map(str, item['loc'])) or '(answer)'}: {item['msg']}"
                for item in error.errors(include_url=False, include_context=False, include_input=False)
            ]
            raise ModelRetry("The answer does not fit its schema:\n" + "\n".join(lines)) from error


def output_spec(output_type: type[OutputT]) -> OutputSpec[OutputT]:
    """Make the specification of an output type.

    Raises:
        UserError: the type has no JSON Schema.
    """
    if output_type is str:
        return OutputSpec(schema=None, adapter=None)
    from pydantic import TypeAdapter

    try:
        adapter: TypeAdapter[OutputT] = TypeAdapter(output_type)
        json_schema = adapter.json_schema()
    except Exception as error:  # pydantic raises several unrelated types for a type it cannot handle
        raise UserError(f"output_type={output_type!r} has no JSON Schema: {error}") from error
    name = str(json_schema.get("title") or getattr(output_type, "__name__", "output"))
    wrapped = not _is_object(json_schema)
    if wrapped:
        json_schema = _wrap(json_schema)
    return OutputSpec(OutputSchema(name, json_schema, json_schema.get("description"), wrapped), adapter)


def _is_object(schema: dict[str, Any]) -> bool:
    if "$ref" in schema and "$defs" in schema:
        schema = schema["$defs"].get(schema["$ref"].removeprefix("#/$defs/"), {})
    return schema.get("type") == "object"


def _wrap(schema: dict[str, Any]) -> dict[str, Any]:
    inner = {key: value for key, value in schema.items() if key != "$defs"}
    wrapped: dict[str, Any] = {
        "type": "object",
        "properties": {_RESULT: inner},
        "required": [_RESULT],
        "additionalProperties": False,
    }
    if "$defs" in schema:
        wrapped["$defs"] = schema["$defs"]
    return wrapped


def _unwrap(text: str) -> Any:
    from pydantic_core import from_json

    try:
        value: Any = from_json(text)
    except ValueError as error:
        raise ModelRetry(f"The answer is not valid JSON: {error}") from error
    if not isinstance(value, dict) or _RESULT not in value:
        raise ModelRetry('The answer must be a JSON object with the one key "result".')
    return cast("dict[str, Any]", value)[_RESULT]
