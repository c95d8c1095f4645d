"""The thought of a model in this process as a part of its response."""

from __future__ import annotations

from dataclasses import replace

from agentkit.messages import ModelResponse, ThinkingPart
from agentkit.models.local.reply import decoding_of, free_usage
from modelstack.inference.engine import Generation
from modelstack.inference.thinking import ThoughtfulReply


def with_thought(response: ModelResponse, thought: ThoughtfulReply, written: Generation) -> ModelResponse:
    """Return a response with its thought as a part, and with the thought's tokens and cost added."""
    text = thought.thought.strip()
    usage = free_usage(response.usage.input_tokens, written)
    parts = (ThinkingPart(text), *response.parts) if text else response.parts
    return replace(response, parts=parts, usage=usage, decoding=decoding_of(written.stats))
