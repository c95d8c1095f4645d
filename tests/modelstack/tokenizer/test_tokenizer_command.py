"""The commands: a recipe and text make a tokenizer, a tokenizer and text make a report; mistakes are one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from modelstack.cli import app
from modelstack.errors import UserError
from modelstack.recipe_file import read_recipe
from modelstack.tokenizer.tokenizer_folder import load_tokenizer
from modelstack.tokenizer.training import TokenizerConfig
from tests.modelstack.tokenizer.texts import LINES, fuzz


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for domain, texts in {"lines": LINES, "fuzz": fuzz(200)}.items():
        records = "".join(json.dumps({"text": text + str(i)}) + "\n" for i, text in enumerate(texts))
        (folder / f"{domain}.jsonl").write_text(records, encoding="utf-8")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["tokenizer", *map(str, arguments)])


def test_a_recipe_with_overrides_makes_a_tokenizer_that_loads(corpus: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('vocab_size = 999\npretokenizer = "smollm"\ndigits = 1\n[special_tokens]\nn_reserved = 4\n')
    done = run("train", recipe, "vocab_size=512", corpus, "--out", tmp_path / "made")
    assert done.exit_code == 0, done.output
    assert "512 ids" in done.output
    made = json.loads((tmp_path / "made" / "tokenizer_training.json").read_text(encoding="utf-8"))
    assert made["config"]["vocab_size"] == 512
    assert (made["config"]["pretokenizer"], made["config"]["digits"]) == ("smollm", "1")
    assert made["config"]["special_tokens"]["n_reserved"] == 4
    assert len(load_tokenizer(tmp_path / "made").vocabulary) == 512


def test_a_report_stands_on_what_training_left_out(corpus: Path, tmp_path: Path) -> None:
    for name, size in (("a", 512), ("b", 640)):
        made = run("train", f"vocab_size={size}", corpus, "--held-out", 0.3, "-o", tmp_path / name)
        assert made.exit_code == 0, made.output
    shown = ["report", tmp_path / "a", "--against", f"other={tmp_path / 'b' / 'tokenizer.json'}", "--text", corpus]
    done = run(*shown, "--held-out", 0.3, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert [each["name"] for each in report["tokenizers"]] == ["a", "other", "other cut to 512"]
    assert set(report["text"]) == {"lines", "fuzz"}
    made = json.loads((tmp_path / "a" / "tokenizer_training.json").read_text(encoding="utf-8"))
    n_all = len(LINES) + 200
    assert report["tokenizers"][0]["groups"][0]["n_documents"] == n_all - made["n_documents"]
    assert (tmp_path / "out" / "report.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["train", "vocab_sise=9", "CORPUS", "-o", "x"], "'vocab_sise' is not known; nearest: 'vocab_size'"),
        (["train", "special_tokens.n_reservd=9", "CORPUS", "-o", "x"], "nearest: 'special_tokens.n_reserved'"),
        (["train", "vocab_size=9", "CORPUS", "-o", "x"], "recipe key 'vocab_size': Input should be greater"),
        (["train", "vocab_size.a=1", "vocab_size=400", "vocab_size.b=1", "CORPUS", "-o", "x"], "not a table"),
        (["train", "vocab_size=400", "-o", "x"], "no input: name files"),
        (["train", "a.toml", "b.toml", "CORPUS", "-o", "x"], "at most one recipe, not 2"),
        (["train", "nowhere.toml", "CORPUS", "-o", "x"], "nowhere.toml"),
        (["train", "nowhere", "-o", "x"], "nowhere is neither a folder"),
        (["report", "nowhere", "--text", "CORPUS"], "nowhere does not exist"),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments: list[str], reason: str, corpus: Path) -> None:
    done = run(*(str(corpus) if argument == "CORPUS" else argument for argument in arguments))
    assert done.exit_code == 1
    assert reason in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_two_tokenizers_of_one_name_need_names(corpus: Path, tmp_path: Path) -> None:
    assert run("train", "vocab_size=400", corpus, "-o", tmp_path / "a").exit_code == 0
    done = run("report", tmp_path / "a", "--against", tmp_path / "a", "--text", corpus)
    assert "two tokenizers are called 'a'; write NAME=PATH" in done.output


def test_values_are_read_as_toml_has_them() -> None:
    config = read_recipe(
        TokenizerConfig,
        None,
        ["special_tokens.think=none", 'special_tokens.turn=["<|a|>", "<|b|>"]', "kind=byte-level"],
    )
    assert config.special_tokens.think is None
    assert config.special_tokens.turn == ("<|a|>", "<|b|>")
    with pytest.raises(UserError, match="named twice"):
        read_recipe(TokenizerConfig, None, ["special_tokens.end_of_text=<|im_end|>"])


def test_a_recipe_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("a = = b", encoding="utf-8")
    with pytest.raises(UserError, match=r"bad\.toml is not TOML"):
        read_recipe(TokenizerConfig, tmp_path / "bad.toml")


def test_the_room_loads_without_torch_and_its_commands_without_numpy() -> None:
    code = (
        "import sys, modelstack.cli, modelstack.commands.tokenizer; "
        "print([m for m in ('torch', 'numpy', 'tokenizers', 'matplotlib', 'transformers') if m in sys.modules]); "
        "import modelstack.tokenizer.report_output, modelstack.tokenizer.tokenizer_folder, "
        "modelstack.tokenizer.gguf_tokenizer; "
        "print([m for m in ('torch', 'transformers', 'matplotlib', 'gguf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]
