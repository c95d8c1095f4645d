"""The providers of the suite. A further one adds its class here, and a folder of recordings."""

from __future__ import annotations

from chat_protocol import ChatProtocol
from claude_protocol import ClaudeProtocol
from gemini_protocol import GeminiProtocol
from provider_protocol import ProviderProtocol
from responses_protocol import ResponsesProtocol

PROTOCOLS: tuple[ProviderProtocol, ...] = (ClaudeProtocol(), ChatProtocol(), GeminiProtocol(), ResponsesProtocol())
