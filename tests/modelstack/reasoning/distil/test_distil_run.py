"""`modelstack distil`: divergences fall, with given and with sampled replies."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.nn import functional as F

from modelstack.architecture.checkpoint import save_checkpoint
from modelstack.architecture.losses import IGNORED
from modelstack.data.examples import Example, Message, write_examples
from modelstack.errors import UserError
from modelstack.posttrain.base import Base, load_base
from modelstack.posttrain.row_loader import RowOrder
from modelstack.posttrain.stages.stage import Stage, open_stage
from modelstack.posttrain.starting_point import starting_point
from modelstack.reasoning.distil.loader import DistilBatch, DistilLoader, given_batch, prompt_of
from modelstack.reasoning.distil.passes import DistilPasses
from modelstack.reasoning.distil.recipe import DistilRecipe, OnPolicy
from modelstack.reasoning.distil.run import Distillation, distil, require_same_tokenizer
from modelstack.reasoning.distil.stored_teacher import kept_teacher
from modelstack.reasoning.losses.distillation import ClassicDistillationConfig, DistillationConfig
from modelstack.reasoning.sampling.continuing import TorchPolicy
from modelstack.reasoning.sampling.group_sampler import GroupSampler
from modelstack.recipe_file import checked_recipe
from modelstack.sft.tokenised import Tokenised, tokenise
from modelstack.tokenizer.text_tokenizer import TextTokenizer
from tests.modelstack.architecture.gguf_models import toy_config, toy_model
from tests.modelstack.sft.toy_sft import write_base

pytestmark = [pytest.mark.xdist_group("distil_run"), pytest.mark.usefixtures("pictures_drawn_once")]


class World(NamedTuple):
    student: Path
    teacher: Path
    data: Path


def toy_example(n: int, seed: int = 0) -> Example:
    return Example(
        id=f"toy-{seed}-{n}",
        source="toy",
        license="CC0-1.0",
        kind="answer",
        messages=(Message(role="user", content=f"say {n % 4}"),),
        reply=f"well, {n} of {seed}",
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("distil")
    write_base(folder / "student")
    tokenizer = folder / "student" / "tokenizer"
    teacher = toy_model(toy_config("llama", max_position_embeddings=1024), seed=5)
    with torch.no_grad():
        teacher.lm_head.weight.mul_(10)
    save_checkpoint(teacher, folder / "teacher", tokenizer=tokenizer)
    write_examples(folder / "train.jsonl", [toy_example(n) for n in range(10)])
    write_examples(folder / "validation.jsonl", [toy_example(n, seed=1) for n in range(3)])
    return World(folder / "student" / "checkpoint", folder / "teacher", folder)


def values(world: World, **changes: Any) -> dict[str, Any]:
    return {
        "name": "toy",
        "base": str(world.student),
        "teacher": str(world.teacher),
        "teacher_precision": "fp32",
        "precision": "fp32",
        "device": "cpu",
        "threads": 1,
        "train": "full",
        "steps": 8,
        "rows": 4,
        "micro_batches": 2,
        "data": {
            "training": [str(world.data / "train.jsonl")],
            "validation": [str(world.data / "validation.jsonl")],
            "row_tokens": 256,
        },
        "optimizer": {"lr": 3e-3},
        "checkpoints": {"every": 3, "keep": 2},
        **changes,
    }


def run(world: World, folder: Path, **changes: Any) -> Stage:
    stage = distil(checked_recipe(DistilRecipe, values(world, **changes)), folder, Console(quiet=True))
    assert stage is not None
    return stage


def figures(stage: Stage) -> dict[str, tuple[float, float]]:
    evaluation = stage.record.evaluation
    return {a.name: (b.value, a.value) for b, a in zip(evaluation.before, evaluation.after, strict=True)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": {"name": "classic", "alpha": 0.9, "temperature": 2.0}},
        {"top_k": 12, "loss": {"name": "generalised_jsd", "beta": 0.0}},
        {
            "on_policy": {"share": 0.5, "max_tokens": 6},
            "loss": {"name": "generalised_jsd", "beta": 1.0},
            "train": "lora",
            "lora": {"rank": 8, "alpha": 16},
            "optimizer": {"lr": 3e-2},
        },
    ],
    ids=["jsd", "classic", "top-k", "on-policy-lora"],
)
def test_a_student_comes_near_its_teacher(world: World, tmp_path: Path, changes: dict[str, Any]) -> None:
    stage = run(world, tmp_path / "run", **changes)
    record = open_stage(stage.path).record
    assert record.kind == "distilled"
    assert [parent.name for parent in record.parents] == ["checkpoint", "teacher"]
    assert record.recipe["teacher"] == "teacher" and str(world.data) not in json.dumps(record.recipe)
    found = figures(stage)
    for name in ("KL(teacher, student)", "KL(student, teacher)"):
        before, after = found[name]
        assert after < 0.9 * before, name
    steps = [json.loads(line) for line in (stage.path / "divergences.jsonl").read_text("utf-8").splitlines()]
    assert len(steps) == 8
    shares = [step["on_policy"] for step in steps]
    if "on_policy" in changes:
        assert 0 < sum(shares) < 8  # some passes are on the student's own replies, some are not
    else:
        assert set(shares) == {0.0}
    assert ("tail_mass" in steps[0]) == ("top_k" in changes)


def test_a_teacher_that_was_moved_is_the_same_teacher(world: World, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / world.teacher.name
    shutil.copytree(world.teacher, moved)
    recipes = [checked_recipe(DistilRecipe, values(each)) for each in (world, world._replace(teacher=moved))]
    one, other = [Distillation.resolve(recipe, starting_point(recipe.base)) for recipe in recipes]
    assert one.teacher_weights != other.teacher_weights
    assert one.fingerprint == other.fingerprint


def test_a_stored_teacher_is_asked_once_and_says_the_same(world: World, tmp_path: Path) -> None:
    student, teacher, data = opened(world)
    asked: list[int] = []

    def give() -> Any:
        asked.append(1)
        return teacher.model

    file, V = tmp_path / "teacher.safetensors", student.config.vocab_size
    kept = [kept_teacher(file, "same", give, data, k=V, temperature=1.0) for _ in range(2)]
    assert len(asked) == 1
    kept_teacher(file, "other", give, data, k=V, temperature=1.0)
    assert len(asked) == 2
    # All of the vocabulary kept, the divergence is the whole one, whatever examples a batch has.
    config = DistillationConfig(beta=0.5)
    for numbers in ([3], [7, 0, 3]):
        batch = given_batch(data, numbers)
        n = int((batch.labels_BT != IGNORED).sum())
        whole, _ = DistilPasses(student.model, teacher.model, config).batch_loss(batch, n)
        for stored in kept:
            found, _ = DistilPasses(student.model, stored, config).batch_loss(batch, n)
            assert float(found.loss.detach()) == pytest.approx(float(whole.loss.detach()), rel=1e-4)


def opened(world: World) -> tuple[Base, Base, Tokenised]:
    student, teacher = load_base(world.student), load_base(world.teacher)
    data = tokenise({"toy": [toy_example(n) for n in range(10)]}, student.encoder, row_tokens=256)
    return student, teacher, data


@pytest.mark.parametrize("chunk", [1024, 5])
def test_the_loss_and_its_gradient_are_those_of_whole_logits(world: World, chunk: int) -> None:
    student, teacher, data = opened(world)
    batches = [given_batch(data, [0, 1, 2]), given_batch(data, [3, 4])]
    n_labels = sum(int((batch.labels_BT != IGNORED).sum()) for batch in batches)
    for config in (DistillationConfig(beta=0.0), ClassicDistillationConfig(alpha=0.3, temperature=2.0)):
        student.model.zero_grad()
        passes = DistilPasses(student.model, teacher.model, config, tokens_per_chunk=chunk)
        losses = passes.backward(batches, n_labels)
        gradient = student.model.lm_head.weight.grad
        assert gradient is not None
        ours = gradient.clone()
        student.model.zero_grad()
        expected = torch.zeros(())
        for batch in batches:
            at = batch.labels_BT != IGNORED
            s, labels = student.model(batch.ids_BT).logits_BTV[at], batch.labels_BT[at]
            t = teacher.model(batch.ids_BT).logits_BTV[at].detach()
            if isinstance(config, DistillationConfig):
                loss = F.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="sum")
            else:
                kl = F.kl_div((s / 2).log_softmax(-1), (t / 2).softmax(-1), reduction="sum")
                loss = 0.3 * 4 * kl + 0.7 * F.cross_entropy(s, labels, reduction="sum")
            expected = expected + loss / n_labels
        expected.backward()
        assert losses["distillation"] == pytest.approx(float(expected.detach()), rel=1e-4)
        torch.testing.assert_close(ours, student.model.lm_head.weight.grad, rtol=1e-3, atol=1e-5)
        assert all(parameter.grad is None for parameter in teacher.model.parameters())


def test_on_policy_batches_are_the_students_own_and_come_again(world: World) -> None:
    student, _, data = opened(world)
    ends = frozenset(student.encoder.end_ids)
    plan = OnPolicy(share=0.5, max_tokens=4)
    sampler = GroupSampler(TorchPolicy(student.model), ends, 4)
    config = RowOrder(row_tokens=256, layout="padded", window_rows=4, group_rows=2)

    def loader() -> DistilLoader:
        return DistilLoader(data, config, rows_per_batch=2, on_policy=plan, sampler=sampler)

    one = loader()
    first = [cast(DistilBatch, next(one)) for _ in range(10)]
    assert {batch.documents is None for batch in first} == {True, False}
    prompts = [tuple(prompt_of(*data.document(n)).tolist()) for n in range(10)]
    for batch in first:
        for ids, labels in zip(batch.ids_BT.tolist(), batch.labels_BT.tolist(), strict=True):
            targets = [label for label in labels if label != IGNORED]
            n_prompt = next(at for at, label in enumerate(labels) if label != IGNORED) + 1
            assert tuple(ids[:n_prompt]) in prompts
            # Each label is the token that comes next.
            assert ids[n_prompt : n_prompt + len(targets) - 1] == targets[:-1]
            if batch.documents is None:
                assert len(targets) == 4 or targets[-1] in ends
    again = loader()
    for _ in range(4):
        next(again)
    other = loader()
    other.load_state_dict(again.state_dict())
    for batch in first[4:]:
        np.testing.assert_array_equal(next(other).ids_BT.numpy(), batch.ids_BT.numpy())


def test_pairs_of_different_tokenizers_are_refused(world: World) -> None:
    student, teacher, _ = opened(world)
    require_same_tokenizer(student, teacher)

    class Other:
        vocabulary = replace(teacher.tokenizer.vocabulary, fingerprint="f" * 64)

    tokenizer: TextTokenizer = Other()  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"has another tokenizer than the student \(SHA-256 ffffffffffff"):
        require_same_tokenizer(student, replace(teacher, tokenizer=tokenizer))
    wide = toy_model(toy_config("llama", vocab_size=student.config.vocab_size + 32))
    with pytest.raises(UserError, match="logits have 288 entries and the teacher's 320"):
        require_same_tokenizer(student, replace(teacher, model=wide))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"top_k": 4, "on_policy": {"share": 0.5}}, "top_k stores the teacher's output for given replies"),
        (
            {"loss": {"name": "classic"}, "on_policy": {"share": 0.5}},
            "'classic' needs given replies and whole distributions",
        ),
        ({"loss": {"name": "classic"}, "top_k": 4}, "'classic' needs given replies and whole distributions"),
        ({"on_policy": {"share": 0}}, "greater than 0"),
        ({"teachr": "x"}, "nearest"),
    ],
    ids=["stored", "classic", "classic-stored", "share", "unknown"],
)
def test_recipes_that_cannot_be_are_refused(world: World, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        checked_recipe(DistilRecipe, values(world, **changes))
