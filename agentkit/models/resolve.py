"""A model from its name, so that an agent's model can be a word in a configuration.

local                               the embedded default model with the adapter that the package carries for it
local:SPEC[?KEY=VALUE&...]          SPEC as in `agentkit.models.catalog`, without that adapter; keys, also behind
                                    `local`: lora=PATH or none, prior=PATH (of `modelstack fit-prior`) or none,
                                    confidence=PATH (of `agentkit calibrate`) or none,
                                    abstain=true or false,
                                    convention=auto, ours, or the name of another,
                                    grammar=llguidance, lm-format-enforcer or none (masks nothing),
                                    conversations=N (how many keep their cache)
openai:NAME                         OPENAI_BASE_URL and OPENAI_API_KEY of the environment
http(s)://HOST/v1#NAME              any OpenAI-compatible server
test                                `agentkit.testing.TestModel`
"""

from __future__ import annotations

import difflib
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from agentkit.errors import UserError
from agentkit.models.model import Model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentkit.models.local import GrammarEngine

BASE_URL_VARIABLE = "OPENAI_BASE_URL"
OPENAI_BASE_URL = "https://api.openai.com/v1"
_FORMS = ("local", "local:", "openai:", "http://", "https://", "test")
_LOCAL_OPTIONS = ("lora", "prior", "confidence", "grammar", "abstain", "convention", "conversations")
_GRAMMARS: dict[str, GrammarEngine | None] = {
    "llguidance": "llguidance",
    "lm-format-enforcer": "lm-format-enforcer",
    "none": None,
}
_SWITCH = {"true": True, "false": False}

_local_models: dict[tuple[str, tuple[tuple[str, str], ...]], Model] = {}
_local_lock = threading.Lock()


def resolve_model(spec: str) -> Model:
    """Return the model that `spec` names. Local models are made once a process, so weights load once.

    Raises:
        UserError: the name is not understood, or what it needs is missing.
    """
    if spec == "test":
        from agentkit.testing import TestModel

        return TestModel()
    if (local := split_local(spec)) is not None:
        file_spec, options = local
        return _local_model(file_spec, with_shipped(options) if spec.partition("?")[0] == "local" else options)
    scheme, _, name = spec.partition(":")
    if scheme == "openai":
        return _openai_model(spec, name)
    if re.match(r"https?://", spec):
        return _server_model(spec)
    near = difflib.get_close_matches(spec, _FORMS, n=1, cutoff=0.0)
    raise UserError(
        f"model {spec!r} is not understood; nearest: {near[0]!r}. Forms: local, local:ID, local:PATH.gguf, "
        f"openai:NAME, http://HOST/v1#NAME, test."
    )


def split_local(spec: str) -> tuple[str, Mapping[str, str]] | None:
    """Split a local model's name into the spec of its file and the options; None for another kind of model.

    Raises:
        UserError: an option is not known.
    """
    from agentkit.models.catalog import DEFAULT_MODEL

    name, mark, query = spec.partition("?")
    if name != "local" and not name.startswith("local:"):
        return None
    options = dict(parse_qsl(query, keep_blank_values=True))
    if mark and (not options or "" in options.values()):
        raise UserError(f"model {spec!r}: after ? comes key=value; keys: {', '.join(_LOCAL_OPTIONS)}.")
    for key in options:
        if key not in _LOCAL_OPTIONS:
            near = difflib.get_close_matches(key, _LOCAL_OPTIONS, n=1, cutoff=0.0)
            raise UserError(f"model {spec!r}: option {key!r} is not known; nearest: {near[0]!r}.")
    return name.removeprefix("local").removeprefix(":") or DEFAULT_MODEL, options


def with_shipped(options: Mapping[str, str]) -> Mapping[str, str]:
    """Return the options of the model `local`: the shipped adapter, unless they name another or none."""
    from agentkit.models.catalog import DEFAULT_MODEL
    from agentkit.models.shipped import ADAPTER_FILE, PRIOR_FILE, shipped_folder

    folder = shipped_folder(DEFAULT_MODEL)
    if folder is None or "lora" in options:
        return options
    # The adapter was taught to abstain; a prompt that does not offer it is another than it was trained on.
    shipped = {"lora": str(folder / ADAPTER_FILE), "abstain": "true"}
    if (folder / PRIOR_FILE).is_file():
        shipped["prior"] = str(folder / PRIOR_FILE)
    return {**shipped, **options}


def with_local_option(spec: str, key: str, value: str) -> str:
    """Return a local model's name with one more option, or as it is where it says that option itself.

    Raises:
        UserError: the name is not a local model's, or an option is not known.
    """
    local = split_local(spec)
    if local is None:
        raise UserError(f"model {spec!r} is no local one, so it takes no option {key!r}.")
    return spec if key in local[1] else f"{spec}{'&' if '?' in spec else '?'}{key}={value}"


def _local_model(file_spec: str, options: Mapping[str, str]) -> Model:
    from agentkit.models.catalog import parse_spec
    from agentkit.models.local import LocalModel

    found = parse_spec(file_spec)
    if isinstance(found, Path):
        file_spec = str(found.resolve())
    key = (file_spec, tuple(sorted(options.items())))
    with _local_lock:
        if key not in _local_models:
            _local_models[key] = LocalModel(file_spec, **_local_arguments(options))
        return _local_models[key]


def _local_arguments(options: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of `LocalModel` that the options of a model string stand for."""
    arguments: dict[str, Any] = {}
    for key, argument in (("lora", "lora"), ("prior", "prior"), ("confidence", "calibration")):
        if (path := options.get(key)) is not None and path != "none":
            arguments[argument] = Path(path).expanduser()
    if (grammar := options.get("grammar")) is not None:
        if grammar not in _GRAMMARS:
            raise UserError(f"grammar={grammar!r} is not known; use llguidance, lm-format-enforcer or none.")
        arguments["grammar"] = _GRAMMARS[grammar]
    if (abstain := options.get("abstain")) is not None:
        if abstain not in _SWITCH:
            raise UserError(f"abstain={abstain!r} is not known; use true or false.")
        arguments["abstain"] = _SWITCH[abstain]
    if (convention := options.get("convention")) is not None:
        arguments["convention"] = convention
    if (conversations := options.get("conversations")) is not None:
        if re.fullmatch(r"[1-9][0-9]{0,3}", conversations) is None:
            raise UserError(f"conversations={conversations!r} is not understood; use a number from 1 on.")
        arguments["max_conversations"] = int(conversations)
    return arguments


def _openai_model(spec: str, name: str) -> Model:
    from agentkit.models.openai_compatible import API_KEY_VARIABLE, OpenAICompatibleModel

    if not name:
        raise UserError(f"model {spec!r} lacks the model's name: openai:NAME.")
    base_url = os.environ.get(BASE_URL_VARIABLE) or OPENAI_BASE_URL
    if base_url == OPENAI_BASE_URL and not os.environ.get(API_KEY_VARIABLE):
        raise UserError(
            f"model {spec!r} needs {API_KEY_VARIABLE}, or {BASE_URL_VARIABLE} for a server of your own. "
            f'The model "local" needs neither key nor network.'
        )
    return OpenAICompatibleModel(name, base_url=base_url)


def _server_model(spec: str) -> Model:
    from agentkit.models.openai_compatible import OpenAICompatibleModel

    base_url, _, name = spec.partition("#")
    if not name:
        raise UserError(f"model {spec!r} lacks the model's name after #, like {base_url}#llama-3.1-8b.")
    return OpenAICompatibleModel(name, base_url=base_url)
