"""Table of the capabilities of models, by provider and name; `agentkit.models.capabilities` looks them up.

State of 1 December 2026. Sources: the model pages and migration guides of Anthropic, OpenAI and Google; the types
of the packages anthropic 2.14 and openai 3.57; context windows of genai-prices 0.2.3; models.dev of 2 July 2026
for output limits and open models. A value that no source gives is the cautious one: the smaller limit, the missing
capability, the setting that every model of the family accepts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from agentkit.models.base import ModelProfile

if TYPE_CHECKING:
    from agentkit.files import FileKind

ThinkingKind = Literal["none", "always", "switch", "budget", "adaptive", "effort", "level"]
PromptCacheKind = Literal["none", "automatic", "explicit"]


@dataclass(frozen=True, slots=True)
class ModelCapabilities:
    """Capabilities of a model, as its provider documents them."""

    context_window: int | None = None
    """Tokens of prompt and reply together; None: not published. A server of one's own may have fewer."""
    max_output_tokens: int | None = None
    """Largest permitted `max_tokens`, thinking included; None: not published."""
    image_input: bool = False
    audio_input: bool = False
    document_input: bool = False
    """Accepts PDF files."""
    tools: bool = True
    parallel_tool_calls: bool = True
    forced_tool_choice: bool = True
    """A request may demand a call. Some models that always think refuse it."""
    tools_need_responses: bool = False
    """OpenAI only: with function tools, the model thinks in the Responses API only. Chat completions refuse the
    tools unless the reasoning effort is "none"."""
    strict_tools: bool = False
    """Arguments of calls can be constrained to the tool's schema."""
    native_output: bool = False
    """Accepts a JSON Schema for the answer."""
    native_output_with_tools: bool = True
    """Accepts a JSON Schema for the answer in a request with tools."""
    thinking: ThinkingKind = "none"
    """How the thinking is set.

    - "none": the model does not think.
    - "always": it always thinks, and nothing can be set.
    - "switch": on or off, by a field of the server or of the chat template.
    - "budget": a number of tokens (Anthropic's `budget_tokens`, Gemini 2.5's `thinkingBudget`).
    - "adaptive": Anthropic's adaptive thinking; a budget is refused.
    - "effort": OpenAI's reasoning effort.
    - "level": Gemini 3's `thinkingLevel`.
    """
    least_thinking: str | None = None
    """Value with the least thinking; None: thinking cannot be reduced, or there is none.

    Anthropic: a `thinking.type`, or "omitted" if it must be left out. OpenAI: an effort. Gemini: a level, or the
    smallest budget in digits.
    """
    sampling: bool = True
    """Accepts temperature, top_p and top_k while it thinks."""
    prompt_cache: PromptCacheKind = "none"
    """"explicit": only marked prefixes are cached (Anthropic's `cache_control`)."""

    def profile(self, **changes: Any) -> ModelProfile:
        """Return the part that a run reads; `changes` are other fields of `ModelProfile`."""
        inputs: dict[FileKind, bool] = {
            "image": self.image_input,
            "audio": self.audio_input,
            "document": self.document_input,
        }
        profile = ModelProfile(
            inputs=frozenset(kind for kind, reads in inputs.items() if reads),
            context_window=self.context_window,
            parallel_tool_calls=self.parallel_tool_calls,
            native_output=self.native_output,
            prefix_cache=self.prompt_cache != "none",
        )
        return replace(profile, **changes) if changes else profile


# -- Anthropic ---------------------------------------------------------------------------------------------------

_CLAUDE_4 = ModelCapabilities(
    context_window=200_000,
    max_output_tokens=64_000,
    image_input=True,
    document_input=True,
    thinking="budget",
    least_thinking="omitted",
    prompt_cache="explicit",
)
_CLAUDE_4_5 = replace(_CLAUDE_4, strict_tools=True, native_output=True)
_CLAUDE_4_6 = replace(_CLAUDE_4_5, context_window=1_000_000)
_CLAUDE_4_7 = replace(_CLAUDE_4_6, max_output_tokens=128_000, thinking="adaptive", sampling=False)
_CLAUDE_5 = replace(_CLAUDE_4_7, least_thinking="disabled")
_CLAUDE_FABLE_5 = replace(_CLAUDE_5, least_thinking=None)
_CLAUDE_ALWAYS_THINKS = replace(_CLAUDE_FABLE_5, forced_tool_choice=False)

