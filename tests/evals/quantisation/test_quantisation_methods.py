"""The comparison of methods of quantisation: a row per candidate, on weights that lie on no lattice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from evals.quantisation.methods import DITHER_COLUMNS, DITHER_STEPS, dithered, formats_of, main
from modelstack.inference.quantise.quantisation import named_format
from modelstack.posttrain.base import load_base
from tests.modelstack.sft.toy_sft import write_base


def test_each_candidate_gets_a_row_and_eight_bits_diverge_least(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_base(tmp_path)
    documents = [json.dumps({"text": f"the cat number {n} sat on the mat {n * n} times"}) for n in range(60)]
    (tmp_path / "text.jsonl").write_text("\n".join(documents), encoding="utf-8")
    sizes = ["--tokens", "256", "--held-out", "64", "--length", "32"]
    chosen = ["--type", "q4_0", "--type", "q8_0", "--method", "rtn", "--method", "gptq", "--dither", "0"]
    out = tmp_path / "rows.json"
    source = str(tmp_path / "checkpoint")
    main([source, "--text", str(tmp_path / "text.jsonl"), *sizes, *chosen, "--json", str(out)])
    found = {row["name"]: row for row in json.loads(out.read_text())}
    assert [*found] == ["llama.cpp q4_0", "llama.cpp q8_0", "int4-g32, rtn", "int4-g32, gptq"]
    assert [round(row["bits_per_weight"], 2) for row in found.values()] == [4.5, 8.5, 4.5, 4.5]
    kl = {name: row["comparison"]["kl"] for name, row in found.items()}
    assert 0 < kl["llama.cpp q8_0"] < 0.1 * min(kl["llama.cpp q4_0"], kl["int4-g32, rtn"])
    assert kl["int4-g32, gptq"] < kl["llama.cpp q4_0"]
    assert capsys.readouterr().out.count("±") == 4


def test_some_layers_can_have_a_format_of_their_own() -> None:
    of = formats_of("int4-g32,down_proj=int5-g32,v_proj=int8-g32")
    names = ("mlp.down_proj", "self_attn.v_proj", "self_attn.q_proj")
    assert [of(f"model.layers.0.{name}.weight", (64, 64)) for name in names] == [
        named_format(name) for name in ("int5-g32", "int8-g32", "int4-g32")
    ]


def test_dithered_weights_stay_within_half_a_step(tmp_path: Path) -> None:
    model = load_base(write_base(tmp_path)).model.requires_grad_(False)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    dithered(model, seed=0)
    for name, weight in model.state_dict().items():
        moved = (weight - before[name]).abs()
        if not name.endswith("_proj.weight"):
            assert not moved.any(), name
            continue
        blocks = before[name].view(len(weight), -1, DITHER_COLUMNS)
        step = (blocks.amax(-1) - blocks.amin(-1)) / DITHER_STEPS
        assert (moved.view_as(blocks) <= step[..., None] / 2 * (1 + 1e-5)).all()
        assert (moved > 0).float().mean() > 0.99
        assert not torch.equal(weight, before[name])
