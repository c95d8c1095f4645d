"""Test doubles for applications that embed an agent, and checks for implementations of its protocols."""

from agentkit.models.base import block_model_requests
from agentkit.testing.conformance import check_checkpointer, check_session, check_stored_events
from agentkit.testing.conformance_of_models import check_model, check_toolset
from agentkit.testing.models import FunctionModel, RecordedRequest, ScriptedModel, TestModel, call
from agentkit.testing.replay import ReplayModel

__all__ = [
    "FunctionModel",
    "RecordedRequest",
    "ReplayModel",
    "ScriptedModel",
    "TestModel",
    "block_model_requests",
    "call",
    "check_checkpointer",
    "check_model",
    "check_session",
    "check_stored_events",
    "check_toolset",
]
