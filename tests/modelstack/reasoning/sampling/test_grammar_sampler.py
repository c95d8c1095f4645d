"""Replies under a grammar: legal, drawn from what the training pass computes, forced tokens not learnt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import IGNORED
from modelstack.data.examples import Message
from modelstack.errors import UserError
from modelstack.reasoning.losses.masked_log_probs import masked_label_log_probs
from modelstack.reasoning.sampling.continuing import Choose, TorchPolicy
from modelstack.reasoning.sampling.grammar_sampler import (
    GrammarOf,
    GrammarSampler,
    TextReplies,
    format_grammars,
    gold_grammars,
    json_grammars,
)
from modelstack.reasoning.sampling.group_sampler import GroupSampler
from modelstack.reasoning.sampling.sampled import Asked, Sampled, completion_of
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.calls import CallGold
from modelstack.reasoning.verifiers.effects import EffectGold
from modelstack.reasoning.verifiers.formats import StrictJson
from modelstack.reasoning.verifiers.rewards import Item
from modelstack.toolcalls.convention import ResponseFormat, parse_response
from tests.modelstack.reasoning.policy.toy_policy import TOOLS, House, toy_encoder, toy_policy

CALLS = ResponseFormat(TOOLS, answer=None)
CALLS_OR_WORDS = ResponseFormat(TOOLS)
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["hen", "fox", "owl"]}, "n": {"type": "integer"}, "on": {"type": "boolean"}},
    "required": ["kind", "on"],
    "additionalProperties": False,
}
TEMPERATURE = 6.0
"""The toy is sure of itself; at this one it tries things."""
GRAMMARS: dict[str, GrammarOf] = {
    "calls": format_grammars(toy_encoder().vocabulary, lambda task: CALLS),
    "calls or words": format_grammars(toy_encoder().vocabulary, lambda task: CALLS_OR_WORDS),
    "json": json_grammars(toy_encoder().vocabulary, lambda task: task.item.gold),
    "any text": format_grammars(toy_encoder().vocabulary, lambda task: None),
}


def asked(seed: int = 1) -> Asked:
    task = PolicyTask(Item("a", SCHEMA), (Message(role="user", content="light please"),))
    return Asked(task, tuple(task.prompt_ids(toy_encoder())), seed)


@cache
def group(name: str, max_tokens: int = 150, temperature: float = TEMPERATURE, n: int = 6) -> tuple[Sampled, ...]:
    sampler = GrammarSampler(TorchPolicy(toy_policy()), toy_encoder(), GRAMMARS[name], max_tokens, temperature)
    return tuple(sampler.sample([asked()], n)[0])


def trained_log_probs(model: CausalLM, reply: Sampled, temperature: float) -> torch.Tensor:
    """Return what the training pass says of the chosen tokens, from the whole sequence at once."""
    assert reply.is_chosen is not None and reply.legal is not None
    prompt = asked().prompt_ids
    ids = torch.tensor([[*prompt, *reply.ids]])
    labels = torch.full_like(ids, IGNORED)
    for place, (token, is_chosen) in enumerate(zip(reply.ids, reply.is_chosen, strict=True)):
        if is_chosen:
            labels[0, len(prompt) - 1 + place] = token
    legal_P = [legal for legal, is_chosen in zip(reply.legal, reply.is_chosen, strict=True) if is_chosen]
    with torch.no_grad():
        hidden_BTD = model(ids, with_logits=False).hidden_BTD
        found = masked_label_log_probs(hidden_BTD, labels, model.logits, legal_P, temperature=temperature)
    return found.log_probs_BT[found.is_label_BT]


@pytest.mark.parametrize("name", list(GRAMMARS))
@pytest.mark.parametrize("temperature", [1.0, TEMPERATURE])
def test_the_sampler_and_the_training_pass_agree_on_every_chosen_token(name: str, temperature: float) -> None:
    replies = group(name, temperature=temperature)
    assert temperature == 1 or len({reply.ids for reply in replies}) > 3
    n_chosen = 0
    for reply in replies:
        assert reply.is_chosen is not None
        drawn = [p for p, is_chosen in zip(reply.log_probs, reply.is_chosen, strict=True) if is_chosen]
        torch.testing.assert_close(
            torch.tensor(drawn), trained_log_probs(toy_policy(), reply, temperature), atol=1e-5, rtol=1e-5
        )
        n_chosen += len(drawn)
    assert n_chosen > 15


@pytest.mark.parametrize("name", ["calls", "calls or words"])
def test_every_reply_follows_the_convention(name: str) -> None:
    for reply in group(name):
        completion = completion_of(reply, toy_encoder())
        parsed = parse_response(completion.text, CALLS if name == "calls" else CALLS_OR_WORDS)
        assert parsed.calls or name != "calls"
        for _, arguments in parsed.calls:
            json.loads(arguments)


def test_a_reply_of_a_schema_is_what_the_verifier_of_json_pays_for() -> None:
    verifier = StrictJson(lambda item: item.gold)
    for reply in group("json"):
        judged = verifier.score(asked().task.item, completion_of(reply, toy_encoder()))
        assert judged.value == 1.0, judged


@pytest.mark.parametrize("name", ["calls", "json"])
def test_forced_tokens_are_certain_and_not_chosen_and_choices_had_alternatives(name: str) -> None:
    for reply in group(name):
        assert reply.is_chosen is not None and reply.legal is not None
        for token, log_prob, is_chosen, legal in zip(
            reply.ids, reply.log_probs, reply.is_chosen, reply.legal, strict=True
        ):
            if is_chosen:
                assert legal is not None and legal.count > 1 and token in legal.to_ids() and log_prob < 0
            else:
                assert legal is None and log_prob == 0
        text = completion_of(reply, toy_encoder()).text
        assert reply.is_chosen.count(False) > len(text) / 3  # braces, quotes, names


def test_the_budget_closes_a_reply_which_then_counts_as_cut_off() -> None:
    found: set[bool] = set()
    for max_tokens in range(50, 150, 7):
        for reply in group("calls", max_tokens, n=2):
            assert len(reply.ids) <= max_tokens
            parse_response(completion_of(reply, toy_encoder()).text, CALLS)
            found.add(reply.is_truncated)
    assert found == {True, False}


def test_text_without_a_grammar_ends_at_the_limit_or_by_its_own_end_and_opens_no_turn() -> None:
    encoder = toy_encoder()
    controls = encoder.vocabulary.special_ids - encoder.end_ids
    assert controls
    replies = group("any text", 40, n=40)
    assert {reply.is_truncated for reply in replies} == {True, False}
    for reply in replies:
        assert reply.is_truncated == (reply.ids[-1] not in encoder.end_ids)
        assert not controls.intersection(reply.ids) and max(reply.ids) < len(encoder.vocabulary)


def test_a_row_draws_the_same_whoever_is_beside_it() -> None:
    alone, among = group("calls or words", n=1), group("calls or words", n=6)
    assert alone[0].ids == among[0].ids
    assert alone[0].log_probs == pytest.approx(among[0].log_probs, abs=1e-5)


def test_the_same_seed_gives_the_same_replies() -> None:
    sampler = GrammarSampler(TorchPolicy(toy_policy()), toy_encoder(), GRAMMARS["calls"], 150, TEMPERATURE)
    one, other, same = (sampler.sample([asked(seed)], 6)[0] for seed in (1, 2, 1))
    assert [each.ids for each in one] == [each.ids for each in same] != [each.ids for each in other]
    assert [each.log_probs for each in one] == [each.log_probs for each in same]


def test_choices_follow_the_masked_distribution() -> None:
    sampler = GrammarSampler(TorchPolicy(toy_policy()), toy_encoder(), GRAMMARS["json"], 60, TEMPERATURE)
    n = 400
    replies = sampler.sample([asked()], n)[0]
    first = [next(at for at, is_chosen in enumerate(reply.is_chosen or ()) if is_chosen) for reply in replies]
    assert len(set(first)) == 1  # the forced beginning is the same for all
    at = first[0]
    drawn = np.array([reply.ids[at] for reply in replies])
    legal = replies[0].legal[at] if replies[0].legal else None
    assert legal is not None and legal.count >= 2
    with torch.no_grad():
        logits_V = toy_policy()(torch.tensor([[*asked().prompt_ids, *replies[0].ids[:at]]])).logits_BTV[0, -1]
    ids = torch.from_numpy(legal.to_ids())
    expected = n * (logits_V[ids].float() / TEMPERATURE).softmax(-1).numpy()
    counts = np.array([(drawn == token).sum() for token in ids.tolist()])
    assert counts.sum() == n
    usual = expected > 5
    chi2 = ((counts[usual] - expected[usual]) ** 2 / expected[usual]).sum()
    assert chi2 < usual.sum() + 4 * (2 * usual.sum()) ** 0.5


def test_schemas_that_no_mask_can_hold_are_refused_by_task() -> None:
    grammar_of = json_grammars(toy_encoder().vocabulary, lambda task: {"$ref": "https://example.org/schema"})
    sampler = GrammarSampler(TorchPolicy(toy_policy()), toy_encoder(), grammar_of, 20)
    with pytest.raises(UserError, match="task 'a': "):
        sampler.sample([asked()], 2)


def test_golds_say_which_grammar_a_reply_has() -> None:
    grammar_of = gold_grammars(toy_encoder().vocabulary)

    def begins(gold: Any, *, is_canary: bool = False) -> str:
        grammar = grammar_of(PolicyTask(Item("a", gold, is_canary=is_canary), ()))
        return "anything" if grammar is None else toy_encoder().vocabulary.decode(grammar.forced())

    assert begins(EffectGold(House, CALLS, ())) == begins(CallGold(CALLS, ())) == '[{"name":"l'
    assert begins(SCHEMA) == '{"kind":"'
    impossible = {"type": "string", "minLength": 2, "maxLength": 1}
    assert begins(impossible, is_canary=True) == "anything"
    with pytest.raises(UserError, match="task 'a': llguidance cannot enforce"):
        begins(impossible)
    with pytest.raises(UserError, match="task 'a': there is no grammar for a gold of type str"):
        begins("42")


def test_what_does_not_fit_the_context_is_refused() -> None:
    sampler = GrammarSampler(TorchPolicy(toy_policy()), toy_encoder(), GRAMMARS["json"], 5000)
    with pytest.raises(UserError, match="exceed the context of"):
        sampler.sample([asked()], 2)


class Calling(TorchPolicy):
    """A policy that was taught to begin calls everywhere."""

    def continue_rows(
        self, prompts: Sequence[Sequence[int]], n_rows: Sequence[int], choose: Choose, max_tokens: int
    ) -> None:
        """Raise the logit of an opening bracket."""
        (bracket,) = toy_encoder().content_ids("[")

        def raised(numbers: Sequence[int], logits_RV: NDArray[np.float32]) -> Sequence[Sequence[int]]:
            logits_RV = logits_RV.copy()
            logits_RV[:, bracket] += 1000
            return choose(numbers, logits_RV)

        super().continue_rows(prompts, n_rows, raised, max_tokens)


def test_replies_without_tools_are_text_though_the_model_would_call() -> None:
    encoder, policy, prompt = toy_encoder(), Calling(toy_policy()), asked().prompt_ids
    (free,) = GroupSampler(policy, encoder.end_ids, 3, temperature=0).sample([asked()], 1)
    assert completion_of(free[0], encoder).text == "[[["
    replies = TextReplies(policy, encoder, 6)
    plain, behind = replies.to([prompt, prompt], [(), encoder.content_ids("Yes, ")])
    text = completion_of(plain, encoder).text
    assert text[0] not in "[{" and text.endswith("[")
    assert completion_of(behind, encoder).text == "[" * 6  # behind given words a bracket is no call
    assert replies.to([prompt]) == [plain]
