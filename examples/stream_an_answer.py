"""Show an answer while the model writes it.

`python stream_an_answer.py`, or with another model: `python stream_an_answer.py local:small`.
"""

import sys

from agentkit import Agent, ModelSettings

agent = Agent(sys.argv[1] if len(sys.argv) > 1 else "local", settings=ModelSettings(max_tokens=60))
pieces: list[str] = []
with agent.run_stream_sync("Write a sentence about gardens.") as stream:
    for piece in stream.text():
        print(piece, end="", flush=True)
        pieces.append(piece)
print()

assert len(pieces) > 1
assert "".join(pieces) == stream.result.output
