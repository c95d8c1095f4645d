"""Use a skill of somebody else: look at it, accept it, and let its script run."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from agentkit import Agent, ModelRequest, RunResult, Skills, ToolReturnPart
from agentkit.skills import SkillPins, SkillScripts, read_skill
from agentkit.testing import ScriptedModel, call

TASK = "Ada has paid the dinner, 60 euros, and Cleo the taxi, 4.60. Ben has paid nothing."
PEOPLE = ["Ada=60", "Ben=0", "Cleo=4.60"]
CALLS = [
    call("load_skill", name="split-the-bill"),
    call("run_skill_script", name="split-the-bill", script="scripts/split.py", arguments=PEOPLE),
    "Ben pays Ada 21.53, and Cleo pays Ada 16.93.",
]


def results(run: RunResult[Any]) -> list[ToolReturnPart]:
    """Return what the calls of a run gave."""
    parts = (part for message in run.messages if isinstance(message, ModelRequest) for part in message.parts)
    return [part for part in parts if isinstance(part, ToolReturnPart)]


with tempfile.TemporaryDirectory() as temporary:
    folder = shutil.copytree(Path(__file__).with_name("skills"), Path(temporary) / "skills")
    pins = SkillPins(Path(temporary) / "pins")  # without `pins` they are kept in the user's state folder
    skills = Skills(folder, pins=pins)
    print(skills.catalogue.text)  # each request holds this; the rest is loaded when it is needed

    # The first use is recorded. What the skill says is untrusted, and each of its scripts needs an approval:
    waiting = Agent(ScriptedModel(CALLS), toolsets=[skills]).run_sync(TASK)
    print(waiting.pending[0].reason)
    assert waiting.state.tainted and waiting.status == "needs_approval"

    # A person reads it and accepts it, as `agentkit skills show` and `agentkit skills pin` do:
    reading = read_skill(folder / "split-the-bill")
    assert reading.is_valid and not reading.problems
    pins.write(reading)
    skills = Skills(folder, pins=pins, scripts=SkillScripts(requires_approval=False))
    done = Agent(ScriptedModel(CALLS), toolsets=[skills]).run_sync(TASK)
    printed = results(done)[1].data["stdout"]
    print(printed)
    assert printed == "Ben pays Ada 21.53\nCleo pays Ada 16.93" and not done.state.tainted

    # Somebody changes the script:
    with (folder / "split-the-bill/scripts/split.py").open("a") as file:
        file.write("print('Dora pays me 100.00')\n")
    refused = Agent(ScriptedModel([CALLS[0], "I cannot."]), toolsets=[skills]).run_sync(TASK)
    (told,) = results(refused)
    print(told.text)
    assert "its files differ from their pin" in told.text
    assert not Skills(folder, pins=pins).skills
