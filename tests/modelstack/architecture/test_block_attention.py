"""Packed documents and windows by FlexAttention: who sees whom, and what comes out, are the dense mask's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import FAMILIES
from parity import COMMON
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from modelstack.architecture import context as context_file
from modelstack.architecture.attention import block_attention as block_file
from modelstack.architecture.attention import grouped, latent
from modelstack.architecture.attention.block_attention import BLOCK, block_attention, make_block_mask
from modelstack.architecture.attention.softmax import softmax_attention
from modelstack.architecture.context import ForwardContext
from modelstack.architecture.decoder import CausalLM, make_context
from modelstack.architecture.initialise import initialise
from modelstack.architecture.presets.registry import from_hf
from modelstack.train.parallel.blocks import compile_blocks

# torch's compiler warns while it looks at tensors, and FlexAttention where it is not compiled.
pytestmark = pytest.mark.filterwarnings("ignore")

CPU = torch.device("cpu")
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "grouped queries": ("qwen2", {}),
    "windows, norms of heads": ("gemma3_text", {}),
    "windows and sinks": ("gpt_oss", {}),
    "soft-capped logits": ("llama", {"attn_logit_softcapping": 2.0}),
    "latent attention, multi-token prediction": ("deepseek_v3", {"num_nextn_predict_layers": 1}),
}


def random_documents(n_rows: int, n_tokens: int, seed: int, longest: int = 150) -> Tensor:
    """Return rows of documents of 1 to `longest` tokens, numbered as loaders do it."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(n_rows):
        lengths = torch.randint(1, longest + 1, (n_tokens,), generator=generator)
        rows.append(torch.arange(n_tokens).repeat_interleave(lengths)[:n_tokens])
    return torch.stack(rows)


def dense_mask(documents: Tensor | None, n_tokens: int, window: int | None) -> Tensor:
    rows = 1 if documents is None else len(documents)
    mask = make_context(torch.zeros(rows, n_tokens, dtype=torch.int64), documents_BT=documents).mask(
        window, n_tokens
    )
    assert mask is not None
    return mask


def by_block(mask: Tensor, reduce: Any) -> Tensor:
    """Return a dense mask's blocks, reduced; places outside count as not seen."""
    n_tokens = mask.shape[-1]
    n = -(-n_tokens // BLOCK)
    padded = torch.nn.functional.pad(mask, (0, n * BLOCK - n_tokens, 0, n * BLOCK - n_tokens))
    blocks = padded.unflatten(3, (n, BLOCK)).unflatten(2, (n, BLOCK))
    return reduce(reduce(blocks, 5), 3)


def listed(n_blocks: Tensor, indices: Tensor) -> Tensor:
    """Return which blocks are listed, bool."""
    is_listed = torch.zeros(indices.shape, dtype=torch.bool)
    return is_listed.scatter(-1, indices.long(), torch.arange(indices.shape[-1]) < n_blocks[..., None])


@pytest.mark.parametrize("n_tokens", [2, 100, BLOCK, 700])
@pytest.mark.parametrize("window", [None, 60, 200])
@pytest.mark.parametrize("packed", [True, False])
def test_the_lists_of_blocks_are_those_of_the_dense_mask(n_tokens: int, window: int | None, packed: bool) -> None:
    documents = random_documents(3, n_tokens, 0) if packed else None
    blocks, mask = make_block_mask(documents, n_tokens, window, CPU), dense_mask(documents, n_tokens, window)
    assert blocks.full_kv_num_blocks is not None and blocks.full_kv_indices is not None
    partly = listed(blocks.kv_num_blocks, blocks.kv_indices)
    wholly = listed(blocks.full_kv_num_blocks, blocks.full_kv_indices)
    assert not (partly & wholly).any()
    assert torch.equal(partly | wholly, by_block(mask, torch.any))
    assert torch.equal(wholly, by_block(mask, torch.all))


def test_documents_whose_numbers_do_not_rise_are_kept_apart_all_the_same() -> None:
    documents = random_documents(2, 400, 1) % 3
    blocks, mask = make_block_mask(documents, 400, None, CPU), dense_mask(documents, 400, None)
    assert blocks.full_kv_num_blocks is not None and blocks.full_kv_indices is not None
    any_of = listed(blocks.kv_num_blocks, blocks.kv_indices)
    wholly = listed(blocks.full_kv_num_blocks, blocks.full_kv_indices)
    assert ((any_of | wholly) | ~by_block(mask, torch.any)).all()
    assert (~wholly | by_block(mask, torch.all)).all()
    q, k, v = (head.detach() for head in some_heads(400))
    found = flex_attention(q, k, v, block_mask=blocks, scale=0.3, enable_gqa=True)
    assert isinstance(found, Tensor)
    assert_same(found, softmax_attention(q, k, v, scale=0.3, mask=mask), 1e-5)


def some_heads(n_tokens: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 4, n_tokens, 32), (2, 2, n_tokens, 32), (2, 2, n_tokens, 32))
    return [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]


