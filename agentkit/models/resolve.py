"""A model from its name, so that an agent's model can be a word in a configuration.

local                               the default profile
local:PROFILE                       tiny, small or medium: an embedded model with the adapter that the package
                                    ships for it (`agentkit.models.local.profiles`)
local:SPEC[?KEY=VALUE&...]          SPEC as in `agentkit.models.catalog.entries`, without that adapter; keys,
                                    also after a profile: lora=PATH or none,
                                    prior=PATH (of `modelstack fit-prior`) or none,
                                    confidence=PATH (of `agentkit calibrate`) or none,
                                    abstain=true, false or words,
                                    convention=auto, ours, or the name of another,
                                    grammar=llguidance, lm-format-enforcer or none (no masking),
                                    monitor=PROFILE or PATH (probes that stop unsafe requests and replies),
                                    conversations=N (number that keep their cache and run together)
openai:NAME                         OPENAI_BASE_URL and OPENAI_API_KEY of the environment
openai-responses:NAME               the same over the Responses API, which keeps reasoning between steps
anthropic:NAME                      ANTHROPIC_API_KEY; ANTHROPIC_BASE_URL for another server of its protocol
google:NAME                         GEMINI_API_KEY or GOOGLE_API_KEY; GEMINI_BASE_URL for another server
http(s)://HOST/v1#NAME              any OpenAI-compatible server
test                                `agentkit.testing.TestModel`
"""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl

from agentkit.basics.near_names import near_names
from agentkit.errors import UserError
from agentkit.models.base import Model
from agentkit.models.local.profiles import DEFAULT_PROFILE, FALLBACK_PROFILE, PROFILES, profile_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agentkit.models.catalog.store import ModelFileError
    from agentkit.models.local.model import GrammarEngine

BASE_URL_VARIABLE = "OPENAI_BASE_URL"
OPENAI_BASE_URL = "https://api.openai.com/v1"
_NAMES = ("local", *(f"local:{profile}" for profile in PROFILES), "test")
_PREFIXES = ("local", "openai", "openai-responses", "anthropic", "google")
_FORMS = (
    "local, local:PROFILE, local:ID, local:PATH.gguf (in this process), openai:NAME (such as openai:gpt-4o), "
    "openai-responses:NAME, anthropic:NAME (such as anthropic:claude-opus-5), "
    "google:NAME (such as google:gemini-3.8-flash), "
    "http://HOST/v1#NAME (an OpenAI-compatible server), test"
)
_LOCAL_OPTIONS = ("lora", "prior", "confidence", "grammar", "abstain", "convention", "conversations", "monitor")
_GRAMMARS: dict[str, GrammarEngine | None] = {
    "llguidance": "llguidance",
    "lm-format-enforcer": "lm-format-enforcer",
    "none": None,
}
_ABSTAINING: Mapping[str, bool | Literal["words"]] = {"true": True, "false": False, "words": "words"}

_local_models: dict[tuple[str, tuple[tuple[str, str], ...]], Model] = {}
_local_lock = threading.Lock()


def resolve_model(spec: str) -> Model:
    """Return the model that `spec` names. Local models are created once per process, so weights load once.

    Raises:
        UserError: the name is not understood, or a setting that it needs is missing.
    """
    if spec == "test":
        from agentkit.testing import TestModel

        return TestModel()
    if (local := split_local(spec)) is not None:
        file_spec, options = local
        return _local_model(file_spec, with_shipped(file_spec, options) if profile_of(spec) else options)
    scheme, _, name = spec.partition(":")
    if scheme in ("openai", "openai-responses"):
        return _openai_model(spec, scheme, name)
    if scheme == "anthropic":
        return _claude_model(spec, name)
    if scheme == "google":
        return _gemini_model(spec, name)
    if re.match(r"https?://", spec):
        return _server_model(spec)
    why, meant = _meant(spec)
    raise UserError(f"model {spec!r} {why}; did you mean {meant!r}? Models are named {_FORMS}.")


