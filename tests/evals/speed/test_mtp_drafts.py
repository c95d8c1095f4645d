"""The comparison of drafts by multi-token prediction: its prompts, our program, and what it reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evals.speed import mtp_drafts, mtp_programs
from evals.speed.mtp_drafts import Written
from modelstack.architecture.checkpoint import save_checkpoint
from modelstack.architecture.gguf.export import export_gguf
from modelstack.posttrain.base import load_base
from modelstack.tokenizer.gguf_tokenizer import gguf_fields
from modelstack.tokenizer.tokenizer_folder import save_text_tokenizer
from tests.modelstack.architecture.gguf_models import toy_chat_tokenizer, toy_config, toy_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights with a module."""
    folder = tmp_path_factory.mktemp("mtp")
    save_text_tokenizer(toy_chat_tokenizer(), folder / "tokenizer")
    config = toy_config("deepseek_v3", max_position_embeddings=256).with_(num_nextn_predict_layers=1)
    return save_checkpoint(toy_model(config), folder / "model", tokenizer=folder / "tokenizer")


def test_our_program_writes_the_same_with_and_without_drafts_from_a_gguf_file(
    checkpoint: Path, tmp_path: Path
) -> None:
    base = load_base(checkpoint)
    file = tmp_path / "model.gguf"
    export_gguf(base.config, base.model.state_dict(), gguf_fields(base.tokenizer), file, type_name="f32")
    prompts = mtp_drafts.prompts_of(base, 10)
    assert len(prompts) == 10 and {len(ids) for ids in prompts} == {mtp_drafts.N_PROMPT}
    plain, drafting = (mtp_programs.torch_engine(file, 1, 128, drafts) for drafts in (False, True))
    for ids in prompts[:2]:
        without, found = plain(ids, 12), drafting(ids, 12)
        assert without["reply"] == found["reply"] and len(found["reply"]) == 12
        assert without["n_drafted"] == 0


def answer(reply: list[int], n_drafted: int = 0, n_accepted: int = 0, cpu_s: float = 1.0) -> dict[str, Any]:
    return {"reply": reply, "n_drafted": n_drafted, "n_accepted": n_accepted, "cpu_s": cpu_s}


def test_the_report_has_shares_steps_and_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    plain = Written("torch 1", [answer([1, 2, 3, 4]), answer([5, 6, 7, 8])])
    ours = Written("torch 1", [answer([1, 2, 3, 4], 4, 3, 0.5), answer([5, 6, 7, 9], 4, 1, 0.5)])
    theirs = Written("x 2", [answer([1, 2, 3, 4], 6, 3), answer([5, 6, 7, 8], 6, 0)])
    result = mtp_drafts.report({mtp_drafts.OURS: (plain, ours), mtp_drafts.PEER: (plain, theirs)}, "toy")
    figures = {figure.name: figure.value for figure in result.figures}
    assert figures["torch: drafted tokens accepted"] == 0.5
    assert figures["torch: replies as without drafts"] == 0.5
    assert figures["torch: speed with drafts"] == 2.0
    assert figures["llama.cpp server: drafted tokens accepted"] == 0.25
    assert figures["replies equal to the peer's"] == 0.5
    assert result.comparisons[0].values == {"torch": 8 / 4, "llama.cpp server": 8 / 5}
    assert "1 of 2 replies are the same in both programs" in capsys.readouterr().out


def test_a_model_without_a_module_is_refused(checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    folder = save_checkpoint(
        toy_model(toy_config("llama")), tmp_path / "plain", tokenizer=checkpoint.parent / "tokenizer"
    )
    assert mtp_drafts.main(["--model", str(folder)]) == 1
    assert "has no module for multi-token prediction" in capsys.readouterr().err
