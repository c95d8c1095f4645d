"""Attacks on the check of GGUF files: headers on which llama.cpp would abort, or whose messages would hide something."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modelstack.gguf_file import ARRAY, BOOL, FLOAT32, STRING, UINT32
from modelstack.inference.engine import EngineError
from modelstack.inference.llama.file_check import check_adapter_file, check_model_file
from tests.mcp_servers.attack_bounds import cpu_at_most
from tests.modelstack.inference.raw_gguf import Info, RawGGUF
from tests.modelstack.inference.tiny_gguf import write_tiny_gguf, write_tiny_lora

EPSILON = "llama.attention.layer_norm_rms_epsilon"
HIDING = "\x1b[2J\u202e\ufe0f\ufe0f\nSystem"


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "sound.gguf")


@pytest.fixture(scope="module")
def adapter_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_lora(tmp_path_factory.mktemp("adapter") / "sound.gguf")


def experts(count: int, groups: int, used: int | None) -> Callable[[RawGGUF], object]:
    def change(file: RawGGUF) -> None:
        for key, value in (("expert_count", count), ("expert_used_count", 2), ("expert_group_count", groups)):
            file.set(f"llama.{key}", value, UINT32)
        if used is not None:
            file.set("llama.expert_group_used_count", used, UINT32)

    return change


def renamed(file: RawGGUF, old: str, new: str) -> None:
    file.tensors[new] = file.tensors.pop(old)


FAULTS: dict[str, Callable[[RawGGUF], object]] = {
    "a negative epsilon": lambda f: f.set(EPSILON, -1.0, FLOAT32),
    "an epsilon that is no number": lambda f: f.set(EPSILON, float("nan"), FLOAT32),
    "an epsilon without an end below": lambda f: f.set(EPSILON, float("-inf"), FLOAT32),
    "an epsilon that is a text": lambda f: f.set(EPSILON, "x", STRING),
    "an epsilon that is a list": lambda f: f.set(EPSILON, [1.0], (ARRAY, FLOAT32)),
    "another negative epsilon": lambda f: f.set("llama.attention.layer_norm_epsilon", -1e-9, FLOAT32),
    "a negative epsilon of groups": lambda f: f.set("llama.attention.group_norm_epsilon", -1.0, FLOAT32),
    "groups that are not equal": experts(6, 4, 1),
    "as many groups as experts": experts(4, 4, 1),
    "more groups than experts": experts(4, 5, 1),
    "no group used": experts(4, 2, 0),
    "all groups used": experts(4, 2, 2),
    "more groups used than there are": experts(4, 2, 3),
    "groups without a number of used ones": experts(4, 2, None),
    "groups that are true": lambda f: (experts(4, 2, 1)(f), f.set("llama.expert_group_count", True, BOOL)),
    "an architecture that hides": lambda f: f.set("general.architecture", HIDING),
    "an architecture of 1 MB": lambda f: f.set("general.architecture", "a" * 1_000_000),
    "an architecture of nothing": lambda f: f.set("general.architecture", ""),
    "an architecture with a zero byte": lambda f: f.set("general.architecture", "llama\0x"),
    "an architecture that is a form": lambda f: f.set("general.architecture", "%s%n"),
    "a tensor's name that hides": lambda f: renamed(f, "output_norm.weight", f"blk.9.{HIDING}"),
    "a tensor's name of 1 MB": lambda f: renamed(f, "output_norm.weight", "x" * 1_000_000),
    "a tensor of a far layer": lambda f: renamed(f, "output_norm.weight", "blk.999999999.attn_norm.weight"),
    "a tensor without an end": lambda f: f.tensors.update({"output_norm.weight": Info((2**63, 2), 0, 0)}),
    "a tensor of five axes": lambda f: f.tensors.update({"output_norm.weight": Info((1,) * 5, 0, 0)}),
    "a scaling that hides": lambda f: f.set("llama.rope.scaling.type", HIDING, STRING),
    "a token that hides twice": lambda f: f.fields["tokenizer.ggml.tokens"][1].__setitem__(slice(300, 302), [HIDING] * 2),
    "a tokenizer that is a list": lambda f: f.set("tokenizer.ggml.model", ["gpt2"], (ARRAY, STRING)),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_header_that_would_end_the_process_or_hides_is_refused_in_a_few_plain_words(
    name: str, model_file: Path, tmp_path: Path
) -> None:
    file = RawGGUF.read(model_file)
    FAULTS[name](file)
    with cpu_at_most(2.0), pytest.raises(EngineError) as refused:
        check_model_file(file.write(tmp_path / "m.gguf"))
    said = str(refused.value).replace(str(tmp_path), "")
    assert len(said) < 800
    assert said.isprintable(), ascii(said)
    check_model_file(model_file)


SOUND: dict[str, Callable[[RawGGUF], object]] = {
    "an epsilon of 0": lambda f: f.set(EPSILON, 0.0, FLOAT32),
    "groups": experts(4, 2, 1),
    "one group": experts(4, 1, 1),
    "no groups": experts(4, 0, 0),
    "a name in other letters": lambda f: f.set("general.name", HIDING, STRING),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_what_llama_cpp_takes_is_not_refused(name: str, model_file: Path, tmp_path: Path) -> None:
    file = RawGGUF.read(model_file)
    SOUND[name](file)
    check_model_file(file.write(tmp_path / "m.gguf"))


def doubled_key(header: bytes, key: bytes) -> bytes:
    """Say one key of a header twice."""
    return header.replace(b"general.name", key[:12], 1) if len(key) == 12 else header


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.set("general.architecture", HIDING),
        lambda f: f.set("adapter.lora.alpha", float("nan"), FLOAT32),
        lambda f: f.set("adapter.type", HIDING, STRING),
        lambda f: renamed(f, next(iter(f.tensors)), HIDING + ".lora_a"),
    ],
    ids=["architecture", "alpha", "type", "name"],
)
def test_an_adapter_that_hides_is_refused_in_a_few_plain_words(
    change: Callable[[RawGGUF], object], adapter_file: Path, tmp_path: Path
) -> None:
    file = RawGGUF.read(adapter_file)
    change(file)
    with pytest.raises(EngineError) as refused:
        check_adapter_file(file.write(tmp_path / "a.gguf"))
    said = str(refused.value).replace(str(tmp_path), "")
    assert len(said) < 800 and said.isprintable(), ascii(said)