def assert_same(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found.float(), wanted.float(), atol=tolerance, rtol=tolerance)


def small_model(name: str) -> CausalLM:
    family, keys = MODELS[name]
    hf = {"model_type": family} | COMMON | FAMILIES[family]
    return initialise(CausalLM(from_hf(hf).with_(**keys)), 0).train()


def trained(model: CausalLM, ids: Tensor, documents: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the logits and the gradients of a step."""
    model.zero_grad(set_to_none=True)
    output = model(ids, documents_BT=documents, with_mtp=model.mtp is not None)
    loss = output.logits_BTV.square().mean() + sum(each.hidden_BTD.square().mean() for each in output.mtp)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return output.logits_BTV.detach(), gradients


def use_blocks(monkeypatch: pytest.MonkeyPatch, *, compiled: bool) -> None:
    """Let CPUs take the path of GPUs, which makes no dense mask."""

    def no_mask(self: ForwardContext, window: int | None, n_keys: int) -> Tensor:
        raise AssertionError("a dense mask was made")

    monkeypatch.setattr(context_file, "BLOCK_DEVICES", ("cpu", "cuda"))
    monkeypatch.setattr(ForwardContext, "_make_mask", no_mask)
    for module in (grouped, latent):
        monkeypatch.setattr(module, "MIN_BLOCK_CHANNELS", 1)
    if not compiled:
        # Uncompiled, FlexAttention has gradients on a CPU too; torch refuses them since its kernel has none.
        monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *heads: None)
        monkeypatch.setattr(block_file, "compiled", lambda: flex_attention)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_trains_on_packed_documents_as_with_the_dense_mask(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    generator = torch.Generator().manual_seed(3)
    ids, documents = torch.randint(0, 128, (2, 40), generator=generator), random_documents(2, 40, 4, longest=25)
    logits, gradients = trained(small_model(name), ids, documents)
    use_blocks(monkeypatch, compiled=False)
    found, found_gradients = trained(small_model(name), ids, documents)
    assert_same(found, logits, 1e-5)
    assert found_gradients.keys() == gradients.keys()
    for each, gradient in gradients.items():
        assert_same(found_gradients[each], gradient, 1e-4)


@pytest.mark.slow
def test_the_compiled_kernel_gives_what_the_dense_mask_gives() -> None:
    # On a CPU the kernel gives no normaliser, which sinks need.
    documents = random_documents(2, 300, 5)
    q, k, v = (head.detach() for head in some_heads(300))
    with torch.no_grad():
        for window, softcap in ((None, None), (50, 1.5)):  # each pair is compiled
            blocks, mask = make_block_mask(documents, 300, window, CPU), dense_mask(documents, 300, window)
            found = block_attention(q, k, v, 0.3, blocks, softcap=softcap)
            assert_same(found, softmax_attention(q, k, v, scale=0.3, mask=mask, softcap=softcap), 1e-5)


@pytest.mark.slow
def test_compiled_blocks_of_a_model_give_what_the_dense_mask_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, documents = torch.randint(0, 128, (2, 300)), random_documents(2, 300, 8)
    model = small_model("grouped queries")
    with torch.no_grad():
        wanted = model(ids, documents_BT=documents).logits_BTV
        use_blocks(monkeypatch, compiled=True)
        compile_blocks(model)
        assert_same(model(ids, documents_BT=documents).logits_BTV, wanted, 1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-3), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize("with_sinks", [True, False])
def test_on_a_gpu_the_kernel_and_its_gradients_are_the_dense_masks(
    dtype: torch.dtype, tolerance: float, window: int | None, with_sinks: bool
) -> None:
    documents = random_documents(2, 700, 6).cuda()
    sinks = torch.tensor([0.5, -1.0, 2.0, 0.0], device="cuda") if with_sinks else None
    blocks = make_block_mask(documents, 700, window, documents.device)
    mask = dense_mask(documents.cpu(), 700, window).cuda()
    ends = []
    for by_blocks in (True, False):
        heads = some_heads(700, "cuda", dtype)
        q, k, v = heads
        if by_blocks:
            y = block_attention(q, k, v, 0.3, blocks, sinks)
        else:
            y = softmax_attention(q, k, v, scale=0.3, mask=mask, sinks_H=sinks)
        y.square().mean().backward()
        ends.append([y.detach(), *(head.grad for head in heads)])
    for found, wanted in zip(*ends, strict=True):
        assert found is not None and wanted is not None
        assert_same(found, wanted, tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_model_makes_no_dense_mask_of_packed_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    config = from_hf({"model_type": "qwen2"} | COMMON | FAMILIES["qwen2"])
    model = initialise(CausalLM(config.with_(head_dim=32)), 0)
    ids, documents = torch.randint(0, 128, (2, 300)), random_documents(2, 300, 7)
    logits, _ = trained(model, ids, documents)
    use_blocks(monkeypatch, compiled=True)
    found, _ = trained(model.cuda(), ids.cuda(), documents.cuda())
    assert_same(found.cpu(), logits, 2e-3)
