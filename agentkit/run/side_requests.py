"""Requests of a run outside its conversation, for a plan or a summary: they count for the run and are reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from agentkit.context import RunContext
from agentkit.errors import NoRequestLeft
from agentkit.messages import ModelMessage, ModelResponse
from agentkit.models.base import Model, ModelRequestParameters, ModelSettings, OutputSchema
from agentkit.models.prices import priced_request
from agentkit.run.report import Report
from agentkit.run.request import SidePurpose
from agentkit.run.setup import RunSetup
from agentkit.usage import RequestUsage


class SideRequests:
    """Sends requests outside the conversation, for the agent of `setup`."""

    def __init__(
        self,
        setup: RunSetup[Any, Any],
        context: Callable[[], RunContext[Any]],
        has_room: Callable[[], bool],
        count: Callable[[RequestUsage, str], None],
        report: Report | None,
    ) -> None:
        """Ask only if `has_room`, which counts the request in outer budgets; `count` counts it in the run."""
        self._setup = setup
        self._context = context
        self._has_room = has_room
        self._count = count
        self._report = report

    async def for_plan(self, messages: Sequence[ModelMessage], schema: OutputSchema) -> ModelResponse:
        """Ask the run's model for a plan; an `Ask` of planners."""
        setup = self._setup
        parameters = ModelRequestParameters(output=schema, settings=setup.settings, prices=setup.prices)
        return await self._ask("plan", setup.model, messages, parameters)

    async def for_summary(
        self, messages: Sequence[ModelMessage], settings: ModelSettings, model: Model | None
    ) -> ModelResponse:
        """Ask a model, None for the run's, for a summary; an `AskForNote` of compactions."""
        parameters = ModelRequestParameters(settings=settings, prices=self._setup.prices)
        return await self._ask("summary", model or self._setup.model, messages, parameters)

    async def _ask(
        self,
        purpose: SidePurpose,
        model: Model,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
    ) -> ModelResponse:
        if not self._has_room():
            raise NoRequestLeft(f"no request for a {purpose} is left")
        if self._setup.history_processors:
            from agentkit.history.processors import processed

            messages = await processed(messages, self._setup.history_processors, self._context())
        started = time.perf_counter()
        response = await priced_request(model, messages, parameters)
        self._count(response.usage, response.model_name)
        if self._report is not None:
            self._report.side_request(purpose, model, messages, response, time.perf_counter() - started)
        return response
