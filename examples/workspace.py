"""Give an agent a folder in which it edits files and runs commands, isolated by the kernel (Linux).

`python workspace.py`. The model here is a script: it repairs a program, and then it tries to reach the machine.
"""

import tempfile
from pathlib import Path

from agentkit import Agent, ToolReturnPart, Workspace
from agentkit.testing import ScriptedModel, call

PROGRAM = "def mean(values):\n    return sum(values) / len(value)\n\n\nprint(mean([1, 2, 6]))\n"
REACH = """
import os, socket
address = "1.1.1.1", 53
for attempt in (lambda: open(SECRET), lambda: socket.create_connection(address, 1), lambda: os.kill(PID, 9)):
    try:
        attempt()
        print("reached")
    except OSError as error:
        print("held:", error.strerror)
"""

with tempfile.TemporaryDirectory() as folder:
    secret, work = Path(folder, "secret"), Path(folder, "work")
    secret.write_text("of the host", encoding="utf-8")
    work.mkdir()
    (work / "mean.py").write_text(PROGRAM, encoding="utf-8")
    model = ScriptedModel(
        [
            call("run_shell", command="python3 mean.py"),
            call("search_files", text="value)"),
            call("edit_file", path="mean.py", old_text="len(value)", new_text="len(values)"),
            call("run_shell", command="python3 mean.py"),
            call("run_python", code=f"SECRET, PID = {str(secret)!r}, 1234567\n{REACH}"),
            "It works: the mean is 3.0.",
        ]
    )
    # The content of this folder is our own, so what is read does not taint the run.
    agent = Agent(model, toolsets=[Workspace(work, trust="trusted")])
    result = agent.run_sync("Repair mean.py.")
    parts = [part for message in result.messages for part in message.parts if isinstance(part, ToolReturnPart)]

    for part in parts:
        print(f"[{part.tool_name}]", part.text.splitlines()[-1])
    print(result.output)
    assert "NameError" in parts[0].text
    assert parts[3].text == "Exit status 0.\n3.0"
    assert parts[4].text.count("held:") == 3 and "reached" not in parts[4].text
    assert "len(values)" in (work / "mean.py").read_text(encoding="utf-8")
