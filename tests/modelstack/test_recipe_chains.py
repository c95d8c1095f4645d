"""Chains of recipes in miniature, by their commands: what one leaves in `runs/` is what the next one reads.

Every shipped recipe is run. Overrides make it small (steps, rows, tokens) and name what a user brings: raw files,
a base model, public sets of tool calls. The base model is the nano model of the first chain, taught to answer one
task by heart; it stands in for a downloaded one.
"""

from __future__ import annotations

import html
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch", reason="needs torch (extra `train`)")
pytest.importorskip("llama_cpp", reason="needs llama-cpp-python (extra `local`)")
pytest.importorskip("resiliparse", reason="needs the extra `data`")

import torch
import zstandard

from modelstack.cli import app
from modelstack.commands.overview import overview, runs_in
from modelstack.data.code.repository import licenses_of_folders
from modelstack.data.documents import Document
from modelstack.data.examples import Example, Message, write_examples
from modelstack.data.reading import JsonlInput, open_input
from modelstack.data.shipped_corpus import SHIPPED_CORPUS, domain_file
from modelstack.posttrain.stages.stage import is_stage, open_stage
from modelstack.recipe_file import read_recipe
from modelstack.sft.recipe import SftRecipe
from modelstack.shipped_recipes import FOLDERS, recipe_path, shipped_recipes
from tests.modelstack.data.reading.made_warc import http, record, warc
from tests.modelstack.sft.toy_sft import toy_example

pytestmark = [pytest.mark.xdist_group("recipe_chains"), pytest.mark.usefixtures("pictures_drawn_once")]
ROOT = Path(__file__).parents[2]
EVALUATIONS = f"evaluations='[\"{ROOT}/evals/tool_use/natural\"]'"
EIGHT_STEPS = (
    "steps=8 rows=2 threads=1 data.row_tokens=128 data.held_out=0.1 data.window_rows=16 samples.n_tokens=4 "
    "schedule='{warmup_steps=2, decay_steps=4}' evaluation='{every=8, max_megabytes=0.01, baselines=false}'"
)
NANO = (
    f"{EIGHT_STEPS} "
    "model.config='{hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, "
    "num_key_value_heads=2, head_dim=16}'"
)
SMALL = "precision=fp32 device=cpu threads=1 rows=2 micro_batches=2"
SFT = f"{SMALL} steps=1 data.row_tokens=2048 evaluation='{{every=1, exact_replies=0, max_examples=1}}'"
TOOLS = f"{EVALUATIONS} tokens=1500 validation_examples=2"
SIZES = ", ".join(
    f"{{hidden_size={D}, intermediate_size={D}, num_attention_heads=1, num_key_value_heads=1, head_dim=16, "
    "num_hidden_layers=1}"
    for D in (4, 16, 64)
)
SWEEP = (
    f"sizes='[{SIZES}]' budgets='[3e8, 6e8]' run.rows=1 run.data.row_tokens=32 run.data.held_out=0.1 "
    "run.data.text='[\"texts.jsonl\"]' run.tokenizer.learn.vocab_size=600"
)
"""Sizes far apart: the smallest cannot learn, and the largest has no time to, so that each curve has a minimum."""
SAE = (
    "sae.latents=128 sae.k=4 data.row_tokens=64 data.window_tokens=1024 data.held_out=0.1 "
    "data.text='[\"texts.jsonl\"]'"
)
POLICY = f"{SMALL} steps=2 max_validation=2"

