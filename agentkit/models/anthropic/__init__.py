"""Claude models behind Anthropic's Messages API."""
