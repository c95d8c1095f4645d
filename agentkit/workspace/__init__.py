"""A workspace: a folder in which an agent reads and changes files and runs commands, isolated by the kernel."""

from agentkit.workspace.sandbox import SandboxError, SandboxLimits, SandboxResult, run_in_sandbox
from agentkit.workspace.toolset import Workspace

__all__ = ["SandboxError", "SandboxLimits", "SandboxResult", "Workspace", "run_in_sandbox"]
