"""Skills: folders of instructions, files and scripts in the open Agent Skills format, loaded when needed."""

from agentkit.skills.files import SkillFile, SkillFiles, SkillRefused
from agentkit.skills.pins import SkillPin, SkillPins
from agentkit.skills.scripts import SkillScripts
from agentkit.skills.skill import Skill, SkillProblem, SkillReading, read_skill
from agentkit.skills.toolset import Skills

__all__ = [
    "Skill",
    "SkillFile",
    "SkillFiles",
    "SkillPin",
    "SkillPins",
    "SkillProblem",
    "SkillReading",
    "SkillRefused",
    "SkillScripts",
    "Skills",
    "read_skill",
]
