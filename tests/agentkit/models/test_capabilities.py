"""Capabilities by provider and name: versions of a listed model are known, and nothing else is guessed."""

from __future__ import annotations

from typing import get_args

import pytest
from anthropic.types.model_param import ModelParam
from genai_prices.data import providers as price_list
from openai.types.shared.chat_model import ChatModel

from agentkit.models.base import ModelProfile
from agentkit.models.capabilities import ModelCapabilities, capabilities_of
from agentkit.models.capability_table import MODELS, OPEN_MODELS

ALL = [(provider, name) for provider, models in MODELS.items() for name in models]
PRICE_PROVIDERS = {"mistral_ai": "mistral", "x_ai": "x-ai"}


def known(provider: str, name: str) -> ModelCapabilities:
    found = capabilities_of(provider, name)
    assert found is not None, (provider, name)
    return found


@pytest.mark.parametrize(
    ("provider", "name", "listed"),
    [
        ("anthropic", "claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("anthropic", "claude-opus-4-20250514", "claude-opus-4"),
        ("anthropic", "Claude-Opus-5-5", "claude-opus-5-5"),
        ("openai", "gpt-4o-2024-11-20", "gpt-4o"),
        ("openai", "gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("openai", "gpt-4-0613", "gpt-4"),
        ("openai", "o3-2025-04-16", "o3"),
        ("openai", "gpt-5.1", "gpt-5.1"),
    ],
)
def test_a_version_of_a_model_has_its_capabilities(provider: str, name: str, listed: str) -> None:
    assert known(provider, name) is MODELS[provider][listed]


def test_a_version_with_capabilities_of_its_own_is_listed_itself() -> None:
    assert known("openai", "gpt-4o-2024-05-13").max_output_tokens == 4_096
    assert known("openai", "gpt-4o-2024-08-06").max_output_tokens == 16_384


def test_the_same_models_at_another_provider_are_the_same() -> None:
    gemini = known("gcp.gemini", "gemini-2.5-flash-preview-09-2025")
    assert gemini is known("gcp.vertex_ai", "gemini-2.5-flash-001") is MODELS["google"]["gemini-2.5-flash"]
    assert known("gcp.gemini", "models/gemini-3-pro-preview") is MODELS["google"]["gemini-3-pro"]
    assert known("gcp.vertex_ai", "claude-opus-4-5@20251101") is MODELS["anthropic"]["claude-opus-4-5"]
    assert known("azure.ai.openai", "gpt-4o") is MODELS["openai"]["gpt-4o"]


@pytest.mark.parametrize(
    ("provider", "name"),
    [("groq", "openai/gpt-oss-20b"), ("openai", "gpt-oss-20b"), ("agentkit", "gpt-oss-20b:latest")],
)
def test_an_open_model_is_known_wherever_it_is_served(provider: str, name: str) -> None:
    assert known(provider, name) is OPEN_MODELS["gpt-oss-20b"]


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        ("openai", "gpt-99"),
        ("openai", "gpt-4o-realtime-preview"),
        ("openai", "gpt-4o-search-preview"),
        ("openai", "gpt-4-1106-preview"),
        ("openai", "gpt-5-chat-latest"),
        ("openai", "claude-opus-4-5"),
        ("anthropic", "claude-opus-5-9"),
        ("anthropic", "claude-opus-4-5-thinking"),
        ("anthropic", "gpt-4o"),
        ("gcp.gemini", "gemini-2.5-flash-image"),
        ("nobody", "gpt-4o"),
        ("openai", ""),
        ("openai", "gpt-4o" + "-2024-11-20" * 10_000),
    ],
)
def test_nothing_is_guessed_from_a_similar_name(provider: str, name: str) -> None:
    assert capabilities_of(provider, name) is None


@pytest.mark.parametrize("name", get_args(get_args(ModelParam)[0]))
def test_every_model_that_the_anthropic_package_names_is_known(name: str) -> None:
    capabilities = known("anthropic", name)
    assert capabilities.max_output_tokens is not None and capabilities.prompt_cache == "explicit"


def test_the_current_models_that_the_openai_package_names_are_known() -> None:
    """Previews, search and chat-only variants are left out on purpose."""
    unknown = [name for name in get_args(ChatModel) if capabilities_of("openai", name) is None]
    others = (
        "preview",
        "chat-latest",
        "chatgpt",
        "codex-mini",
        "gpt-3.5-turbo-16k",
        "gpt-4-32k",
        "o1-mini",
        "5.1-mini",
    )
    assert [name for name in unknown if not any(part in name for part in others)] == []


@pytest.mark.parametrize(("provider", "name"), ALL)
def test_context_windows_are_not_larger_than_those_of_the_price_list(provider: str, name: str) -> None:
    """The list rounds some windows, so those are compared within 5 %."""
    wanted = PRICE_PROVIDERS.get(provider, provider)
    (models,) = (each for each in price_list if each.id == wanted)
    found = models.find_model(name, all_providers=price_list)
    window = known(provider, name).context_window
    if found is None or found.context_window is None or name in OTHER_WINDOWS:
        return
    assert window is not None and abs(window - found.context_window) <= 0.05 * found.context_window


OTHER_WINDOWS = {
    "deepseek-chat": "the list has the window of the first version",
    "deepseek-reasoner": "as deepseek-chat",
    "gpt-4.1": "1,047,576 by its model page; the list rounds to a million",
}


@pytest.mark.parametrize(("provider", "name"), ALL)
def test_the_fields_of_an_entry_agree(provider: str, name: str) -> None:
    entry = known(provider, name)
    assert entry.max_output_tokens is None or entry.max_output_tokens <= (entry.context_window or 0)
    assert entry.least_thinking is None or entry.thinking in ("budget", "adaptive", "effort", "level")
    assert entry.native_output or not entry.strict_tools or entry.audio_input
    assert (entry.thinking in ("adaptive",)) <= (provider == "anthropic")


def test_a_profile_has_what_a_run_reads() -> None:
    profile = known("openai", "o3").profile(logprobs=True)
    assert profile == ModelProfile(
        logprobs=True,
        prefix_cache=True,
        context_window=200_000,
        parallel_tool_calls=False,
        native_output=True,
        inputs=frozenset({"image", "document"}),
    )