_CLAUDE: dict[str, ModelCapabilities] = {
    "claude-3-5-haiku": replace(_CLAUDE_4, max_output_tokens=8_192, thinking="none", least_thinking=None),
    "claude-3-7-sonnet": _CLAUDE_4,
    "claude-sonnet-4": _CLAUDE_4,
    "claude-sonnet-4-0": _CLAUDE_4,
    "claude-opus-4": replace(_CLAUDE_4, max_output_tokens=32_000),
    "claude-opus-4-0": replace(_CLAUDE_4, max_output_tokens=32_000),
    "claude-opus-4-1": replace(_CLAUDE_4, max_output_tokens=32_000),
    "claude-sonnet-4-5": _CLAUDE_4_5,
    "claude-haiku-4-5": _CLAUDE_4_5,
    "claude-opus-4-5": _CLAUDE_4_5,
    "claude-sonnet-4-6": _CLAUDE_4_6,
    "claude-opus-4-6": replace(_CLAUDE_4_6, max_output_tokens=128_000),
    "claude-opus-4-7": _CLAUDE_4_7,
    "claude-opus-4-8": _CLAUDE_4_7,
    "claude-sonnet-5": _CLAUDE_5,
    "claude-opus-5": _CLAUDE_5,
    "claude-haiku-5-5": replace(_CLAUDE_5, forced_tool_choice=False),
    "claude-sonnet-5-5": replace(_CLAUDE_5, least_thinking="between_tools", forced_tool_choice=False),
    "claude-opus-5-5": _CLAUDE_ALWAYS_THINKS,
    "claude-mythos-preview": _CLAUDE_ALWAYS_THINKS,
    "claude-fable-5": _CLAUDE_FABLE_5,
    "claude-mythos-5": _CLAUDE_FABLE_5,
    "claude-fable-5-1": _CLAUDE_ALWAYS_THINKS,
    "claude-mythos-5-1": _CLAUDE_ALWAYS_THINKS,
    "claude-fable-5-2": _CLAUDE_ALWAYS_THINKS,
    "claude-mythos-5-2": _CLAUDE_ALWAYS_THINKS,
}
CLAUDE_ON_VERTEX = _CLAUDE
"""Google serves Claude under Anthropic's names, with the date behind an @."""

# -- OpenAI ------------------------------------------------------------------------------------------------------

_GPT_4O = ModelCapabilities(
    context_window=128_000,
    max_output_tokens=16_384,
    image_input=True,
    document_input=True,
    strict_tools=True,
    native_output=True,
    prompt_cache="automatic",
)
_GPT_4_1 = replace(_GPT_4O, context_window=1_047_576, max_output_tokens=32_768)
_GPT_AUDIO = replace(_GPT_4O, image_input=False, document_input=False, audio_input=True, native_output=False)
_GPT_4 = ModelCapabilities(context_window=8_192, max_output_tokens=8_192)
_O_SERIES = replace(
    _GPT_4O,
    context_window=200_000,
    max_output_tokens=100_000,
    parallel_tool_calls=False,
    thinking="effort",
    least_thinking="low",
    sampling=False,
)
_GPT_5 = replace(
    _O_SERIES,
    context_window=400_000,
    max_output_tokens=128_000,
    parallel_tool_calls=True,
    least_thinking="minimal",
)
_GPT_5_CODEX = replace(_GPT_5, least_thinking="low", tools_need_responses=True)
_GPT_5_1 = replace(_GPT_5, least_thinking="none")
_GPT_5_4 = replace(_GPT_5_1, tools_need_responses=True)
_GPT_5_5 = replace(_GPT_5_4, context_window=1_050_000)
_GPT_6 = replace(_GPT_5_5, least_thinking="low")

