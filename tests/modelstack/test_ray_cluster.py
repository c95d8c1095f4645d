"""Connecting to Ray: what is wrong is named."""

from __future__ import annotations

import re
import sys

import pytest

from mcp_servers.distribution import install_command
from modelstack.errors import UserError
from modelstack.ray_cluster import ray_cluster


def test_a_missing_ray_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=re.escape(install_command("ray"))), ray_cluster(1):
        pass


def test_an_address_without_a_cluster_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="needs ray (extra `ray`)")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # other tests of this process may hold a cluster
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match="no Ray cluster answers there"), ray_cluster(1):
        pass
