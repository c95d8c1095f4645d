"""Training of a guard: the shared policy is exact, the policy is obeyed, rows and recipes are checked."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from modelstack.align.guard_model.policy import MLCOMMONS, Policy
from modelstack.align.guard_model.prompt import INSTRUCTIONS_FIRST, Judged
from modelstack.align.guard_model.tokens import PromptTokens
from modelstack.align.guard_training.loader import drawn_policy, guard_batch, paired
from modelstack.align.guard_training.measured import threshold_at
from modelstack.align.guard_training.passes import GuardPasses, pair_leads
from modelstack.align.guard_training.recipe import GuardRecipe, PolicyChanges
from modelstack.align.guard_training.rows import GuardRow, Turn, read_rows
from modelstack.align.guard_training.run import tokenised, train_guard
from modelstack.architecture.losses import IGNORED
from modelstack.errors import UserError
from modelstack.posttrain.base import Base, load_base
from modelstack.posttrain.lora.adapters import add_lora, lora_layers
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.posttrain.lora.gguf import read_gguf_adapter
from modelstack.posttrain.stages.stage import open_stage
from modelstack.recipe_file import checked_recipe
from tests.modelstack.posttrain.toy_trainings import METHODS, World, write_guard_rows, write_lines
from tests.modelstack.sft.toy_sft import write_base

pytestmark = [pytest.mark.xdist_group("guard_training"), pytest.mark.usefixtures("pictures_drawn_once")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("guard"))
    write_base(made.folder / "base")
    for side, start, n in (("train", 0, 48), ("validation", 100, 24)):
        write_guard_rows(made.folder / "verdicts" / f"{side}.jsonl", start, n)
    return made


@pytest.fixture(scope="module")
def base(world: World) -> Base:
    found = load_base(world.base)
    found.model.double()  # sums in another order differ less
    add_lora(found.model, LoraConfig(rank=4))
    with torch.no_grad():
        for _, layer in lora_layers(found.model):
            layer.lora_B.normal_(std=0.1)
    return found


def row(text: str, *categories: str, unsafe: bool = True, role: Judged = "user") -> GuardRow:
    turns = (Turn(role=role, content=text),)
    return GuardRow(id=text, turns=turns, unsafe=unsafe, categories=categories, source="toy", license="CC0-1.0")


def gradients(base: Base) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in base.model.named_parameters() if p.grad is not None}
    base.model.zero_grad()
    return found


def test_a_shared_policy_gives_the_loss_and_gradients_of_whole_rows(base: Base) -> None:
    prompts = PromptTokens(base.encoder, INSTRUCTIONS_FIRST)
    several = [
        row("steal it", "S2"),
        row("a longer question about bread", unsafe=False),
        row("b", "S1", role="assistant"),
    ]
    rows, _ = tokenised({"toy": several}, prompts, 96)
    batch = guard_batch(rows, [[0, 1, 2]], prompts, MLCOMMONS, category_weight=0.3)
    verdicts = (prompts.answer((), unsafe=False)[0], prompts.answer((), unsafe=True)[0])
    shared = sum(GuardPasses(base.model, verdicts).backward([batch], 1).values())
    of_shared = gradients(base)

    assert batch.policy_P is not None and batch.weights_BT is not None
    P = len(batch.policy_P)
    whole_BT = torch.cat((batch.policy_P.expand(3, -1), batch.ids_BT), dim=1)
    logits_BTV = base.model(whole_BT).logits_BTV[:, P:]
    losses = torch.nn.functional.cross_entropy(
        logits_BTV.flatten(0, 1), batch.labels_BT.flatten(), ignore_index=IGNORED, reduction="none"
    )
    loss = (losses * batch.weights_BT.flatten()).sum() / 3
    loss.backward()
    of_whole = gradients(base)
    assert shared == pytest.approx(loss.item(), rel=1e-6)
    assert of_shared.keys() == of_whole.keys() and of_shared
    for name, gradient in of_whole.items():
        torch.testing.assert_close(of_shared[name], gradient, rtol=1e-3, atol=1e-6)


def test_a_category_outside_the_policy_is_allowed(base: Base) -> None:
    prompts = PromptTokens(base.encoder, INSTRUCTIONS_FIRST)
    rows, _ = tokenised({"toy": [row("x", "S2", "S8"), row("y"), row("z", unsafe=False)]}, prompts, 96)

    def answers(policy: Policy) -> list[str]:
        batch = guard_batch(rows, [[0, 1, 2]], prompts, policy)
        assert batch.weights_BT is not None
        vocabulary = base.tokenizer.vocabulary
        ends = set(vocabulary.end_ids)
        found: list[str] = []
        for labels, weights in zip(batch.labels_BT.tolist(), batch.weights_BT.tolist(), strict=True):
            ids = [
                i for i, weight in zip(labels, weights, strict=True) if weight and i != IGNORED and i not in ends
            ]
            found.append(vocabulary.decode(ids))
        return found

    whole, without_one, without_both = (
        answers(policy) for policy in (MLCOMMONS, MLCOMMONS.without("S2"), MLCOMMONS.without("S2", "S8"))
    )
    assert [each[0] for each in (whole, without_one, without_both)] == ["unsafe\nS2,S8", "unsafe\nS8", "safe"]
    for each in (whole, without_one, without_both):
        assert "unsafe".startswith(each[1]) and each[1] and each[2] == "safe"  # its second line is no target


def test_rows_are_paired_with_their_twins_and_then_by_length() -> None:
    twins = [
        row(f"{name} {kind}", unsafe=kind == "bad").model_copy(update={"pair": name})
        for name in "ab"
        for kind in ("good", "bad")
    ]
    others = [row("x" * n, unsafe=n % 3 == 0) for n in range(1, 9)]
    rows = [*others[:4], *twins, *others[4:]]
    units = paired(rows, [len(each.turns[-1].content) for each in rows])
    assert sorted(number for unit in units for number in unit) == list(range(len(rows)))
    found = [[rows[number] for number in unit] for unit in units]
    assert {unit[0].pair for unit in found[:2]} == {"a", "b"} and all(
        unit[0].pair == unit[1].pair for unit in found[:2]
    )
    assert all(one.unsafe != other.unsafe for one, other in found[:4])
    assert [len(unit) for unit in found] == [2, 2, 2, 2, 2, 2] and not any(
        each.unsafe for unit in found[4:] for each in unit
    )


def test_policies_are_drawn_from_seed_and_position() -> None:
    changes = PolicyChanges(share=0.5, max_dropped=3)
    policies = [drawn_policy(changes, 7, position) for position in range(200)]
    assert policies == [drawn_policy(changes, 7, position) for position in range(200)]
    sizes = Counter(len(policy.codes) for policy in policies)
    assert set(sizes) == {14, 13, 12, 11} and 70 < sizes[14] < 130
    assert any(policy.codes != tuple(sorted(policy.codes, key=MLCOMMONS.codes.index)) for policy in policies)


def test_a_guard_learns_what_is_unsafe_and_is_sealed(world: World, tmp_path: Path) -> None:
    about = {"source": "toy", "license": "CC0-1.0"}
    kinds: list[dict[str, Any]] = [
        {"turns": [{"role": "user", "content": "red red red"}], "unsafe": True, "categories": ["S2"], **about},
        {"turns": [{"role": "user", "content": "old"}], "unsafe": False, "ordinary": True, **about},
    ]
    for side, n in (("train", 16), ("validation", 8)):
        write_lines(tmp_path / f"{side}.jsonl", [{"id": f"{side}{i}", **kinds[i % 2]} for i in range(n)])
    values = METHODS["guard"].values(
        world,
        data={
            "training": [str(tmp_path / "train.jsonl")],
            "validation": [str(tmp_path / "validation.jsonl")],
            "row_tokens": 96,
        },
        steps=30,
        rows=8,
        train="full",
        lora=None,
        policies={"share": 0.0},
        optimizer={"lr": 3e-3},
    )
    stage = train_guard(checked_recipe(GuardRecipe, values), tmp_path / "run", Console(quiet=True))
    assert stage is not None and open_stage(tmp_path / "run").record.kind == "guard"
    figures = {each.name: each.value for each in stage.record.evaluation.after}
    assert figures["unsafe flagged at even odds"] == 1.0 and figures["safe flagged at even odds"] == 0.0


def test_lower_blocks_can_stay_without_adapters(world: World, tmp_path: Path) -> None:
    lora = {"rank": 2, "layers_to_transform": [1]}
    values = METHODS["guard"].values(world, steps=1, lora=lora)
    stage = train_guard(checked_recipe(GuardRecipe, values), tmp_path / "run", Console(quiet=True))
    assert stage is not None
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert config["layers_to_transform"] == [1]
    adapter = read_gguf_adapter(tmp_path / "run" / "adapter.gguf", load_base(world.base).config)
    assert adapter.config.layers_to_transform == (1,)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "Invalid JSON"),
        ('{"id": "1", "turns": [], "unsafe": true, "source": "a", "license": "b"}', "turns"),
        ('{"id": "1", "turns": [{"role": "tool", "content": "x"}], "unsafe": true, "source": "a", "license": "b"}',
         r"turns\.0\.role"),
        ('{"id": "1", "turns": [{"role": "user", "content": "x"}], "unsafe": false, "categories": ["S1"],'
         ' "source": "a", "license": "b"}', "safe row violates no category"),
        ('{"id": "1", "turns": [{"role": "user", "content": "x"}], "unsafe": true, "categories": ["S77"],'
         ' "source": "a", "license": "b"}', "S77"),
    ],
)  # fmt: skip
def test_a_broken_row_is_refused_by_its_line(tmp_path: Path, line: str, fault: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"\n{line}\n")
    with pytest.raises(UserError, match=rf"line 2.*{fault}"):
        list(read_rows(path))


def test_rows_on_both_sides_are_refused(world: World, tmp_path: Path) -> None:
    data = world.files("verdicts") | {"row_tokens": 96}
    data["validation"] = data["training"]
    with pytest.raises(UserError, match="named twice"):
        checked_recipe(GuardRecipe, METHODS["guard"].values(world, data=data))
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes((world.folder / "verdicts" / "train.jsonl").read_bytes())
    values = METHODS["guard"].values(world, data=data | {"validation": [str(copy)]})
    with pytest.raises(UserError, match="either trained on or measured on"):
        train_guard(checked_recipe(GuardRecipe, values), tmp_path / "run", Console(quiet=True))


def test_a_context_that_holds_no_policy_is_refused(world: World, tmp_path: Path) -> None:
    values = METHODS["guard"].values(world, data=world.files("verdicts") | {"row_tokens": 5_000})
    with pytest.raises(UserError, match=r"context of 1024: lower data\.row_tokens"):
        train_guard(checked_recipe(GuardRecipe, values), tmp_path / "run", Console(quiet=True))


def test_a_threshold_flags_at_most_its_share() -> None:
    logits = np.arange(1000.0)
    threshold = threshold_at(logits, 0.01)
    assert (logits >= threshold).sum() == 10
    assert threshold_at(np.zeros(100), 0.01) > 0


def test_the_loss_of_pairs_is_blind_to_what_rows_have_in_common() -> None:
    unit = torch.tensor([0, 0, 1, 1, 2, 3, 3])
    unsafe = torch.tensor([True, False, False, True, True, False, False])
    odds = torch.tensor([1.0, 3.0, -2.0, 0.5, 9.0, 1.0, 2.0])
    for shift in (0.0, 7.0):
        torch.testing.assert_close(pair_leads(odds + shift, unsafe, unit), torch.tensor([-2.0, 2.5]))
