"""Fixtures that every room's tests share."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import typer.testing
from hypothesis import HealthCheck, settings

from tests.golden import UPDATE

# How fast examples are drawn says something of the machine, and the first text draws a table of all characters.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
gc.set_threshold(20_000, 10, 10)  # the default, 700, is for programs of fewer objects


# Rounding depends on the instructions that a matrix product uses. Bounds mean the same on all processors if all
# use the same; read at MKL's first product.
os.environ.setdefault("MKL_CBWR", "AVX2")
# No test needs its files to outlast a loss of power, for which each write would wait for the disk.
os.fsync = lambda fd: None
# Each call would build all commands.
typer.main.get_command = functools.cache(typer.main.get_command)
typer.testing._get_command = typer.main.get_command  # pyright: ignore[reportPrivateImportUsage]


@pytest.fixture(params=[1_000, 10_000])
def each_recursion_limit(request: pytest.FixtureRequest) -> Iterator[None]:
    """Set Python's recursion limit; libraries change it, for example torch.compile to 2,000."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(request.param)
    yield
    sys.setrecursionlimit(before)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Exclude the collected modules and tests from later garbage collections.

    They are more than a million objects. A full collection would take 0.7 s, and `evals.harness` requests one for
    each evaluation.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        _exclude_from_collections()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let each process of xdist begin with other modules of a folder than the others do.

    In a fresh clone a module is compiled by the process that imports it first. In one order, all processes would
    compile all modules at the same time.
    """
    report = yield
    worker: dict[str, Any] | None = getattr(collector.config, "workerinput", None)
    if worker is not None and isinstance(collector, pytest.Directory) and report.passed:
        number = int(worker["workerid"].removeprefix("gw"))
        start = len(report.result) * number // worker["workercount"]
        report.result = [*report.result[start:], *report.result[:start]]
    return report


def pytest_configure(config: pytest.Config) -> None:
    """Let xdist keep the order of `pytest_collection_modifyitems`: its own has single slow tests last."""
    config.option.loadscopereorder = False


NEW_MODULES = 50
"""Number of modules, imported by tests, after which all objects are excluded from collections again."""


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish() -> None:
    """Exclude what tests import, too: full collections would take a tenth of the suite's time."""
    if len(sys.modules) >= _n_modules + NEW_MODULES:
        _exclude_from_collections()


_n_modules = 0


def _exclude_from_collections() -> None:
    global _n_modules
    gc.collect()
    gc.freeze()
    _n_modules = len(sys.modules)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let one process run the tests of a module, except slow ones that share no fixture of the module.

    Fixtures and caches of a module are made once, and xdist hands out a module at a time: to hand out each test by
    itself takes as long as to run a small one. Under xdist, groups with slow tests come first, and large groups
    before small ones: what starts last would keep one process busy alone.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None and (not _is_slow(item) or _shares_fixtures(item)):
            item.add_marker(pytest.mark.xdist_group(_module(item)))
    if hasattr(config, "workerinput"):
        items.sort(key=_module)  # all processes must have one order; within a module it is that of the file
    if config.getoption("loadgroup", False):
        slow = {_group(item) for item in items if _is_slow(item)}
        n_tests = Counter(map(_group, items))
        items.sort(key=lambda item: (_group(item) not in slow, -n_tests[_group(item)]))


