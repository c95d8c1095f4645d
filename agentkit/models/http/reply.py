"""Interface between an HTTP exchange and the builder of one provider's reply."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from agentkit.messages import ModelResponse
from agentkit.models.base import ModelDelta


class ReplyBuilder(ABC):
    """Builds one response while it arrives; makes no request and keeps no clock."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """True once the reply is complete: if the stream breaks now, nothing but usage is lost."""

    @property
    def ended(self) -> bool:
        """True once the last event of the stream was read; what follows is not read any more.

        False for protocols without such an event. `data: [DONE]` ends any stream and is not passed on.
        """
        return False

    @abstractmethod
    def feed(self, data: Any) -> list[ModelDelta]:
        """Add the parsed JSON of one event, or of a whole reply; return its deltas. Unknown events are ignored.

        Raises:
            UnexpectedModelBehavior: a field has the wrong type.
        """

    @abstractmethod
    def close(self) -> list[ModelDelta]:
        """Return the deltas that were held back until the end of the reply.

        Raises:
            UnexpectedModelBehavior: what arrived is no reply of this protocol.
        """

    @abstractmethod
    def response(self, model_name: str) -> ModelResponse:
        """Return the response, after `close`; `model_name` is used if the server names no model."""

    @abstractmethod
    def describe(self) -> str:
        """Return what has arrived, for an error's message; empty if nothing has."""
