"""Tools whose schema no grammar can hold, left out of requests with a warning.

One such tool of a server must not block the others. It is neither shown to the model nor callable, so the
guarantee stays: every call that is decoded fits its schema.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from agentkit.errors import UserError
from agentkit.models.base import ModelRequestParameters
from agentkit.tools.definition import ToolDefinition

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class RefusedTools:
    """The tools that a model has left out so far."""

    model_name: str
    policy: Literal["refuse", "check"]
    """Handling of keywords that cannot be enforced; with "refuse", a refused tool is an error."""
    left_out: list[ToolDefinition] = field(default_factory=list[ToolDefinition])

    def around(self, parameters: ModelRequestParameters, reply: Callable[[ModelRequestParameters], T]) -> T:
        """Return the reply to a request without the refused tools; a tool refused meanwhile is left out, too.

        Raises:
            UserError: the schema of the answer is refused, or that of a tool with the policy "refuse".
        """
        from modelstack.toolcalls.grammar.coverage import UnsupportedSchemaError

        while True:
            usable = self._usable(parameters)
            try:
                return reply(usable)
            except UnsupportedSchemaError as error:
                refused = [tool for tool in usable.tools if tool.name == error.tool]
                if self.policy == "refuse":
                    raise UserError(
                        f'{error} Leave the tool out, or set LocalModel(..., unsupported_schema="check"), which '
                        f"checks such keywords after decoding."
                    ) from error
                if not refused:
                    raise UserError(str(error)) from error
                self.left_out += refused
                logger.warning("%s: tool %r is left out: %s", self.model_name, error.tool, error)

    def _usable(self, parameters: ModelRequestParameters) -> ModelRequestParameters:
        if not self.left_out or not any(tool in self.left_out for tool in parameters.tools):
            return parameters
        return replace(parameters, tools=tuple(tool for tool in parameters.tools if tool not in self.left_out))