_OPENAI: dict[str, ModelCapabilities] = {
    "gpt-3.5-turbo": replace(_GPT_4, context_window=16_385, max_output_tokens=4_096),
    "gpt-4": _GPT_4,
    "gpt-4-turbo": replace(_GPT_4, context_window=128_000, max_output_tokens=4_096, image_input=True),
    "gpt-4o": _GPT_4O,
    "gpt-4o-2024-05-13": replace(_GPT_4O, max_output_tokens=4_096, strict_tools=False, native_output=False),
    "gpt-4o-mini": _GPT_4O,
    "gpt-4o-audio-preview": _GPT_AUDIO,
    "gpt-4o-mini-audio-preview": _GPT_AUDIO,
    "gpt-audio": _GPT_AUDIO,
    "gpt-audio-mini": _GPT_AUDIO,
    "gpt-4.1": _GPT_4_1,
    "gpt-4.1-mini": _GPT_4_1,
    "gpt-4.1-nano": _GPT_4_1,
    "o1": _O_SERIES,
    "o1-pro": replace(_O_SERIES, tools_need_responses=True),
    "o3": _O_SERIES,
    "o3-pro": replace(_O_SERIES, tools_need_responses=True),
    "o3-mini": replace(_O_SERIES, image_input=False, document_input=False),
    "o4-mini": _O_SERIES,
    "gpt-5": _GPT_5,
    "gpt-5-mini": _GPT_5,
    "gpt-5-nano": _GPT_5,
    "gpt-5-pro": replace(_GPT_5_CODEX, max_output_tokens=272_000, least_thinking="high"),
    "gpt-5-codex": _GPT_5_CODEX,
    "gpt-5.1": _GPT_5_1,
    "gpt-5.1-codex": _GPT_5_CODEX,
    "gpt-5.1-codex-max": _GPT_5_CODEX,
    "gpt-5.1-codex-mini": _GPT_5_CODEX,
    "gpt-5.2": _GPT_5_1,
    "gpt-5.2-pro": replace(_GPT_5_CODEX, least_thinking="medium"),
    "gpt-5.2-codex": _GPT_5_CODEX,
    "gpt-5.3-codex": _GPT_5_CODEX,
    "gpt-5.4": _GPT_5_5,
    "gpt-5.4-mini": _GPT_5_4,
    "gpt-5.4-nano": _GPT_5_4,
    "gpt-5.4-pro": replace(_GPT_5_5, least_thinking="medium"),
    "gpt-5.5": _GPT_5_5,
    "gpt-5.5-pro": replace(_GPT_5_5, least_thinking="medium"),
    "gpt-5.6": _GPT_5_5,
    "gpt-5.6-sol": _GPT_5_5,
    "gpt-5.6-terra": _GPT_5_5,
    "gpt-5.6-luna": _GPT_5_5,
    "gpt-6-astra": _GPT_6,
    "gpt-6-sol": _GPT_5_5,
    "gpt-6-luna": _GPT_5_5,
    "gpt-6.1-sol": _GPT_6,
    "gpt-6.1-terra": _GPT_5_5,
    "gpt-6.2-astra": _GPT_6,
    "gpt-6.2-sol": _GPT_6,
}

# -- Google ------------------------------------------------------------------------------------------------------

_GEMINI_2 = ModelCapabilities(
    context_window=1_048_576,
    max_output_tokens=8_192,
    image_input=True,
    audio_input=True,
    document_input=True,
    native_output=True,
    native_output_with_tools=False,
    prompt_cache="automatic",
)
_GEMINI_2_5 = replace(_GEMINI_2, max_output_tokens=65_536, thinking="budget", least_thinking="0")
_GEMINI_3 = replace(_GEMINI_2_5, native_output_with_tools=True, thinking="level", least_thinking="low")
_GEMINI_3_FLASH = replace(_GEMINI_3, least_thinking="minimal")

_GEMINI: dict[str, ModelCapabilities] = {
    "gemini-2.0-flash": _GEMINI_2,
    "gemini-2.0-flash-lite": _GEMINI_2,
    "gemini-2.5-pro": replace(_GEMINI_2_5, least_thinking="128"),
    "gemini-2.5-flash": _GEMINI_2_5,
    "gemini-2.5-flash-lite": _GEMINI_2_5,
    "gemini-3-pro": _GEMINI_3,
    "gemini-3-flash": _GEMINI_3_FLASH,
    "gemini-3.1-pro": _GEMINI_3,
    "gemini-3.1-flash-lite": _GEMINI_3_FLASH,
    "gemini-3.5-flash": _GEMINI_3,
    "gemini-3.5-flash-lite": _GEMINI_3,
    "gemini-3.6-flash": _GEMINI_3,
    "gemini-3.7-flash": _GEMINI_3,
    "gemini-3.8-flash": _GEMINI_3,
    "gemini-4-argon": _GEMINI_3,
}

# -- other providers ---------------------------------------------------------------------------------------------

