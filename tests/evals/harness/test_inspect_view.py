"""The log of a run of ours opens in Inspect's viewer: what Chromium shows of the list, the log and one sample."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Generator
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import pytest

pytest.importorskip("inspect_ai", reason="needs inspect-ai (extra `evals`)")

pytest.importorskip("matplotlib", reason="needs matplotlib (extra `evals`)")

from headless_chromium import CHROMIUM, HEIGHT, WIDTH, Seen, child, chromium, look
from matplotlib.image import imread

from agentkit.messages import ModelResponse, TextPart
from agentkit.testing import FunctionModel
from evals.harness import suite
from evals.harness.evaluation import evaluate
from evals.harness.specification import Specification

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (`apt-get install chromium`)"),
]
BUSY = ("Loading", "Syncing")
"""What the viewer shows as long as it is not done."""
IDS = [f"sum_{i}" for i in range(6)]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluate a model that always says 4; one case fails with an error."""
    four = FunctionModel(lambda messages, parameters: ModelResponse((TextPart("4"),)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(suite.SUITES, "sums", "harness_suites:SUMS")
        specification = Specification("sums", "function", {"trouble": "sum_5"})
        return evaluate(specification, tmp_path_factory.mktemp("evaluation"), model=four).log


@pytest.fixture(scope="module")
def viewer(log: Path) -> Generator[str]:
    """Run `inspect view` on the folder of the log and yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-u", "-m", "inspect_ai", "view", "start", "--log-dir", str(log.parent)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with child(command, ready="Running on (http[^ ]*)", env=os.environ) as found:
        yield found[1]


@pytest.fixture(scope="module")
def devtools(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with chromium(tmp_path_factory.mktemp("profile")) as address:
        yield address


def assert_is_a_picture(seen: Seen) -> None:
    """Check the size, and that there is neither nothing nor everything on it."""
    image = imread(BytesIO(seen.png))
    assert image.shape[:2] == (HEIGHT, WIDTH)
    dark = (image[..., :3].min(axis=-1) < 0.6).mean()
    assert 0.002 < dark < 0.5


def test_the_list_of_logs_names_our_suite_model_and_score(log: Path, viewer: str, devtools: str) -> None:
    wanted = [log.name, "sums", "0.167"]  # the mean: one of six is right
    assert_is_a_picture(asyncio.run(look(devtools, f"{viewer}/#/logs/", wanted, BUSY)))


def test_a_log_shows_its_samples_and_their_scores(log: Path, viewer: str, devtools: str) -> None:
    address = f"{viewer}/#/logs/{quote(log.name)}/samples"
    seen = asyncio.run(look(devtools, address, ["6 samples", *IDS], BUSY))
    lines = seen.text.splitlines()
    assert lines[lines.index("sums (mean)\t0.167\t0.167")]
    # Id, input, target and answer stand one below the other in the text of the table.
    at = lines.index("sum_2")
    assert lines[at : at + 4] == ["sum_2", "2+2", "4", "4"]
    assert_is_a_picture(seen)


def test_a_sample_shows_the_conversation_and_the_verdict(log: Path, viewer: str, devtools: str) -> None:
    sample = f"{viewer}/#/logs/{quote(log.name)}/samples/sample/sum_3/1"
    messages = asyncio.run(look(devtools, f"{sample}/messages", ["sum_3", "sums", "user", "assistant"], BUSY))
    assert messages.text.count("3+3") >= 2  # in the head, and as the user's message
    assert_is_a_picture(messages)
    verdict = asyncio.run(look(devtools, f"{sample}/scoring", ["sum_3", "explanation"], BUSY))
    assert "expected 6" in verdict.text
    assert_is_a_picture(verdict)
