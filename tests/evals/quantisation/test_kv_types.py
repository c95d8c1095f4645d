"""The comparison of KV caches: a row per type, perplexity by the engine's steps, memory in its ratio."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from evals.quantisation.kv_types import losses, main
from tests.modelstack.inference.torch_engines import model_of, prompt_of
from tests.modelstack.sft.toy_sft import write_base


def test_the_loss_of_the_models_own_numbers_is_that_of_a_whole_pass() -> None:
    model, rows_RT = model_of("llama"), torch.tensor([prompt_of(n, 24) for n in range(3)])
    with torch.no_grad():
        log_p = model(rows_RT).logits_BTV[:, :-1].log_softmax(-1)
    expected = -log_p.gather(-1, rows_RT[:, 1:, None]).mean((1, 2))
    assert losses(model, rows_RT, "model") == pytest.approx(expected.tolist(), abs=1e-4)
    assert losses(model, rows_RT, "int8") == pytest.approx(expected.tolist(), abs=0.02)


def test_each_type_gets_a_row_beside_the_models_own_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_base(tmp_path)
    documents = [json.dumps({"text": f"the cat number {n} sat on the mat {n * n} times"}) for n in range(60)]
    (tmp_path / "text.jsonl").write_text("\n".join(documents), encoding="utf-8")
    out = tmp_path / "rows.json"
    sizes = ["--held-out", "64", "--length", "32", "--repeats", "1"]
    main([str(tmp_path / "checkpoint"), "--text", str(tmp_path / "text.jsonl"), *sizes, "--json", str(out)])
    found = {row["kv_type"]: row for row in json.loads(out.read_text())}
    assert [*found] == ["model", "int8", "k8v4"]
    n_bytes = [row["bytes_per_1000_tokens"] for row in found.values()]
    assert n_bytes == sorted(n_bytes, reverse=True)
    assert found["model"]["change"] == 0 and all(math.isfinite(row["half_width"]) for row in found.values())
    assert capsys.readouterr().out.count("±") == 3
