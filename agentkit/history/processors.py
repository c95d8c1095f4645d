"""History processors: functions that change the conversation as it is sent to the model, never as it is stored.

They see the current agent's view, after compaction and hand-offs and without instructions. The result is repaired,
so that each call has its result and each result its call. The requests of planners and summaries, which quote the
conversation in one message, pass them too: a processor that redacts text redacts it everywhere.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from agentkit.context import RunContext
from agentkit.errors import UserError
from agentkit.history.repair import repaired
from agentkit.messages import ModelMessage

HistoryProcessor = Callable[
    [Sequence[ModelMessage], RunContext[Any]], "Sequence[ModelMessage] | Awaitable[Sequence[ModelMessage]]"
]
"""Maps a conversation to the one that is sent.

Messages that stay should stay the same objects: the cache of a model in this process recognises them by identity.
"""


async def processed(
    messages: Sequence[ModelMessage], processors: Sequence[HistoryProcessor], context: RunContext[Any]
) -> Sequence[ModelMessage]:
    """Apply the processors in order, and repair each result.

    Raises:
        UserError: a processor left no message.
    """
    shown = messages
    for processor in processors:
        result = processor(shown, context)
        shown = repaired(await result if inspect.isawaitable(result) else result)
        if not shown:
            name = getattr(processor, "__name__", type(processor).__name__)
            raise UserError(
                f"history processor {name!r} left no message, and a request needs one. Results without their call "
                f"are removed: keep a message of the user, or a result together with the response that called."
            )
    return shown