def _module(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def _is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


def _shares_fixtures(item: pytest.Item) -> bool:
    """Return whether a test uses a fixture that is made once for its module."""
    fixtures = getattr(item, "_fixtureinfo", None)
    definitions = () if fixtures is None else fixtures.name2fixturedefs.values()
    return any(found.scope == "module" and found.baseid for each in definitions for found in each)


def _group(item: pytest.Item) -> str:
    """Return what one process runs together: the group of a test, or the test alone."""
    marker = item.get_closest_marker("xdist_group")
    return item.nodeid if marker is None else str((*marker.args, *marker.kwargs.values())[0])


@pytest.fixture
def anyio_backend() -> str:
    """Run `pytest.mark.anyio` tests on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def folder_numbers() -> Iterator[int]:
    """Numbers that make the names of tests' folders unique."""
    return itertools.count()


@pytest.fixture
def tmp_path(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, folder_numbers: Iterator[int]
) -> Path:
    """An empty folder of the test.

    pytest's own fixture reads the names of all earlier tests' folders for the next number: 3 ms after 2,000 tests.
    """
    name = re.sub(r"\W", "_", request.node.name)[:25]  # sockets have paths of 107 bytes at most
    folder = tmp_path_factory.getbasetemp() / f"{name}_{next(folder_numbers)}"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture(scope="session")
def pin_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders that are made when something is pinned in them."""
    base = tmp_path_factory.mktemp("pins")
    return (base / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def own_pins(pin_folders: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what MCP servers say of their tools from the user's pins and from other tests': ports come again."""
    monkeypatch.setenv("AGENTKIT_PINS_DIR", str(next(pin_folders)))


@pytest.fixture(autouse=True)
def no_prompt_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test find what another one, or the user, evaluated."""
    monkeypatch.setenv("AGENTKIT_PROMPT_CACHE_MB", "0")


@pytest.fixture(autouse=True)
def own_torch_settings() -> Iterator[None]:
    """Restore torch's number of threads and its products, which a training sets for its process."""
    torch = sys.modules.get("torch")
    n_threads = None if torch is None else torch.get_num_threads()
    yield
    if torch is not None:
        torch.set_num_threads(n_threads)
        if torch.backends.mkldnn.matmul.fp32_precision == "bf16":
            torch.set_float32_matmul_precision("highest")


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer llama model with a ChatML template, as a GGUF file."""
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python (extra `local`)")
    from tests.modelstack.inference.tiny_gguf import write_tiny_gguf

    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny_lora_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LoRA adapter for `tiny_gguf`."""
    from tests.modelstack.inference.tiny_gguf import write_tiny_lora

    return write_tiny_lora(tmp_path_factory.mktemp("tiny") / "tiny-lora.gguf")


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The real default model; skips where it has not been fetched."""
    from agentkit.models.catalog.entries import is_present, local_path

    if not is_present("smollm2-135m"):
        pytest.skip("needs the default model: agentkit models pull smollm2-135m")
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python (extra `local`)")
    return local_path("smollm2-135m")


@pytest.fixture(scope="session")
def minilm_model() -> Path:
    """The folder of the real embedding model; skips where it has not been fetched."""
    from modelstack.inference.minilm import minilm_folder

    folder = minilm_folder()
    if folder is None:
        pytest.skip("needs the embedding model: agentkit models pull minilm")
    return folder


@pytest.fixture(scope="module")
def pictures_drawn_once() -> Iterator[None]:
    """Draw each picture of trainings once for a module; the next trainings get a copy of its first one.

    A toy is trained in less time than matplotlib takes, and tests of the curves check the pictures.
    """
    pytest.importorskip("torch", reason="needs torch (extra `train`)")
    from modelstack.reasoning.policy import run as policy
    from modelstack.reasoning.ppo import run as ppo
    from modelstack.train import curves

    with pytest.MonkeyPatch.context() as patched:
        for module, name in ((curves, "draw"), (policy, "draw_rewards"), (ppo, "draw_rewards")):
            patched.setattr(module, name, _drawing_once(getattr(module, name)))
        yield


def _drawing_once(draw: Callable[[Any, Path], object]) -> Callable[[Any, Path], None]:
    first: list[bytes] = []

    def drawn(numbers: Any, picture: Path) -> None:
        if not first:
            draw(numbers, picture)
            first.append(picture.read_bytes())
        picture.write_bytes(first[0])

    return drawn


@pytest.fixture(scope="session")
def two_ray_workers() -> Iterator[Any]:
    """A Ray cluster of two CPUs on this machine, as the module `ray`; for tests of `xdist_group("ray")`.

    It starts once, in the process that runs the group, and stays until that process has no more tests.
    """
    pytest.importorskip("ray", reason="needs ray (extra `ray`)")
    from modelstack.ray_cluster import ray_cluster

    with ray_cluster(2) as ray:
        yield ray


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes outputs of commands anew."""
    parser.addoption(UPDATE, action="store_true", help="Write outputs of commands anew: golden files and docs.")
