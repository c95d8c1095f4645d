"""Attention by plain products: exact where inputs are, and in half precision as exact as torch's own kernel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modelstack.architecture.attention import run_attention as module
from modelstack.architecture.attention.run_attention import MAX_RUN, run_attention, suits
from modelstack.architecture.attention.softmax import softmax_attention
from modelstack.architecture.context import ForwardContext, Run
from modelstack.architecture.decoder import CausalLM, make_context
from modelstack.train.parallel.blocks import apply_checkpointing
from tests.modelstack.architecture.parity import ours, reference

B, H, G, D = 2, 6, 2, 16
WHOLE = "one run a row"
LENGTHS: dict[str, list[list[int]]] = {WHOLE: [[300], [300]], "documents": [[1, 129, 170], [256, 44]]}


def _documents(lengths: list[list[int]]) -> Tensor:
    rows = [torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in lengths]
    return torch.stack(rows)


def _context(lengths: list[list[int]]) -> ForwardContext:
    documents = _documents(lengths)
    return make_context(torch.zeros_like(documents), documents_BT=None if len(lengths[0]) == 1 else documents)


def _inputs(dtype: torch.dtype, n_tokens: int = 300) -> tuple[list[Tensor], Tensor]:
    """Return queries, keys and values with gradients wanted, and a gradient of the output."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((B, H, n_tokens, D), (B, G, n_tokens, D), (B, G, n_tokens, D), (B, H, n_tokens, D))
    q, k, v, g = (2 * torch.randn(shape, generator=generator) for shape in shapes)
    return [x.to(dtype).requires_grad_() for x in (q, k, v)], g.to(dtype)


def _exact(inputs: list[Tensor], context: ForwardContext, g: Tensor) -> tuple[Tensor, ...]:
    doubles = [x.detach().double().requires_grad_() for x in inputs]
    mask = context.mask(None, inputs[0].shape[2])
    y = F.scaled_dot_product_attention(*doubles, attn_mask=mask, scale=0.3, enable_gqa=True)
    return (y.detach(), *torch.autograd.grad(y, doubles, g.double()))


@pytest.mark.parametrize("kind", LENGTHS)
def test_results_and_gradients_are_exact(kind: str) -> None:
    context = _context(LENGTHS[kind])
    inputs, g = _inputs(torch.float32)
    q, k, v = inputs
    y = run_attention(q, k, v, 0.3, context.runs(None))
    found = (y.detach(), *torch.autograd.grad(y, inputs, g))
    for own, wanted in zip(found, _exact(inputs, context, g), strict=True):
        torch.testing.assert_close(own.double(), wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_long_runs_compute_their_probabilities_again_and_get_the_same_gradients(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = _context(LENGTHS["documents"])
    inputs, g = _inputs(dtype)
    q, k, v = inputs
    kept = torch.autograd.grad(run_attention(q, k, v, 0.3, context.runs(None)), inputs, g)
    monkeypatch.setattr(module, "MAX_KEPT", 150)  # shorter than some of the runs
    y = run_attention(q, k, v, 0.3, context.runs(None))
    for own, wanted in zip(torch.autograd.grad(y, inputs, g), kept, strict=True):
        assert torch.equal(own, wanted)


@pytest.mark.parametrize("kind", LENGTHS)
def test_in_bf16_training_goes_this_way_and_is_as_exact_as_torchs_kernel(kind: str) -> None:
    context = _context(LENGTHS[kind])
    runs, mask = context.runs(None), context.mask(None, 300)
    inputs, g = _inputs(torch.bfloat16)
    assert suits(inputs[0], runs)
    exact = _exact(inputs, context, g)
    q, k, v = inputs
    ours = softmax_attention(q, k, v, scale=0.3, mask=mask, runs=runs)
    torchs = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3, enable_gqa=True)
    assert torch.equal(ours, run_attention(q, k, v, 0.3, runs))
    errors = []
    for y in (ours, torchs):
        found = (y.detach(), *torch.autograd.grad(y, inputs, g))
        pairs = zip(found, exact, strict=True)
        errors.append([float((own - wanted).norm() / wanted.norm()) for own, wanted in pairs])
    for own, theirs in zip(*errors, strict=True):
        assert own < 1.5 * theirs
        assert own < 0.01


@pytest.mark.parametrize(
    ("kind", "change"),
    [("fp32", {"dtype": torch.float32}), ("long", {"n_tokens": MAX_RUN + 1}), ("no gradient", {})],
)
def test_elsewhere_torchs_kernel_is_taken(kind: str, change: dict[str, Any]) -> None:
    n_tokens = change.get("n_tokens", 8)
    (q, *_), _ = _inputs(change.get("dtype", torch.bfloat16), n_tokens)
    q = q.detach() if kind == "no gradient" else q
    assert not suits(q, (Run(0, B, 0, n_tokens),))


def test_in_fp32_training_goes_this_way_where_onednn_multiplies() -> None:
    (q, *_), _ = _inputs(torch.float32, 8)
    runs = (Run(0, B, 0, 8),)
    assert not suits(q, runs)
    torch.set_float32_matmul_precision("medium")
    assert suits(q, runs)
    assert not suits(q.double(), runs)


def test_runs_are_documents_where_no_window_cuts_them() -> None:
    context = _context([[2, 3], [5, 0]])
    assert context.runs(None) == (Run(0, 1, 0, 2), Run(0, 1, 2, 5), Run(1, 2, 0, 5))
    assert context.runs(5) == context.runs(None)
    assert context.runs(4) == ()
    assert make_context(torch.zeros(3, 7)).runs(None) == (Run(0, 3, 0, 7),)
    later = make_context(torch.zeros(1, 2))
    later.n_past = 4
    assert later.runs(None) == ()


def test_packed_documents_in_bf16_learn_as_they_do_alone() -> None:
    model = ours(reference("llama")).to(torch.bfloat16)
    generator = torch.Generator().manual_seed(1)
    lengths = [150, 7, 43]
    texts = [torch.randint(0, 128, (1, n), generator=generator) for n in lengths]
    packed = _gradients(model, torch.cat(texts, 1), _documents([lengths]))
    alone: dict[str, Tensor] = {}
    for text in texts:
        for name, gradient in _gradients(model, text, None).items():
            alone[name] = alone.get(name, 0) + gradient
    for name, gradient in alone.items():
        apart = (packed[name] - gradient).norm() / gradient.norm()
        assert apart < 0.02, name


def test_checkpointed_blocks_give_the_same_gradients() -> None:
    ids = torch.randint(0, 128, (2, 140), generator=torch.Generator().manual_seed(1))
    wanted = _gradients(ours(reference("llama")).to(torch.bfloat16), ids, None)
    for kind in ("full", "selective"):
        apply_checkpointing(model := ours(reference("llama")).to(torch.bfloat16), kind)
        found = _gradients(model, ids, None)
        assert all(torch.equal(found[name], gradient) for name, gradient in wanted.items()), kind


def _gradients(model: CausalLM, ids: Tensor, documents: Tensor | None) -> dict[str, Tensor]:
    model.zero_grad()
    hidden = model(ids, documents_BT=documents, with_logits=False).hidden_BTD
    hidden.float().square().sum().backward()
    return {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}
