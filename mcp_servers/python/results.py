"""Results of the Python tools."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from mcp_servers.python.policy import Limits, json_value, shown
from mcp_servers.python.sandbox import Outcome
from mcp_servers.python.values import written
from mcp_servers.strict import ToolResult


class Ran(ToolResult):
    """Outcome of a snippet."""

    printed: str
    is_printed_cut: bool
    value: str = Field(description="Of the last expression, as Python writes it; empty where it has none.")
    is_value_cut: bool
    data: Any = Field(description="The value as JSON, where it has one.")
    error: str = Field(description="Traceback; empty where the code ended well.")
    session: str = Field(description="Whose variables are kept; empty: nobody's.")
    is_new: bool = Field(description="Whether the session began with this code.")

    @classmethod
    def of(cls, outcome: Outcome, session: str, limits: Limits) -> Ran:
        """Convert an outcome to a result."""
        value, is_cut = ("", False) if outcome.value is None else written(outcome.value, limits.output_chars)
        error, _ = shown(outcome.error, limits.output_chars)
        return cls(
            printed=outcome.printed.text,
            is_printed_cut=outcome.printed.n_chars > limits.output_chars,
            value=value,
            is_value_cut=is_cut,
            data=json_value(outcome.value, limits.output_chars),
            error=error,
            session=session,
            is_new=outcome.is_new,
        )

    def as_text(self) -> str:
        """The printed output, then the value or the error."""
        parts = [self.printed.rstrip("\n")]
        if self.is_printed_cut:
            parts.append("(more was printed and is left out; print less)")
        parts.append(self.error or self.value)
        if "MemoryError" in self.error and self.session:
            parts.append("(the session's variables take the memory; drop_session frees it)")
        if self.is_value_cut:
            parts.append("(the value is longer; look at a part of it)")
        return "\n".join(part for part in parts if part) or "Nothing was printed, and the last line has no value."


class Dropped(ToolResult):
    """Sessions that remain."""

    sessions: list[str]

    def as_text(self) -> str:
        """Names of the remaining sessions."""
        return f"Dropped. Sessions: {', '.join(self.sessions) or 'none'}."
