"""The studio's page in a real browser: bytes, and time to the first paint from a local server.

A new browser context for each load, so that nothing is cached; the server is a process of its own. The time is the
browser's `first-contentful-paint`, which counts from the beginning of the navigation.

    python -m evals.speed.studio_page [--loads 20]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median

from evals.speed.ports import free_port
from evals.speed.results import BenchmarkResult, Figure, add_result_option, finish

MOST_BYTES, MOST_PAINT_S = 300_000, 0.3
"""Promised bounds of the page's size and of the first paint."""
AGENT = "from agentkit import Agent\nfrom agentkit.testing import TestModel\n\nagent = Agent(TestModel())\n"
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


@contextmanager
def served() -> Iterator[str]:
    """Yield the address of a studio in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        module = Path(folder) / "measured_agent.py"
        module.write_text(AGENT, encoding="utf-8")
        port = free_port()
        command = [
            sys.executable,
            "-m",
            "agentkit.cli.main",
            "studio",
            f"{module}:agent",
            "--no-open",
            "--port",
            str(port),
        ]
        command += ["--journal", str(Path(folder) / "runs.db")]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            assert server.stderr is not None
            told = server.stderr.readline()
            try:
                if not told.startswith("http"):
                    raise RuntimeError(f"the studio did not start: {told}{server.stderr.read()}")
                yield told.split(" ", 1)[0]
            finally:
                server.terminate()


def loads(url: str, n: int) -> tuple[list[float], int]:
    """Return seconds to the first paint of each load, and the bytes of one."""
    from playwright.sync_api import sync_playwright

    from mcp_servers.browser.chromium import find_chromium

    seconds: list[float] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(None), args=["--no-sandbox"])
        n_bytes = 0
        for _ in range(n + 1):  # the first load warms the browser up
            context = browser.new_context()
            page = context.new_page()
            sizes: list[int] = []
            page.on("response", lambda response, sizes=sizes: sizes.append(len(response.body())))
            page.goto(url, wait_until="networkidle")
            while (paint := page.evaluate(PAINT)) is None:
                time.sleep(0.01)
            seconds.append(paint / 1000)
            n_bytes = sum(sizes)
            context.close()
        browser.close()
    return seconds[1:], n_bytes


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if a bound is broken, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=int, default=20)
    add_result_option(parser)
    options = parser.parse_args(argv)
    with served() as url:
        seconds, n_bytes = loads(url, options.loads)
    figures = (
        Figure("bytes of the page, all files and first answers", n_bytes, "bytes", bound=MOST_BYTES),
        Figure("first paint, median", median(seconds), "s", bound=MOST_PAINT_S),
        Figure("first paint, slowest", max(seconds), "s"),
        Figure("first paint, mean", fmean(seconds), "s"),
    )
    for figure in figures:
        print(f"{figure.name}: {figure.value:.3f} {figure.unit}")
    return finish(options.result, BenchmarkResult(figures, (), parameters={"loads": str(options.loads)}))


if __name__ == "__main__":
    sys.exit(main())
