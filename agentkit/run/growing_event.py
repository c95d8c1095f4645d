"""An event that later events of the same text, call or progress are joined to, while nobody has read it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from agentkit.events import AgentEvent, TextDeltaEvent, ThinkingDeltaEvent, ToolCallDeltaEvent, ToolProgressEvent


@dataclass(slots=True)
class GrowingEvent:
    """An event with the texts of later deltas, joined only once: a long text grows in linear time."""

    event: AgentEvent
    more: list[str] | None = None
    """Texts of later deltas that belong to the event; None: none."""

    def takes(self, event: AgentEvent) -> bool:
        """Join an event if both concern the same text, call or progress; return whether it did."""
        last = self.event
        if type(last) is not type(event):
            return False
        match last, event:
            case (TextDeltaEvent(), TextDeltaEvent(text=text)) | (
                ThinkingDeltaEvent(),
                ThinkingDeltaEvent(text=text),
            ):
                self._grow(text)
            case ToolCallDeltaEvent(), ToolCallDeltaEvent() if last.index == event.index:
                self._grow(event.arguments)
                if last.tool_name is None and event.tool_name is not None:
                    self.event = replace(last, tool_name=event.tool_name)
            case ToolProgressEvent(), ToolProgressEvent() if last.tool_call_id == event.tool_call_id:
                self.event = event
            case _:
                return False
        return True

    def _grow(self, text: str) -> None:
        if self.more is None:
            self.more = []
        self.more.append(text)

    def joined(self) -> AgentEvent:
        """Return the event with all of its text."""
        event = self.event
        if not self.more:
            return event
        if isinstance(event, (TextDeltaEvent, ThinkingDeltaEvent)):
            return replace(event, text=event.text + "".join(self.more))
        assert isinstance(event, ToolCallDeltaEvent)
        return replace(event, arguments=event.arguments + "".join(self.more))
