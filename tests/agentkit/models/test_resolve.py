"""Models from their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentkit.errors import UserError
from agentkit.models.catalog.entries import CATALOG
from agentkit.models.catalog.store import ModelFileError
from agentkit.models.local import profiles, shipped
from agentkit.models.local.model import LocalModel
from agentkit.models.local.profiles import DEFAULT_PROFILE, PROFILES, profile_of
from agentkit.models.openai.model import OpenAICompatibleModel
from agentkit.models.resolve import (
    profile_or_fallback,
    resolve_model,
    split_local,
    with_local_option,
    with_shipped,
)
from agentkit.testing import TestModel


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTKIT_CACHE_DIR", str(tmp_path / "cache"))


def test_the_test_model_is_new_each_time() -> None:
    assert isinstance(resolve_model("test"), TestModel)
    assert resolve_model("test") is not resolve_model("test")


def test_a_local_model_is_made_once_for_a_name() -> None:
    model = resolve_model("local")
    assert isinstance(model, LocalModel)
    assert resolve_model("local:smollm2-135m") is resolve_model("local:smollm2-135m")
    assert resolve_model("local?grammar=lm-format-enforcer") is not model
    assert resolve_model("local?grammar=lm-format-enforcer") is resolve_model("local?grammar=lm-format-enforcer")


@pytest.fixture
def shipped_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "smollm2-135m"
    folder.mkdir()
    for name in ("adapter.gguf", "prior.json"):
        (folder / name).write_bytes(b"")
    monkeypatch.setattr(shipped, "_FOLDER", tmp_path)
    return folder


def test_a_profile_has_the_shipped_adapter_and_its_prior(shipped_adapter: Path) -> None:
    lora, prior = str(shipped_adapter / "adapter.gguf"), str(shipped_adapter / "prior.json")
    assert with_shipped("smollm2-135m", {}) == {"lora": lora, "prior": prior, "abstain": "true"}
    assert with_shipped("smollm2-135m", {"abstain": "false", "prior": "none"}) == {
        "lora": lora,
        "prior": "none",
        "abstain": "false",
    }
    assert with_shipped("smollm2-135m", {"lora": "none"}) == {"lora": "none"}
    assert "prior" in with_shipped("smollm2-135m", {"convention": "ours"})
    assert "prior" not in with_shipped("smollm2-135m", {"convention": "hermes"})
    assert with_shipped("qwen2.5-coder-0.5b", {}) == {}
    assert resolve_model("local:tiny") is not resolve_model("local:smollm2-135m")
    assert resolve_model("local:tiny") is resolve_model("local:tiny")
    assert resolve_model("local:tiny?lora=none") is resolve_model("local:smollm2-135m?lora=none")


def test_local_is_the_default_profile() -> None:
    assert resolve_model("local") is resolve_model(f"local:{DEFAULT_PROFILE}")
    assert split_local("local") == split_local(f"local:{DEFAULT_PROFILE}") == (PROFILES[DEFAULT_PROFILE], {})


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("local?abstain=false", DEFAULT_PROFILE),
        ("local:tiny", "tiny"),
        ("local:small?lora=none", "small"),
        ("local:medium", "medium"),
        ("local:smollm2-135m", None),
        ("local:./tiny", None),
        ("small", None),
        ("openai:small", None),
    ],
)
def test_a_profile_is_read_from_a_models_name(name: str, profile: str | None) -> None:
    assert profile_of(name) == profile


def test_every_profile_is_a_model_of_the_catalog_and_the_smallest_comes_first() -> None:
    sizes = [CATALOG[model_id].size for model_id in PROFILES.values()]
    assert sizes == sorted(sizes)
    assert next(iter(PROFILES)) == profiles.FALLBACK_PROFILE


class Fetching:
    """Stands for fetching: what was asked for is in `asked`; ids in `fails` cannot be fetched."""

    def __init__(self, *fails: str) -> None:
        self.asked: list[str] = []
        self.fails = fails

    def __call__(self, model_id: str) -> None:
        self.asked.append(model_id)
        if model_id in self.fails:
            raise ModelFileError(f"no {model_id} today")


def test_a_profile_that_cannot_be_fetched_is_replaced_by_the_tiny_one_and_the_reason_told() -> None:
    fetching = Fetching("qwen2.5-coder-0.5b")
    name, why = profile_or_fallback("local:small", fetching)
    assert name == "local:tiny" and str(why) == "no qwen2.5-coder-0.5b today"
    assert fetching.asked == ["qwen2.5-coder-0.5b", "smollm2-135m"]


def test_the_default_profile_falls_back_too() -> None:
    name, why = profile_or_fallback("local", Fetching(PROFILES[DEFAULT_PROFILE]))
    assert name == "local:tiny" and why is not None


def test_a_model_that_can_be_fetched_is_used_as_it_was_named() -> None:
    assert profile_or_fallback("local:small", Fetching()) == ("local:small", None)
    assert profile_or_fallback("openai:some", Fetching("some")) == ("openai:some", None)


@pytest.mark.parametrize("name", ["local:tiny", "local:qwen2.5-coder-0.5b", "local:small?lora=own.gguf"])
def test_only_a_bare_profile_is_replaced(name: str) -> None:
    with pytest.raises(ModelFileError, match="today"):
        profile_or_fallback(name, Fetching("qwen2.5-coder-0.5b", "smollm2-135m"))


@pytest.mark.parametrize("model_id", ["", ".", "..", "../smollm2-135m", "smollm2-135m/..", "another"])
def test_only_names_that_the_package_has_lead_to_an_adapter(shipped_adapter: Path, model_id: str) -> None:
    assert shipped.shipped_folder("smollm2-135m") == shipped_adapter
    assert shipped.shipped_folder(model_id) is None


def test_a_local_file_is_one_model_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_model("local:./tiny.gguf") is resolve_model(f"local:{tmp_path}/tiny.gguf")


def test_the_options_of_a_local_model_are_read() -> None:
    assert split_local("local:a.gguf?lora=x.gguf&grammar=llguidance") == (
        "a.gguf",
        {"lora": "x.gguf", "grammar": "llguidance"},
    )
    assert split_local("local:tiny") == ("smollm2-135m", {})
    assert split_local("localhost") is None


def test_a_prior_is_named_beside_its_adapter(tmp_path: Path) -> None:
    spec = f"local:./tiny.gguf?lora=a.gguf&prior={tmp_path}/none.json"
    assert split_local(spec) == ("./tiny.gguf", {"lora": "a.gguf", "prior": f"{tmp_path}/none.json"})
    model = resolve_model(spec)
    assert isinstance(model, LocalModel)
    with pytest.raises(UserError, match=r"prior .*none\.json cannot be read"):
        model.load()


def test_confidence_is_named_beside_the_adapter_too(tmp_path: Path) -> None:
    model = resolve_model(f"local:./tiny.gguf?confidence={tmp_path}/none.json")
    assert isinstance(model, LocalModel)
    with pytest.raises(UserError, match=r"calibration .*none\.json cannot be read"):
        model.load()


def test_an_option_is_added_unless_the_name_says_it_already() -> None:
    assert with_local_option("local", "abstain", "true") == "local?abstain=true"
    assert with_local_option("local:a.gguf?lora=x", "abstain", "true") == "local:a.gguf?lora=x&abstain=true"
    assert with_local_option("local?abstain=false", "abstain", "true") == "local?abstain=false"
    with pytest.raises(UserError, match="no local one"):
        with_local_option("test", "abstain", "true")


def test_a_server_of_ones_own_is_named_by_its_address() -> None:
    model = resolve_model("http://127.0.0.1:8080/v1#llama-3.1-8b")
    assert isinstance(model, OpenAICompatibleModel) and model.name == "llama-3.1-8b"


def test_the_openai_variables_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert isinstance(resolve_model("openai:some-model"), OpenAICompatibleModel)
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    assert resolve_model("openai:some-model").name == "some-model"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("locale", "is not known; did you mean 'local'"),
        ("loca:tiny", "is not known; did you mean 'local:tiny'"),
        ("Test", "is not known; did you mean 'test'"),
        ("gpt-4o", "has no prefix that says where it runs; did you mean 'openai:gpt-4o'"),
        (
            "gpt-4o",
            "named local, local:PROFILE, local:ID, local:PATH.gguf .*, openai:NAME .*, http://HOST/v1#NAME",
        ),
        ("claude-sonnet-4-5", "did you mean 'anthropic:claude-sonnet-4-5'"),
        ("mistral:large", "has the unknown prefix 'mistral'; did you mean 'https://HOST/v1#large'"),
        ("openai/gpt-4o", "did you mean 'openai:gpt-4o'"),
        ("opnai:gpt-4o", "is not known; did you mean 'openai:gpt-4o'"),
        ("./model.gguf", "is a path without the prefix local:; did you mean 'local:./model.gguf'"),
        ("", "is empty; did you mean 'local'"),
        ("openai:gpt-4o", "needs OPENAI_API_KEY"),
        ("openai:", "lacks the model's name"),
        ("https://example.com/v1", "lacks the model's name after #"),
        ("local:smollm", "nearest: 'smollm2-135m'"),
        ("local:smal", "nearest: 'small'"),
        ("local?lorra=x", "nearest: 'lora'"),
        ("local?lora", "after \\? comes key=value"),
        ("local?", "after \\? comes key=value"),
        ("local?grammar=gbnf", "use llguidance, lm-format-enforcer or none"),
        ("local?abstain=maybe", "use true, false or words"),
        ("local?convention=", "comes key=value"),
        ("local?conversations=0", "use a number from 1 on"),
    ],
)
def test_a_name_that_cannot_be_used_says_what_can(
    spec: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match=message):
        resolve_model(spec)