def _meant(spec: str) -> tuple[str, str]:
    """Return the reason why a name is not understood, and the name that was probably meant."""
    if not spec:
        return "is empty", "local"
    prefix, mark, name = re.sub("^(openai|anthropic|google)/", r"\1:", spec).partition(":")
    if near := near_names(spec, _NAMES):
        return "is not known", near[0]
    if mark and (near := near_names(prefix, _PREFIXES)):
        return "is not known", f"{near[0]}:{name}"
    if re.match(r"[./~]", spec) or spec.endswith(".gguf"):
        return "is a path without the prefix local:", f"local:{spec}"
    if mark:
        return f"has the unknown prefix {prefix!r}", f"https://HOST/v1#{name}"
    is_openai = re.match(r"(chatgpt|gpt|o[1-9])(-|$)", spec) is not None
    by_name = {"claude-": "anthropic:", "gemini-": "google:"}
    known = next((form for start, form in by_name.items() if spec.startswith(start)), "https://HOST/v1#")
    return "has no prefix that says where it runs", ("openai:" if is_openai else known) + spec


def split_local(spec: str) -> tuple[str, Mapping[str, str]] | None:
    """Split a local model's name into the spec of its file and the options; None for another kind of model.

    Raises:
        UserError: an option is not known.
    """
    name, mark, query = spec.partition("?")
    if name != "local" and not name.startswith("local:"):
        return None
    options = dict(parse_qsl(query, keep_blank_values=True))
    if mark and (not options or "" in options.values()):
        raise UserError(f"model {spec!r}: after ? comes key=value; keys: {', '.join(_LOCAL_OPTIONS)}.")
    for key in options:
        if key not in _LOCAL_OPTIONS:
            near = near_names(key, _LOCAL_OPTIONS, cutoff=0.0)
            raise UserError(f"model {spec!r}: option {key!r} is not known; nearest: {near[0]!r}.")
    file_spec = name.removeprefix("local").removeprefix(":") or DEFAULT_PROFILE
    return PROFILES.get(file_spec, file_spec), options


def profile_or_fallback(
    name: str = "local", fetch: Callable[[str], object] | None = None
) -> tuple[str, ModelFileError | None]:
    """Fetch a profile's file, or that of the fallback profile if it cannot be fetched. Blocks meanwhile.

    Args:
        name: A model's name; only a bare profile has a fallback.
        fetch: Fetches the file of a catalog id, as `agentkit.cli.downloads.pull_shown` does with a progress bar;
            None takes `local_path`, which shows nothing.

    Returns:
        The name of the model to use, and the error that caused the fallback (None: no fallback).

    Raises:
        ModelFileError: neither can be fetched.
        UserError: the name is not understood.
    """
    from agentkit.models.catalog.entries import is_present, local_path
    from agentkit.models.catalog.store import ModelFileError

    local = split_local(name)
    if local is None or is_present(local[0]):
        return name, None
    fetch = fetch or local_path
    try:
        fetch(local[0])
    except ModelFileError as error:
        if local[1] or profile_of(name) in (None, FALLBACK_PROFILE):
            raise
        if not is_present(PROFILES[FALLBACK_PROFILE]):
            fetch(PROFILES[FALLBACK_PROFILE])
        return f"local:{FALLBACK_PROFILE}", error
    return name, None


def with_shipped(model_id: str, options: Mapping[str, str]) -> Mapping[str, str]:
    """Return the options of a profile: adapter and prior shipped for its model, unless they name others."""
    from agentkit.models.local.shipped import ADAPTER_FILE, ALWAYS_ABSTAINING, PRIOR_FILE, shipped_folder

    folder = shipped_folder(model_id)
    if folder is None or "lora" in options:
        return options
    shipped = {"lora": str(folder / ADAPTER_FILE)}
    if model_id in ALWAYS_ABSTAINING:
        shipped["abstain"] = "true"
    is_ours = options.get("convention", "auto") in ("auto", "ours")  # a prior is fitted to replies in ours
    if is_ours and (folder / PRIOR_FILE).is_file():
        shipped["prior"] = str(folder / PRIOR_FILE)
    return {**shipped, **options}


def with_local_option(spec: str, key: str, value: str) -> str:
    """Return a local model's name with one more option; unchanged if it has that option already.

    Raises:
        UserError: the name is not a local model's, or an option is not known.
    """
    local = split_local(spec)
    if local is None:
        raise UserError(f"model {spec!r} is no local one, so it takes no option {key!r}.")
    return spec if key in local[1] else f"{spec}{'&' if '?' in spec else '?'}{key}={value}"


def _local_model(file_spec: str, options: Mapping[str, str]) -> Model:
    from agentkit.models.catalog.entries import parse_spec
    from agentkit.models.local.model import LocalModel

    found = parse_spec(file_spec)
    if isinstance(found, Path):
        file_spec = str(found.resolve())
    key = (file_spec, tuple(sorted(options.items())))
    with _local_lock:
        if key not in _local_models:
            _local_models[key] = LocalModel(file_spec, **_local_arguments(options))
        return _local_models[key]


