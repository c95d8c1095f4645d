"""The prompt cache of in-process models: where it lies, how large it is, and a later model that begins warm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from local_runs import add, get_weather, responses

from agentkit import Agent, LocalModel, ModelSettings, UserError
from agentkit.messages import DecodingStats
from agentkit.models.local.prompt_cache import SIZE_VARIABLE, configured_bytes, prompt_cache, prompt_cache_folder
from modelstack.inference import remembered

pytestmark = pytest.mark.anyio
INSTRUCTIONS = "You are an assistant of a small company. Answer shortly, and use the tools wherever they help."


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("AGENTKIT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv(SIZE_VARIABLE, "64")
    monkeypatch.setattr(remembered, "SETTLED_NS", 0)  # the test model was written a moment ago
    yield tmp_path / "cache"


async def ask(
    path: Path, question: str = "What is 2 + 3?", tools: Any = (get_weather, add), **options: Any
) -> tuple[str, DecodingStats]:
    """Ask through a model that shares nothing with the others but the disk."""
    model = LocalModel(path, n_threads=1, n_threads_prefill=1, **options)
    settings = ModelSettings(max_tokens=24, tool_choice="none")
    result = await Agent(model, instructions=INSTRUCTIONS, tools=tools, settings=settings).run(question)
    model.close()
    decoding = responses(result.messages)[0].decoding
    assert decoding is not None
    return str(result.output), decoding


async def test_a_later_model_restores_system_text_and_tools_and_answers_the_same(tiny_gguf: Path) -> None:
    (first, cold), (second, warm) = await ask(tiny_gguf), await ask(tiny_gguf)
    assert cold.restored_tokens == 0 and warm.restored_tokens == warm.reused_tokens > 64
    assert warm.prefilled_tokens + warm.restored_tokens == cold.prefilled_tokens
    assert first == second
    other, also_warm = await ask(tiny_gguf, "Is it raining in Bergen?")
    assert also_warm.restored_tokens == warm.restored_tokens
    assert other == (await ask(tiny_gguf, "Is it raining in Bergen?", prompt_cache_bytes=0))[0]


async def test_other_tools_are_another_fixed_part(tiny_gguf: Path) -> None:
    await ask(tiny_gguf)
    _, decoding = await ask(tiny_gguf, tools=(get_weather,))
    assert decoding.prefilled_tokens > 0
    assert decoding.restored_tokens < (await ask(tiny_gguf, tools=(get_weather,)))[1].restored_tokens


@pytest.mark.parametrize("switch", ["environment", "argument"])
async def test_switched_off_nothing_is_written(
    tiny_gguf: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    options: dict[str, Any] = {"prompt_cache_bytes": 0}
    if switch == "environment":
        options = {}
        monkeypatch.setenv(SIZE_VARIABLE, "0")
    for _ in range(2):
        assert (await ask(tiny_gguf, **options))[1].restored_tokens == 0
    assert not own_cache.exists()


async def test_a_cache_that_cannot_be_made_costs_nothing_but_speed(tiny_gguf: Path, own_cache: Path) -> None:
    own_cache.write_bytes(b"a file in the place of the folder")
    assert (await ask(tiny_gguf))[0] == (await ask(tiny_gguf, prompt_cache_bytes=0))[0]


async def test_the_size_comes_from_the_environment_and_is_1_gib_else(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert configured_bytes() == 64 << 20 and prompt_cache_folder() == own_cache / "prompts"
    store = prompt_cache(5)
    assert store is not None and (store.folder, store.max_bytes) == (own_cache / "prompts", 5)
    monkeypatch.delenv(SIZE_VARIABLE)
    assert configured_bytes() == 1 << 30
    monkeypatch.setenv(SIZE_VARIABLE, "0")
    assert prompt_cache() is None


@pytest.mark.parametrize("text", ["much", "-1", "1.5", "9" * 12])
async def test_a_size_that_is_no_number_is_a_mistake(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(SIZE_VARIABLE, text)
    with pytest.raises(UserError, match=f"{SIZE_VARIABLE}=.*whole number"):
        LocalModel(tiny_gguf, n_threads=1, n_threads_prefill=1).load()


async def test_a_negative_size_is_a_mistake(tiny_gguf: Path) -> None:
    with pytest.raises(UserError, match="prompt_cache_bytes=-1"):
        LocalModel(tiny_gguf, prompt_cache_bytes=-1)