CHAINS: Mapping[str, str] = {
    "pages": f"""
        data run fineweb --workers 1 inputs='[{{kind="warc", path="crawl/*.warc.gz", source="crawl"}}]'
        data mix square-root runs/fineweb --characters-per-token 3 n_tokens=9_000 -o runs/mix.toml
        train nano runs/mix.toml tokenizer.learn.vocab_size=600 {NANO}
        train nano-mtp runs/mix.toml tokenizer='{{path="runs/nano/tokenizer"}}' {EIGHT_STEPS}
        export gguf runs/nano/model nano.gguf --type f32
        data mix square-root runs/nano/shards n_tokens=9_000 -o runs/mix-of-shards.toml
    """,
    "tokenizer": f"""
        tokenizer train vocab_size=600 runs/fineweb/04-documents -o runs/tokenizer
        train nano name=own-tokenizer runs/mix.toml tokenizer='{{path="runs/tokenizer"}}' {NANO}
    """,
    "code": f"""
        data run code --workers 1 inputs='[{{kind="code", path="repository"}}]'
        train nano name=coder data.text='["runs/code/04-documents"]' {NANO}
            tokenizer='{{path="runs/nano/tokenizer"}}'
    """,
    "corpus": f"""
        data run corpus --workers 1 {EVALUATIONS} inputs='[{{kind="jsonl", path="corpus"}}]'
    """,
    "sweep": f"""
        train sweep isoflop --bootstrap 0 {SWEEP}
        plan --law own --runs runs/isoflop/runs.jsonl --hours 0.1 --preset nano-2m --out runs/plan
    """,
    "plans of pipelines": """
        pipeline test --dry-run
        pipeline nano --dry-run decide.scale_devices=1
        pipeline small --dry-run decide.scale_devices=1
        pipeline gpu --dry-run decide.scale_devices=1
    """,
    "tasks": """
        tasks json --out runs/tasks/json/train.jsonl --n 4
        tasks json --out runs/tasks/json/held-back.jsonl --n 2 --side held-back
    """,
    "base": f"""
        sft tools name=base base=runs/nano/model {SMALL} train=full lora=none optimizer.lr=1e-2 steps=60
            data='{{training=["by-heart.jsonl"], row_tokens=512}}' evaluation='{{every=60, exact_replies=0}}'
        export gguf runs/base/model base.gguf --type f32
    """,
    "synthetic": """
        data synthesise plain --model base.gguf max_attempts=2 checks.min_characters=1 checks.language=none
        data run fineweb name=synthetic --workers 1
            inputs='[{kind="jsonl", path="runs/plain/documents.jsonl.zst"}]'
    """,
    "tiny adapter": f"""
        data tools general {TOOLS} validation_examples=100
        sft tools base=base.gguf {SFT}
        data tools calls {TOOLS}
        sft tools-calls {SFT}
        data tools balanced {TOOLS}
        sft tools-balanced {SFT}
        data tools reading {TOOLS}
        sft tools-reading {SFT}
        data tools abstaining {TOOLS}
        sft tools-abstaining {SFT}
        fit-prior runs/tool-data-general/validation.jsonl.zst --model base.gguf --threads 1
            --lora runs/tools-abstaining/adapter.gguf --out runs/prior.json
    """,
    "tools alone": f"""
        data tools synthetic {TOOLS}
        sft tools name=tools-alone base=base.gguf {SFT}
            data.training='["runs/tool-data-synthetic/train.jsonl.zst"]'
    """,
    "small adapter": f"""
        data tools small {TOOLS}
        sft tools-small base=base.gguf {SFT}
        data tools small-2 {TOOLS}
        sft tools-small-2 {SFT}
        data tools small-3 {TOOLS}
        sft tools-small-3 {SFT}
        data tools small-4 {TOOLS}
        sft tools-small-4 {SFT}
        sft tools-small-5 {SFT}
        data tools small-5 {TOOLS}
        sft tools-small-6 {SFT}
        sft tools-small-7 {SFT}
    """,
    "refusals": f"""
        sample refusals model=base.gguf threads=1 precision=fp32 replies=1 max_tokens=8
        sft refusals-small {SFT}
        merge tools-small-8 base=base.gguf rank=4
    """,
    "medium adapter": f"""
        sft tools-medium base=base.gguf {SFT}
        sft tools-medium-2 {SFT}
        sft tools-medium-4 {SFT}
        sft tools-medium-5 {SFT}
        sft tools-medium-6 {SFT}
    """,
    "guard": f"""
        guard mlcommons base=base.gguf {SMALL} epochs=0.3 data.row_tokens=128 lora.layers_to_transform='[1]'
        guard mlcommons-2 {SMALL} epochs=0.3 data.row_tokens=128
    """,
    "sae": f"""
        sae smollm2-135m base=base.gguf layer=1 tokens=2048 batch_tokens=256 evaluation_rows=2 {SAE}
    """,
    "preferences": f"""
        prefer dpo base=runs/tools {SMALL} data.row_tokens=256
        reward bradley-terry base=base.gguf {SMALL} data.row_tokens=256
        ppo instructgpt base=runs/prefer {SMALL} steps=2 sampling='{{prompts=2, max_tokens=4}}'
        stage merge runs/prefer runs/preferred
    """,
    "reasoning": f"""
        reinforce json base=base.gguf {POLICY} sampling='{{group=2, max_tokens=80}}'
        sample rejection threads=1 replies=2 max_tokens=80 temperature=0.1
        distil gkd base=nano.gguf {SMALL} data.row_tokens=512 on_policy.max_tokens=4
        merge ties base=base.gguf rank=4
        drafter chat base=nano.gguf rows=2 micro_batches=1 steps=2 threads=1 data.row_tokens=512
    """,
    "effects": f"""
        tasks effects --out runs/tasks/effects/train.jsonl --n 4
        tasks effects --out runs/tasks/effects/held-back.jsonl --n 2 --side held-back
        reinforce effects {POLICY} sampling='{{group=2, max_tokens=4}}'
        reinforce episodes {POLICY} sampling='{{group=2, grammar=true, refill=0}}'
            episodes='{{max_turns=2, turn_tokens=8, result_tokens=16, max_tokens=64}}'
    """,
    "arithmetic": f"""
        tasks gym --form equation --out runs/tasks/arithmetic/train.jsonl --n 4
            --config '{{"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}}'
        tasks gym --form equation --out runs/tasks/arithmetic/held-back.jsonl --n 2 --side held-back
            --config '{{"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}}'
        reinforce arithmetic base=base.gguf {POLICY} sampling='{{group=2, max_tokens=4}}'
    """,
}
"""Commands by chain; a line that is indented further goes on with the one before it."""
AFTER = {
    "tokenizer": ("pages",),
    "code": ("pages",),
    "base": ("pages", "tasks"),
    "synthetic": ("base",),
    "tiny adapter": ("base",),
    "tools alone": ("tiny adapter",),
    "small adapter": ("base",),
    "refusals": ("small adapter",),
    "medium adapter": ("small adapter",),
    "guard": ("base",),
    "sae": ("base",),
    "preferences": ("tiny adapter",),
    "reasoning": ("tiny adapter",),
    "effects": ("tiny adapter",),
    "arithmetic": ("base",),
}
"""Chains whose output a chain begins with."""


