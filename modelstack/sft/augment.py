"""Examples made anew each time they are seen, so that a model learns to read tools instead of knowing them.

Tools and their parameters come in another order; names are random strings (Hammer, arXiv 2410.04587, masks two
thirds; a tiny model has little else to go by than names, so fewer here); optional parameters that no call uses are
left out; values are exchanged in request and call together (`swap_values`). A change is made everywhere: in the
tools, in earlier calls, in the target. It follows from the seed, the example's id and the variant alone.
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
"""Keywords beside which a parameter's name stands in `properties` and `required` alone."""
_FIRST, _OTHERS = "abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqrstuvwxyz0123456789_"
_LENGTHS = range(4, 11)
"""Characters of a random name."""


class AugmentConfig(BaseModel):
    """What is changed, and how often."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shuffle_tools: bool = True
    shuffle_parameters: bool = True
    mask_names: float = Field(default=0.3, ge=0, le=1)
    """Probability that all names of an example's tools and parameters are random."""
    drop_optional: float = Field(default=0.2, ge=0, le=1)
    """Probability of each optional parameter that no call uses to be left out."""
    swap_values: float = Field(default=0.3, ge=0, le=1)
    """Probability of each value that stands in request and call, and whose kind is known, to be exchanged."""


NOTHING = AugmentConfig(
    shuffle_tools=False, shuffle_parameters=False, mask_names=0, drop_optional=0, swap_values=0
)
"""Examples as they are."""


def augment(example: Example, config: AugmentConfig, seed: int, variant: int = 0) -> Example:
    """Return what an example becomes; each kind of change has random numbers of its own.

    Args:
        example: Is not changed.
        config: What is changed.
        seed: Of the run.
        variant: Which time the example is seen.
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
    """Random names given so far."""

    rng: Random
    taken: set[str] = field(default_factory=set[str])

    def new(self) -> str:
        """Return a name that nothing has."""
        while True:
            length = self.rng.choice(_LENGTHS)
            name = self.rng.choice(_FIRST) + "".join(self.rng.choice(_OTHERS) for _ in range(length - 1))
            if name not in self.taken:
                self.taken.add(name)
                return name


def _mask_names(example: Example, rng: Random) -> Example:
    """Give each tool, and each parameter of a tool whose schema is plain, a random name."""
    names = _Names(rng)
    of_tool: dict[str, str] = {}
    of_parameter: dict[str, dict[str, str]] = {}
    """By the tool's old name."""
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
    """Return a tool with its parameters in another order; calls are written in the order of the schema."""
    properties = tool.parameters.get("properties")
    if not isinstance(properties, Mapping) or len(properties) < 2:
        return tool
    return _with_parameters(tool, properties={key: properties[key] for key in _permuted([*properties], rng)})


def _properties(tool: Tool) -> dict[str, Any]:
    """Return the parameters of a tool whose schema says nothing of them elsewhere, else none."""
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
