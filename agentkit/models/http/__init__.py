"""Models behind an HTTP API: what all providers share. A provider subclasses `HTTPModel` and `ReplyBuilder`."""
