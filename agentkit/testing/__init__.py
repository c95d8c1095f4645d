"""Test doubles for applications that embed an agent."""

from agentkit.models.model import block_model_requests
from agentkit.testing.models import FunctionModel, ModelCall, ScriptedModel, TestModel, call

__all__ = ["FunctionModel", "ModelCall", "ScriptedModel", "TestModel", "block_model_requests", "call"]
