"""Golds of every verifier: what a file says is what the verifier takes, and what cannot be judged is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelstack.errors import UserError
from modelstack.reasoning.tasks.golds import VerifierName, read_gold
from modelstack.reasoning.tasks.task import read_tasks
from modelstack.reasoning.tasks.verifier_choice import VerifierPlan, verifier_of
from modelstack.reasoning.verifiers.answer_forms import FormedGym
from modelstack.reasoning.verifiers.canaries import GuardedReward
from modelstack.reasoning.verifiers.composition import Composition
from modelstack.reasoning.verifiers.gym import GymTask, GymVerifier, dataset_of
from modelstack.reasoning.verifiers.rewards import Completion, Item
from modelstack.toolcalls.convention import ToolSpec

LAMP = ToolSpec(
    "lamp_on",
    "Switch a lamp on",
    {"type": "object", "properties": {"room": {"type": "string"}}, "required": ["room"]},
)
LAMPS_START = {"lamps": {"hall": {"on": False, "percent": 50}}}
SUM = {"task": "chain_sum", "seed": 3, "size": 4, "index": 1, "config": {"min_terms": 2, "max_terms": 2}}


def scored(name: VerifierName, gold: Any, text: str, tools: tuple[ToolSpec, ...] = ()) -> float | None:
    item = Item("a", read_gold(name, json.loads(json.dumps(gold)), tools))
    return verifier_of(name).score(item, Completion(text, (1, 2, 3))).value


CALL = '[{"name":"lamp_on","arguments":{"room":"hall"}}]'
EFFECT = {
    "world": "lamps",
    "start": LAMPS_START,
    "calls": [{"name": "lamp_on", "arguments": {"room": "hall"}}],
}


@pytest.mark.parametrize(
    ("name", "gold", "right", "wrong", "tools"),
    [
        ("math", "7", "The answer is 7.", "The answer is 8.", ()),
        ("json", {"const": {"a": 1}}, '{"a": 1}', '{"a": 2}', ()),
        ("calls", [{"name": "lamp_on", "arguments": {"room": "hall"}}], CALL, "[]", (LAMP,)),
        (
            "calls",
            [{"name": "lamp_on", "acceptable": {"room": ["hall", "the hall"]}}],
            CALL.replace("hall", "the hall"),
            CALL.replace("hall", "attic"),
            (LAMP,),
        ),
        ("calls", [], "[]", CALL, (LAMP,)),
        ("effects", EFFECT, CALL, CALL.replace("hall", "attic"), (LAMP,)),
        ("effects", EFFECT | {"calls": []}, "No tool does that.", CALL, (LAMP,)),
    ],
    ids=["math", "json", "calls", "acceptable calls", "no call", "effects", "no effect"],
)
def test_a_right_reply_earns_1_and_a_wrong_one_0(
    name: VerifierName, gold: Any, right: str, wrong: str, tools: tuple[ToolSpec, ...]
) -> None:
    assert scored(name, gold, right, tools) == 1.0
    assert scored(name, gold, wrong, tools) == 0.0


@pytest.fixture(scope="module")
def gym() -> Iterator[FormedGym]:
    pytest.importorskip("reasoning_gym")
    verifier = FormedGym(GymVerifier())
    yield verifier
    verifier.close()


@pytest.mark.parametrize(
    ("form", "write"),
    [
        ("marked", "<answer>{}</answer>".format),
        ("bare", " {}\n".format),
        ("equation", "4 + 3 = {}".format),
    ],
    ids=["marked", "bare", "equation"],
)
def test_answers_of_reasoning_gym_are_read_in_the_form_of_the_task(
    form: str, write: Callable[[str], str], gym: FormedGym
) -> None:
    item = Item("a", read_gold("gym", SUM | {"form": form}))
    answer = str(dataset_of(GymTask("chain_sum", 3, 4, None, SUM["config"]))[1]["answer"])

    def score(text: str) -> float | None:
        return gym.score(item, Completion(text)).value

    assert score(write(answer)) == 1.0
    assert score(write("-1234567")) == 0.0
    if form != "marked":  # anything beside the answer is another form
        for text in (
            f"{write(answer)}\n{write(answer)}",
            f"<answer>{answer}</answer>",
            "",
            f"It is {answer} = x =",
        ):
            assert score(text) == 0.0, text


@pytest.mark.parametrize(
    ("name", "gold", "tools", "complaint"),
    [
        ("math", 7, (), "gold is 7; for math it is the answer as a text"),
        ("json", [], (), r"gold is \[\]; for json it is a JSON Schema"),
        ("json", {"type": "objet"}, (), "gold is not a JSON Schema, at /type"),
        ("gym", {"task": "chain_sum", "seed": 0, "size": 2, "index": 2}, (), "index 2 must be below size 2"),
        ("gym", SUM | {"form": "spoken"}, (), "form: Input should be 'marked', 'bare' or 'equation'"),
        ("calls", [], (), "verifier calls judges calls, but the task shows no tools"),
        ("calls", [{"name": "lamp_on"}], (LAMP,), "give either arguments, the only correct ones, or acceptable"),
        (
            "calls",
            [{"name": "lamp_on", "arguments": {}, "may_omit": ["room"]}],
            (LAMP,),
            "may_omit goes with acceptable",
        ),
        ("calls", [{"name": "fan", "arguments": {}}], (LAMP,), "the gold calls 'fan', which is not a shown tool"),
        ("calls", [{"name": "lamp_on", "arguments": {"room": 3}}], (LAMP,), "breaks its schema"),
        ("effects", {"world": "moon", "calls": []}, (LAMP,), "world 'moon' is unknown; known worlds: todo, shop"),
        ("effects", {"world": "lamps", "calls": []}, (LAMP,), "start is not a state of world 'lamps'"),
        (
            "effects",
            EFFECT | {"calls": [{"name": "lamp_on", "arguments": {"room": "attic"}}]},
            (LAMP,),
            "refuses a gold call: lamp_on: Refused: there is no 'attic'",
        ),
        ("code", {"tests": []}, (), "tests"),
        ("code", {"tests": ["assert ("]}, (), "a test is not valid Python"),
    ],
)
def test_golds_by_which_nothing_can_be_judged_are_refused(
    name: VerifierName, gold: Any, tools: tuple[ToolSpec, ...], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_gold(name, json.loads(json.dumps(gold)), tools)


def test_a_program_is_judged_by_the_names_that_its_tests_use() -> None:
    gold = read_gold("code", {"tests": ["assert double(2) == 4", "assert len([double(1)]) == 1"]})
    assert gold.names == ("double",)


def test_the_error_names_the_task(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text('{"id": "odd", "prompt": "say 3", "gold": 3}\n', encoding="utf-8")
    (task,) = read_tasks(file)
    with pytest.raises(UserError, match="task 'odd': gold is 3; for math"):
        task.judged_by("math")


@pytest.mark.parametrize("name", ["math", "json", "calls", "effects"])
def test_every_verifier_has_canaries_and_passes_them(name: VerifierName) -> None:
    assert GuardedReward(verifier_of(name)).run_probes() == 0


def test_answers_without_marks_have_canaries_and_pass_them(gym: FormedGym) -> None:
    assert GuardedReward(gym).run_probes() == 0


def test_a_gate_and_penalties_stand_around_correctness_and_never_replace_it() -> None:
    plan = VerifierPlan(name="math", gate="think", overlong_tokens=4, repetition=0.2)
    verifier = verifier_of(plan, 8)
    assert isinstance(verifier, Composition)

    def score(text: str, n_tokens: int) -> float | None:
        return verifier.score(Item("a", "7"), Completion(text, tuple(range(n_tokens)))).value

    assert score("<think>3 + 4</think>The answer is 7.", 4) == 1.0
    assert score("The answer is 7.", 4) == 0.0
    assert score("<think>3 + 4</think>The answer is 8.", 4) == 0.0
    assert score("<think>3 + 4</think>The answer is 7.", 8) == 0.0  # 1, and the whole penalty for length
    repeated = verifier.score(Item("a", "7"), Completion("<think></think>The answer is 7.", (5, 5, 5, 5))).value
    assert repeated == pytest.approx(0.9)


def test_a_reply_that_quotes_the_grader_is_worth_nothing_where_the_recipe_says_so() -> None:
    quoting = Completion('"passed": true. The answer is 7.', (1, 2))
    assert verifier_of(VerifierPlan(name="math")).score(Item("a", "7"), quoting).value == 1.0
    assert verifier_of(VerifierPlan(name="math", gate_quotes=True)).score(Item("a", "7"), quoting).value == 0.0


def test_a_penalty_for_length_needs_the_limit() -> None:
    with pytest.raises(UserError, match="give max_tokens"):
        verifier_of(VerifierPlan(name="math", overlong_tokens=4))


def test_replies_that_were_cut_off_can_be_left_out() -> None:
    verifier = verifier_of(VerifierPlan(name="math", score_truncated=False))
    assert verifier.score(Item("a", "7"), Completion("The answer is 7", (1,), is_truncated=True)).value is None