_DEEPSEEK = ModelCapabilities(context_window=1_000_000, max_output_tokens=384_000, prompt_cache="automatic")
_MISTRAL = ModelCapabilities(context_window=262_144, image_input=True, native_output=True)
_GROK = ModelCapabilities(
    context_window=1_000_000,
    max_output_tokens=30_000,
    image_input=True,
    native_output=True,
    prompt_cache="automatic",
)

MODELS: dict[str, dict[str, ModelCapabilities]] = {
    "anthropic": _CLAUDE,
    "openai": _OPENAI,
    "google": _GEMINI,
    "deepseek": {
        "deepseek-chat": _DEEPSEEK,
        "deepseek-reasoner": replace(_DEEPSEEK, thinking="always", forced_tool_choice=False, sampling=False),
        "deepseek-v4-flash": replace(_DEEPSEEK, thinking="switch"),
        "deepseek-v4-pro": replace(_DEEPSEEK, thinking="switch"),
    },
    "mistral_ai": {
        "mistral-large-2512": _MISTRAL,
        "mistral-medium-2604": replace(_MISTRAL, thinking="switch"),
        "mistral-small-2603": replace(_MISTRAL, context_window=256_000, thinking="switch"),
        "devstral-2512": replace(_MISTRAL, image_input=False),
        "codestral-latest": replace(_MISTRAL, context_window=256_000, image_input=False),
    },
    "x_ai": {
        "grok-4.20-0309-non-reasoning": _GROK,
        "grok-4.20-0309-reasoning": replace(_GROK, thinking="always"),
        "grok-4.3": replace(_GROK, thinking="always"),
    },
}
"""Capabilities by provider and name; names are in lower case."""

# -- open models: what the weights can do; structured output, strict tools and caches are their server's ----------

_QWEN_3 = ModelCapabilities(context_window=131_072, thinking="switch")
_QWEN_3_5 = replace(_QWEN_3, context_window=262_144, image_input=True)
_QWEN_CODER = ModelCapabilities(context_window=262_144)
_LLAMA_3 = ModelCapabilities(context_window=131_072, parallel_tool_calls=False)
_GEMMA_4 = ModelCapabilities(context_window=262_144, image_input=True, thinking="switch")
_GPT_OSS = ModelCapabilities(context_window=131_072, thinking="effort", least_thinking="low")
_GLM = ModelCapabilities(context_window=204_800, thinking="switch")
_KIMI = ModelCapabilities(context_window=262_144, image_input=True, thinking="switch")

OPEN_MODELS: dict[str, ModelCapabilities] = {
    "gpt-oss-20b": _GPT_OSS,
    "gpt-oss-120b": _GPT_OSS,
    "qwen3-8b": _QWEN_3,
    "qwen3-14b": _QWEN_3,
    "qwen3-32b": _QWEN_3,
    "qwen3-235b-a22b": _QWEN_3,
    "qwen3-coder-30b-a3b-instruct": _QWEN_CODER,
    "qwen3-coder-480b-a35b-instruct": _QWEN_CODER,
    "qwen3.5-27b": _QWEN_3_5,
    "qwen3.5-35b-a3b": _QWEN_3_5,
    "qwen3.5-397b-a17b": _QWEN_3_5,
    "qwen3.6-27b": _QWEN_3_5,
    "qwen3.6-35b-a3b": _QWEN_3_5,
    "llama-3.1-8b-instruct": _LLAMA_3,
    "llama-3.3-70b-instruct": _LLAMA_3,
    "llama-3.3-70b-versatile": _LLAMA_3,
    "gemma-4-26b-a4b-it": _GEMMA_4,
    "gemma-4-31b-it": _GEMMA_4,
    "deepseek-r1": ModelCapabilities(context_window=128_000, thinking="always"),
    "glm-4.6": _GLM,
    "glm-4.7": _GLM,
    "glm-5": _GLM,
    "glm-5.2": replace(_GLM, context_window=1_000_000),
    "kimi-k2-thinking": replace(_KIMI, image_input=False, thinking="always"),
    "kimi-k2.5": _KIMI,
    "kimi-k2.6": _KIMI,
    "minimax-m2": ModelCapabilities(context_window=196_608, thinking="always"),
    "minimax-m2.5": ModelCapabilities(context_window=204_800, thinking="always"),
    "minimax-m2.7": ModelCapabilities(context_window=204_800, thinking="always"),
}
