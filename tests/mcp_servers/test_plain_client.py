"""The flows of the reference servers work on ours with the SDK's own client."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mcp_servers.plain_client import flows


@pytest.mark.anyio
async def test_files_git_pages_memory_and_times_work_with_the_plain_client(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await flows(tmp_path)
    said = capsys.readouterr().out
    assert "git_commit: Committed" in said
    assert "convert_time: Sunday 2026-03-01T22:30" in said
