"""Continue a conversation over many runs and processes: a session keeps it in a file."""

import tempfile
from pathlib import Path

from agentkit import Agent, SQLiteSession
from agentkit.testing import ScriptedModel

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "conversations.db"

    agent = Agent(ScriptedModel(["Nice to meet you, Dana."]))
    agent.run_sync("I am Dana.", session=SQLiteSession(file, "dana"))

    # Later, perhaps in another process: the same file and the same name continue the conversation.
    model = ScriptedModel(["You are Dana."])
    result = Agent(model).run_sync("Who am I?", session=SQLiteSession(file, "dana"))
    print(result.output)

# The model was sent the first question, its answer, and the new question.
assert len(model.calls[0].messages) == 3
assert len(result.messages) == 4
