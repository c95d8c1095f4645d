"""Give an agent an image, and let a tool return another one.

The model here is a function, so the example needs no key. A model that sees takes its place without other changes,
for example "anthropic:claude-sonnet-4-5" or "openai:gpt-4.1-mini".
"""

import struct
import zlib

from agentkit import Agent, BinaryContent, FunctionModel, ModelResponse, TextPart, ToolCallPart
from agentkit.files import files_of, pixels_of


def png(width: int, height: int, colour: bytes) -> BinaryContent:
    """Return a picture of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + colour * width) * height)
    return BinaryContent(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""), "image/png"
    )


def crop(width: int, height: int) -> BinaryContent:
    """Return the upper left corner of the picture."""
    return png(width, height, b"\xc0\x20\x20")


def look(messages, parameters):
    """Crop the picture first, then tell the sizes of all pictures in the conversation."""
    contents = [part.content for message in messages for part in message.parts if hasattr(part, "text")]
    sizes = [pixels_of(file.data) for content in contents for file in files_of(content)]
    if len(sizes) == 1:
        return ModelResponse((ToolCallPart("crop", '{"width": 4, "height": 3}'),))
    return ModelResponse((TextPart(f"I saw pictures of {sizes}."),))


agent = Agent(FunctionModel(look), tools=[crop])
answer = agent.run_sync(["Look at the corner of this.", png(40, 30, b"\xc0\x20\x20")]).output
print(answer)
assert answer == "I saw pictures of [(40, 30), (4, 3)]."