def _local_arguments(options: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of `LocalModel` for the options of a model string."""
    arguments: dict[str, Any] = {}
    for key, argument in (("lora", "lora"), ("prior", "prior"), ("confidence", "calibration")):
        if (path := options.get(key)) is not None and path != "none":
            arguments[argument] = Path(path).expanduser()
    if (grammar := options.get("grammar")) is not None:
        if grammar not in _GRAMMARS:
            raise UserError(f"grammar={grammar!r} is not known; use llguidance, lm-format-enforcer or none.")
        arguments["grammar"] = _GRAMMARS[grammar]
    if (abstain := options.get("abstain")) is not None:
        if abstain not in _ABSTAINING:
            raise UserError(f"abstain={abstain!r} is not known; use true, false or words.")
        arguments["abstain"] = _ABSTAINING[abstain]
    if (convention := options.get("convention")) is not None:
        arguments["convention"] = convention
    if (conversations := options.get("conversations")) is not None:
        if re.fullmatch(r"[1-9][0-9]{0,3}", conversations) is None:
            raise UserError(f"conversations={conversations!r} is not understood; use a number from 1 on.")
        arguments["max_conversations"] = int(conversations)
    if (monitor := options.get("monitor")) is not None:
        from agentkit.models.local.monitor import Monitor

        arguments["monitor"] = Monitor(monitor)
    return arguments


def _openai_model(spec: str, scheme: str, name: str) -> Model:
    from agentkit.models.openai.model import API_KEY_VARIABLE, OpenAICompatibleModel

    if not name:
        raise UserError(f"model {spec!r} lacks the model's name: {scheme}:NAME.")
    base_url = os.environ.get(BASE_URL_VARIABLE) or OPENAI_BASE_URL
    if base_url == OPENAI_BASE_URL and not os.environ.get(API_KEY_VARIABLE):
        raise UserError(
            f"model {spec!r} needs {API_KEY_VARIABLE}, or {BASE_URL_VARIABLE} for a server of your own. "
            f'The model "local" needs neither key nor network.'
        )
    if scheme == "openai-responses":
        from agentkit.models.openai.responses import OpenAIResponsesModel

        return OpenAIResponsesModel(name, base_url=base_url)
    return OpenAICompatibleModel(name, base_url=base_url)


def _claude_model(spec: str, name: str) -> Model:
    from agentkit.models.anthropic.errors import API_KEY_VARIABLE
    from agentkit.models.anthropic.model import ANTHROPIC_BASE_URL, AnthropicModel

    if not name:
        raise UserError(f"model {spec!r} lacks the model's name: anthropic:NAME.")
    base_url = os.environ.get("ANTHROPIC_BASE_URL") or ANTHROPIC_BASE_URL
    if base_url == ANTHROPIC_BASE_URL and not os.environ.get(API_KEY_VARIABLE):
        raise UserError(
            f"model {spec!r} needs {API_KEY_VARIABLE}, or ANTHROPIC_BASE_URL for a server of your own. "
            f'The model "local" needs neither key nor network.'
        )
    return AnthropicModel(name, base_url=base_url)


def _gemini_model(spec: str, name: str) -> Model:
    from agentkit.models.google.model import API_KEY_VARIABLES, GEMINI_BASE_URL, GeminiModel

    if not name:
        raise UserError(f"model {spec!r} lacks the model's name: google:NAME.")
    base_url = os.environ.get("GEMINI_BASE_URL") or GEMINI_BASE_URL
    has_key = any(os.environ.get(variable) for variable in API_KEY_VARIABLES)
    if base_url == GEMINI_BASE_URL and not has_key:
        raise UserError(
            f"model {spec!r} needs GEMINI_API_KEY, or GEMINI_BASE_URL for a server of your own. "
            f'The model "local" needs neither key nor network.'
        )
    return GeminiModel(name, base_url=base_url)


def _server_model(spec: str) -> Model:
    from agentkit.models.openai.model import OpenAICompatibleModel

    base_url, _, name = spec.partition("#")
    if not name:
        raise UserError(f"model {spec!r} lacks the model's name after #, like {base_url}#llama-3.1-8b.")
    return OpenAICompatibleModel(name, base_url=base_url)
