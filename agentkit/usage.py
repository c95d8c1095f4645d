"""Usage of models: requests, tool calls and tokens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestUsage:
    """Tokens of one model request."""

    input_tokens: int = 0
    """Prompt tokens, cached ones included."""
    cache_read_tokens: int = 0
    """Prompt tokens read from a cache."""
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class RunUsage:
    """Requests, tool calls and tokens of a run so far."""

    requests: int = 0
    tool_calls: int = 0
    input_tokens: int = 0
    cache_read_tokens: int = 0
    output_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def plus_request(self, usage: RequestUsage) -> RunUsage:
        """Return the usage after one more request."""
        return RunUsage(
            self.requests + 1,
            self.tool_calls,
            self.input_tokens + usage.input_tokens,
            self.cache_read_tokens + usage.cache_read_tokens,
            self.output_tokens + usage.output_tokens,
        )

    def plus(self, other: RunUsage) -> RunUsage:
        """Return the usage of two runs together."""
        return RunUsage(
            self.requests + other.requests,
            self.tool_calls + other.tool_calls,
            self.input_tokens + other.input_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
            self.output_tokens + other.output_tokens,
        )

    def minus(self, other: RunUsage) -> RunUsage:
        """Return the usage since `other`."""
        return RunUsage(
            self.requests - other.requests,
            self.tool_calls - other.tool_calls,
            self.input_tokens - other.input_tokens,
            self.cache_read_tokens - other.cache_read_tokens,
            self.output_tokens - other.output_tokens,
        )

    def plus_tool_calls(self, n_calls: int) -> RunUsage:
        """Return the usage after `n_calls` more tool calls."""
        return RunUsage(
            self.requests,
            self.tool_calls + n_calls,
            self.input_tokens,
            self.cache_read_tokens,
            self.output_tokens,
        )
