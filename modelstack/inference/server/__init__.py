"""HTTP server of one model: OpenAI's and Anthropic's protocols over an engine."""