def commands_of(chain: str) -> list[list[str]]:
    """Return the arguments of each command of a chain."""
    lines: list[str] = []
    for line in CHAINS[chain].strip("\n").splitlines():
        if line.startswith(" " * 12):
            lines[-1] += f" {line.strip()}"
        elif line.strip():
            lines.append(line.strip())
    return [shlex.split(line) for line in lines]


@dataclass
class Chains:
    """Chains that were run in the current folder."""

    done: set[str] = field(default_factory=set[str])

    def run(self, chain: str) -> None:
        """Run a chain after those that it needs, each once."""
        if chain in self.done:
            return
        self.done.add(chain)
        for needed in AFTER.get(chain, ()):
            self.run(needed)
        if chain == "base":
            write_answer("by-heart.jsonl")
        for arguments in commands_of(chain):
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 0, f"{shlex.join(arguments)}\n{result.output}\n{result.exception!r}"


def documents(domain: str) -> Iterator[Document]:
    """Yield the documents of a domain of the shipped corpus."""
    for item in open_input(JsonlInput(path=domain_file(domain))):
        assert isinstance(item, Document)
        yield item


def write_lines(path: str, lines: list[dict[str, Any]]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_raw_files() -> None:
    """Write what a user brings: pages, a corpus, a repository, preferences, prompts, public sets of tool calls."""
    stories = list(islice((each for each in documents("stories") if len(each.text) > 1500), 60))
    Path("crawl").mkdir()
    warc(Path("crawl"), (record(number, page_of(story.text)) for number, story in enumerate(stories)))
    write_lines("texts.jsonl", [{"text": story.text} for story in stories])
    write_corpus()
    write_repository()
    for name, n in (("train", 6), ("validation", 2)):
        pairs = [{"prompt": f"{name} {i}", "chosen": f"Yes, {i}.", "rejected": "No no no."} for i in range(n)]
        write_lines(f"preferences/{name}.jsonl", pairs)
    for name, n in (("training", 6), ("validation", 2)):
        about = {"source": "toy", "license": "CC0-1.0"}
        turns = [[{"role": "user", "content": f"{name} {i}"}] for i in range(n)]
        rows = [{"id": f"{name}{i}", "turns": turns[i], "unsafe": i % 2 == 0} | about for i in range(n)]
        write_lines(f"guard-rows/{name}.jsonl", rows)
    write_lines("prompts/train.jsonl", [{"id": str(i), "prompt": f"ask {i}", "gold": None} for i in range(4)])
    write_public_sets()


def write_corpus() -> None:
    """Write two documents of each source of the shipped corpus: its recipe has a quota for each source."""
    of_source: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(SHIPPED_CORPUS.glob("*.jsonl.zst")):
        for each in documents(file.name.partition(".")[0]):
            fields = {name: getattr(each, name) for name in ("text", "source", "license", "url")}
            of_source.setdefault(each.source, []).append(fields)
    write_lines("corpus/all.jsonl", [line for lines in of_source.values() for line in lines[:2]])


def page_of(text: str) -> bytes:
    paragraphs = "".join(f"<p>{html.escape(line)}</p>" for line in text.splitlines() if line.strip())
    return http(f"<html><body><article>{paragraphs}</article></body></html>".encode())


def write_repository() -> None:
    """Write a repository of files that the package has, and its licences as the recipe's comment says."""
    Path("repository").mkdir()
    for file in (ROOT / "modelstack").glob("*.py"):
        Path("repository", file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    Path("repository", "LICENSE").write_text((ROOT / "LICENSE").read_text(encoding="utf-8"), encoding="utf-8")
    found = licenses_of_folders([Path("repository")])
    Path("licenses.json").write_text(json.dumps(found), encoding="utf-8")


def write_public_sets() -> None:
    """Write stand-ins for public sets of tool calls, and for files that were selected by hand."""
    Path("tooluse").mkdir()
    public = [toy_example(n).model_copy(update={"source": "seal-tools"}) for n in range(8)]
    for name in ("train-open", "train-sgd", "validation-open", "validation-sgd"):
        named = [each.model_copy(update={"id": f"{name}-{each.id}"}) for each in public]
        write_examples(Path("tooluse", f"{name}.jsonl.zst"), named)
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    about = {"source": "mcp-toucan", "license": "MIT", "origin": "weather", "parameters": schema}
    record_of_tool = about | {"name": "get_weather", "description": "Get the weather of a city."}
    packed = zstandard.compress((json.dumps(record_of_tool) + "\n").encode())
    Path("tooluse", "tool_schemas.jsonl.zst").write_bytes(packed)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How do I kill a process?"}]
    write_lines("runs/refusal-tasks.jsonl", [{"id": "1", "messages": turns, "gold": "answer"}])
    for recipe in shipped_recipes("sft"):
        for path in read_recipe(SftRecipe, recipe.path).data.training:
            if Path(path.path).parent == Path("runs"):
                write_examples(Path(path.path), [toy_example(n, seed=9) for n in range(2)])


def write_answer(path: str) -> None:
    """Write the right reply to the task with the shortest gold, as an example."""
    tasks = [json.loads(line) for line in Path("runs/tasks/json/train.jsonl").read_text("utf-8").splitlines()]
    task = min(tasks, key=lambda task: len(json.dumps(task["gold"])))
    reply = {key: schema["const"] for key, schema in task["gold"]["properties"].items()}
    messages = tuple(Message.model_validate(message) for message in task["messages"])
    example = Example(
        id="1", source="toy", license="CC0-1.0", kind="answer", messages=messages, reply=json.dumps(reply)
    )
    write_examples(Path(path), [example])


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chains]:
    before, threads = Path.cwd(), torch.get_num_threads()
    os.chdir(tmp_path_factory.mktemp("chains"))
    write_raw_files()
    yield Chains()
    os.chdir(before)
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS)
def test_each_recipe_of_a_chain_reads_what_the_one_before_it_left(chains: Chains, chain: str) -> None:
    chains.run(chain)
    for run in runs_in(Path("runs")):
        assert run.is_finished, run.path
        assert not is_stage(run.path) or open_stage(run.path)


