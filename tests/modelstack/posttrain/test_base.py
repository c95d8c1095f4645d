"""A base out of a GGUF file or a checkpoint folder, and the hash that it is known by."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modelstack.architecture.checkpoint import save_checkpoint
from modelstack.architecture.gguf.export import export_gguf
from modelstack.errors import UserError
from modelstack.posttrain.base import load_base
from modelstack.posttrain.base_hash import base_sha256
from modelstack.tokenizer.chat import ChatMessage
from modelstack.tokenizer.tokenizer_folder import save_text_tokenizer
from tests.modelstack.architecture.gguf_models import toy_config, toy_model, toy_tokenizer
from tests.modelstack.architecture.parity import random_ids

TOKENIZER = toy_tokenizer() | {"tokenizer.ggml.pre": "gpt-2"}


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy llama in q8_0."""
    path = tmp_path_factory.mktemp("base") / "toy.gguf"
    model = toy_model(toy_config("llama tied, biases"))
    export_gguf(model.config, model.state_dict(), TOKENIZER, path, type_name="q8_0")
    return path


@pytest.fixture(scope="module")
def folder(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a checkpoint folder, in full."""
    root = tmp_path_factory.mktemp("base")
    # The file's own: export gives rows without a token a name.
    tokenizer = load_base(gguf).tokenizer
    save_text_tokenizer(tokenizer, root / "tokenizer")
    return save_checkpoint(
        toy_model(toy_config("llama tied, biases")), root / "model", tokenizer=root / "tokenizer"
    )


def test_a_gguf_base_has_the_weights_that_llama_cpp_multiplies_by(gguf: Path) -> None:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    base = load_base(gguf)
    stored = next(t for t in GGUFReader(gguf).tensors if t.name == "blk.0.ffn_up.weight")
    assert stored.tensor_type.name == "Q8_0"
    wanted = torch.from_numpy(dequantize(stored.data, stored.tensor_type).copy())
    assert torch.equal(base.model.model.layers[0].mlp.up_proj.weight, wanted)  # pyright: ignore
    assert (base.kind, base.sha256) == ("gguf", base_sha256(gguf))


def test_a_base_in_bf16_is_rounded_once_tensor_by_tensor_and_stays_tied(gguf: Path) -> None:
    rounded, exact = load_base(gguf, dtype=torch.bfloat16).model, load_base(gguf).model
    for name, tensor in rounded.state_dict().items():
        assert torch.equal(tensor, exact.state_dict()[name].to(torch.bfloat16)), name
    assert rounded.lm_head.weight is rounded.model.embed_tokens.weight


def test_a_folder_and_a_file_of_one_model_agree(gguf: Path, folder: Path) -> None:
    one, other = load_base(folder), load_base(gguf)
    ids = random_ids(vocab_size=one.config.vocab_size)
    with torch.no_grad():
        torch.testing.assert_close(one.model(ids).logits_BTV, other.model(ids).logits_BTV, atol=0.1, rtol=0)
    assert one.kind == "checkpoint"
    message = ChatMessage("user", "the thing")
    assert one.encoder.encode([message]).ids == other.encoder.encode([message]).ids


def test_a_base_can_be_had_in_bf16(gguf: Path) -> None:
    base = load_base(gguf, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in base.model.parameters()} == {torch.bfloat16}
    assert base.model.lm_head.weight is base.model.model.embed_tokens.weight


def test_the_hash_of_a_folder_changes_with_any_of_its_files(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert base_sha256(copy) == base_sha256(folder)
    (copy / "README.md").write_text("no part of the model")
    assert base_sha256(copy) == base_sha256(folder)
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    assert base_sha256(copy) != base_sha256(folder)


def test_another_base_than_expected_is_refused_with_both_hashes(gguf: Path) -> None:
    sha256 = base_sha256(gguf)
    assert load_base(gguf, expected_sha256=sha256).sha256 == sha256
    with pytest.raises(UserError, match=rf"{sha256[:16]}.*the expected one is {'0' * 16}.*Name that base"):
        load_base(gguf, expected_sha256="0" * 64)


def test_a_mistyped_path_of_a_base_names_the_nearest_in_its_folder(gguf: Path, folder: Path) -> None:
    for there in (gguf, folder):
        mistyped = there.with_name(there.name[:1] + there.name[2:])
        with pytest.raises(UserError) as refused:
            load_base(mistyped)
        assert str(refused.value).endswith(f"a checkpoint folder; nearest path: {str(there)!r}")


def test_a_base_that_is_not_there_or_has_no_weights_names_its_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no-such\.gguf' is missing: name a GGUF file or a checkpoint folder"):
        load_base(tmp_path / "no-such.gguf")
    with pytest.raises(UserError, match=r"holds no \.safetensors"):
        load_base(tmp_path)
