"""Models behind the OpenAI chat-completions protocol."""