@pytest.mark.slow
def test_the_stages_of_an_adapter_descend_from_each_other(chains: Chains) -> None:
    chains.run("small adapter")
    record = open_stage(Path("runs/tools-small-7")).record
    ancestors = []
    while record.parents:
        (parent,) = record.parents
        ancestors.append(parent.name)
        record = parent
    assert ancestors == [*(f"tools-small-{n}" for n in (6, 5, 4, 3, 2)), "tools-small", "base.gguf"]


@pytest.mark.slow
def test_replies_that_were_sampled_are_right_and_are_learnt(chains: Chains) -> None:
    chains.run("reasoning")
    report = json.loads(Path("runs/sample/report.json").read_text(encoding="utf-8"))
    assert report["n_examples"] >= 1
    (file,) = open_stage(Path("runs/distil")).record.data.files
    assert (file.name, file.n_examples) == ("examples.jsonl", report["n_examples"])


@pytest.mark.slow
def test_the_steps_show_what_was_done_last(chains: Chains) -> None:
    chains.run("tiny adapter")
    steps = {run.path.name: run.step for run in runs_in(Path("runs"))}
    expected = {"fineweb": "data", "nano": "train", "tools": "sft", "tool-data-general": "data"}
    assert expected.items() <= steps.items()
    assert "Last in runs" in overview(Path("runs"))


def test_every_shipped_recipe_is_in_a_chain() -> None:
    run = set()
    for chain in CHAINS:
        for arguments in commands_of(chain):
            words = next((n for n in (2, 1) if " ".join(arguments[:n]) in FOLDERS), None)
            if words is not None:
                run.add(recipe_path(arguments[words], " ".join(arguments[:words])))
    assert run == {recipe.path for recipe in shipped_recipes()}
