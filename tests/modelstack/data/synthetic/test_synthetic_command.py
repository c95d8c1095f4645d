"""`modelstack data synthesise`: the engine's replies keep the grammar; seeds are content; a run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from modelstack.cli import app
from modelstack.data.documents import Document
from modelstack.data.reading import JsonlInput, open_input
from modelstack.data.synthetic.checks import Checks
from modelstack.data.synthetic.recipe import SyntheticRecipe
from modelstack.data.synthetic.run import DOCUMENTS_FILE, NotWritten, Request, write_documents
from modelstack.data.synthetic.template import Template
from modelstack.data.synthetic.writer import EngineWriter, name_of
from modelstack.inference.engine import Engine
from modelstack.inference.llama.engine import LlamaCppEngine

SEED = (
    "The heron stood in the shallow water of the pond and waited. When a small fish came near, it struck with its "
    "long beak, swallowed the fish whole, and stood still again until the evening."
)
TEMPLATES = (
    Template(name="retold", prompt="Retell this for a child:\n\n{seed}", max_tokens=120),
    Template(
        name="asked", form="questions", prompt="Write questions with answers about:\n\n{seed}", max_tokens=120
    ),
)


@pytest.fixture(scope="module")
def tiny(tiny_gguf: Path) -> Iterator[Engine]:
    with LlamaCppEngine(tiny_gguf, n_threads=1, n_threads_prefill=1) as engine:
        yield engine


def request(template: Template, seed: int) -> Request:
    return Request(template.asked(SEED), template.schema_of_reply, template.max_tokens, seed)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_a_model_of_noise_keeps_the_form_and_writes_the_same_again(tiny: Engine, template: Template) -> None:
    writer = EngineWriter(tiny, "tiny")
    replies = [writer(request(template, seed)) for seed in range(4)]
    assert all(template.text_of(reply) for reply in replies)
    assert len(set(replies)) > 1
    assert [writer(request(template, seed)) for seed in range(4)] == replies


def test_what_does_not_fit_into_the_context_is_not_written(tiny: Engine) -> None:
    with pytest.raises(NotWritten, match="context_full"):
        EngineWriter(tiny, "tiny")(Request("word " * 20_000, TEMPLATES[0].schema_of_reply, 120, 0))


def test_the_hash_is_of_weights_and_sampling(tiny: Engine) -> None:
    first = EngineWriter(tiny, "tiny")
    assert first.sha256 == EngineWriter(tiny, "another name").sha256
    assert first.sha256 != EngineWriter(tiny, "tiny", temperature=0.5).sha256
    assert name_of(Path("a/b.gguf"), None) == "b"
    assert name_of(Path("a/b.gguf"), Path("c/d.gguf")) == "b+d"


def test_the_command_writes_counts_and_goes_on(tiny_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "seeds.jsonl").write_text(json.dumps({"id": "heron", "text": SEED}) + "\n", encoding="utf-8")
    (tmp_path / "recipe.toml").write_text(
        f'name = "herons"\ninputs = [{{kind = "jsonl", path = "{tmp_path / "seeds.jsonl"}"}}]\n'
        '[[templates]]\nname = "retold"\nprompt = "Retell: {seed}"\nper_seed = 2\nmax_tokens = 60\n'
        "[checks]\nmin_characters = 1\n",
        encoding="utf-8",
    )
    command = [
        "data",
        "synthesise",
        str(tmp_path / "recipe.toml"),
        "checks.language=none",
        "--model",
        str(tiny_gguf),
    ]
    results = [CliRunner().invoke(app, [*command, "--out", str(tmp_path / "run")]) for _ in range(2)]
    for result in results:
        assert result.exit_code == 0, result.output
        assert "2 attempts, 2 documents" in result.output
    documents = list(open_input(JsonlInput(path=tmp_path / "run" / DOCUMENTS_FILE)))
    assert [d.metadata["seed_id"] for d in documents if isinstance(d, Document)] == ["heron", "heron"]
    other = CliRunner().invoke(app, [*command, "--temperature", "0.1", "--out", str(tmp_path / "run")])
    assert other.exit_code == 1
    assert "documents of another model" in other.stderr
    missing = CliRunner().invoke(app, [*command[:-1], str(tmp_path / "no.gguf"), "--out", str(tmp_path / "new")])
    assert missing.exit_code == 1
    assert "no.gguf" in missing.stderr


@pytest.mark.slow
def test_the_embedded_model_writes_under_the_grammar_and_each_outcome_is_counted(
    smollm2_gguf: Path, tmp_path: Path
) -> None:
    (tmp_path / "seeds.jsonl").write_text(json.dumps({"id": "heron", "text": SEED}) + "\n", encoding="utf-8")
    recipe = SyntheticRecipe(
        name="herons",
        inputs=(JsonlInput(path=tmp_path / "seeds.jsonl"),),
        templates=TEMPLATES,
        checks=Checks(min_characters=10, max_copied_share=1, language=None),
    )
    with LlamaCppEngine(smollm2_gguf, n_threads=1, n_threads_prefill=1, context_window=1024) as engine:
        writer = EngineWriter(engine, name_of(smollm2_gguf, None))
        manifest = write_documents(recipe, writer, tmp_path / "run")
    assert manifest["outcomes"] == {"kept": 2}
    documents = [
        d for d in open_input(JsonlInput(path=tmp_path / "run" / DOCUMENTS_FILE)) if isinstance(d, Document)
    ]
    assert [d.metadata["template"] for d in documents] == ["retold", "asked"]
    assert {d.metadata["model_sha256"] for d in documents} == {writer.sha256}
    assert documents[1].text.startswith("Question: ")
