"""Augmentation of examples: each variant differs, so that a model learns to read tools instead of memorising them.

A variant has these changes:

- the order of tools and of their parameters;
- random strings as names. Hammer (arXiv 2410.04587) masks two thirds; fewer are masked here, because names are
  most of what a tiny model can use;
- optional parameters that no call uses are left out;
- values are exchanged in request and call together (`swap_values`).

A change is applied everywhere: in the tools, in earlier calls and in the target. It depends only on the seed, the
example's id and the variant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from modelstack.data.examples import Call, Example, Message, Tool
from modelstack.sft.swap_values import swap_values

_PLAIN = frozenset({"type", "properties", "required", "additionalProperties", "description", "title", "$schema"})
"""Keywords of a schema that refer to a parameter's name only in `properties` and `required`."""
_FIRST, _OTHERS = "abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqrstuvwxyz0123456789_"
_LENGTHS = range(4, 11)
"""Possible numbers of characters of a random name."""


class AugmentConfig(BaseModel):
    """Kinds of changes and their probabilities."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shuffle_tools: bool = True
    """Whether the tools of an example change their order."""
    shuffle_parameters: bool = True
    """Whether the parameters of a tool change their order."""
    mask_names: float = Field(default=0.3, ge=0, le=1)
    """Probability that all tools and parameters of an example get random names."""
    drop_optional: float = Field(default=0.2, ge=0, le=1)
    """Probability that an optional parameter is left out, for each one that no call uses."""
    swap_values: float = Field(default=0.3, ge=0, le=1)
    """Probability that a value is exchanged, for each value of a known kind that is in request and call."""


NOTHING = AugmentConfig(
    shuffle_tools=False, shuffle_parameters=False, mask_names=0, drop_optional=0, swap_values=0
)
"""No augmentation."""


def augment(example: Example, config: AugmentConfig, seed: int, variant: int = 0) -> Example:
    """Return the augmented example; each kind of change has its own random generator.

    Args:
        example: Example; stays unchanged.
        config: Changes to make.
        seed: Seed of the run.
        variant: Number of the variant.
    """

    def random(purpose: str) -> Random:
        return Random(f"{seed} {variant} {purpose} {example.id}")

    if config.swap_values:
        example = swap_values(example, random("values"), config.swap_values)
    if config.drop_optional:
        example = _drop_optional(example, random("optional"), config.drop_optional)
    rng = random("names")
    if rng.random() < config.mask_names:
        example = _mask_names(example, rng)
    if config.shuffle_parameters:
        rng = random("parameters")
        example = _with(example, tools=tuple(_shuffled(tool, rng) for tool in example.tools))
    if config.shuffle_tools:
        example = _with(example, tools=tuple(_permuted(example.tools, random("tools"))))
    return example


def _drop_optional(example: Example, rng: Random, probability: float) -> Example:
    used = {(call.name, key) for call in _calls(example) for key in call.arguments}
    tools: list[Tool] = []
    for tool in example.tools:
        required = tool.parameters.get("required", ())
        properties = _properties(tool)
        kept = {
            key: schema
            for key, schema in properties.items()
            if key in required or (tool.name, key) in used or rng.random() >= probability
        }
        tools.append(tool if kept == properties else _with_parameters(tool, properties=kept))
    return _with(example, tools=tuple(tools))


@dataclass(slots=True)
class _Names:
    """Generator of distinct random names."""

    rng: Random
    taken: set[str] = field(default_factory=set[str])

    def new(self) -> str:
        """Return an unused name."""
        while True:
            length = self.rng.choice(_LENGTHS)
            name = self.rng.choice(_FIRST) + "".join(self.rng.choice(_OTHERS) for _ in range(length - 1))
            if name not in self.taken:
                self.taken.add(name)
                return name


def _mask_names(example: Example, rng: Random) -> Example:
    """Give random names to all tools, and to the parameters of each tool with a plain schema."""
    names = _Names(rng)
    of_tool: dict[str, str] = {}
    of_parameter: dict[str, dict[str, str]] = {}
    """New name of each parameter, by the old name of its tool."""
    tools: list[Tool] = []
    for tool in example.tools:
        of_tool[tool.name] = names.new()
        renamed = of_parameter[tool.name] = {key: names.new() for key in _properties(tool)}
        parameters = tool.parameters
        if renamed:
            properties = {renamed[key]: schema for key, schema in _properties(tool).items()}
            parameters = parameters | {"properties": properties}
            if "required" in parameters:
                parameters["required"] = [renamed.get(key, key) for key in parameters["required"]]
        tools.append(Tool(name=of_tool[tool.name], description=tool.description, parameters=parameters))

    def masked(call: Call) -> Call:
        keys = of_parameter.get(call.name, {})
        arguments = {keys.get(key, key): value for key, value in call.arguments.items()}
        return Call(name=of_tool.get(call.name, call.name), arguments=arguments)

    def masked_message(message: Message) -> Message:
        calls = tuple(masked(call) for call in message.calls)
        name = message.name and of_tool.get(message.name, message.name)
        return message.model_copy(update={"calls": calls, "name": name})

    return _with(
        example,
        tools=tuple(tools),
        messages=tuple(masked_message(message) for message in example.messages),
        calls=tuple(masked(call) for call in example.calls),
    )


def _shuffled(tool: Tool, rng: Random) -> Tool:
    """Return a tool with shuffled parameters; calls follow the order of the schema."""
    properties = tool.parameters.get("properties")
    if not isinstance(properties, Mapping) or len(properties) < 2:
        return tool
    return _with_parameters(tool, properties={key: properties[key] for key in _permuted([*properties], rng)})


def _properties(tool: Tool) -> dict[str, Any]:
    """Return the parameters of a tool; empty if its schema may refer to their names elsewhere."""
    properties = tool.parameters.get("properties", {})
    is_plain = _PLAIN.issuperset(tool.parameters) and isinstance(properties, dict)
    return properties if is_plain else {}


def _with_parameters(tool: Tool, **changes: Any) -> Tool:
    return tool.model_copy(update={"parameters": tool.parameters | changes})


def _with(example: Example, **changes: Any) -> Example:
    return example.model_copy(update=changes)


def _permuted(items: Any, rng: Random) -> list[Any]:
    return rng.sample(list(items), len(items))


def _calls(example: Example) -> list[Call]:
    return [call for message in example.messages for call in message.calls] + list(example.calls)
