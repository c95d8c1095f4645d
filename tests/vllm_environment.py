"""vLLM, which needs another torch and lies in an environment of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VLLM = Path(
    os.environ.get("VLLM_PYTHON", Path(__file__).resolve().parents[1] / ".venv-peers-serving-vllm/bin/python")
)
"""Interpreter of the environment."""
needs_vllm = pytest.mark.skipif(
    not VLLM.exists(),
    reason="needs vLLM: `python -m evals.speed.serving --part peers` makes its environment, or set VLLM_PYTHON",
)
