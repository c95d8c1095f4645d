"""The thinking dial: budgets hold to the token, marks are found wherever tokens cut them, the cache is reused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from modelstack.inference.engine import GenerateRequest, Generation, SamplingParams
from modelstack.inference.legal_tokens import LegalTokens
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.inference.reply import Reply, ReplyParts
from modelstack.inference.sampling import Sampler
from modelstack.inference.thinking import ThinkingBudget, ThoughtfulReply, ThoughtMarks, mark_ids, think
from modelstack.tokenizer.vocabulary import Vocabulary
from tests.modelstack.inference.fakes import ScriptedGrammar, write_alone
from tests.modelstack.inference.tiny_gguf import write_tiny_gguf

LETTERS = "abcdefghijklmnopqrstuvwxyzW \n"
PIECES = ("</", "think", ">", "<", "think>", ">\n", ".<", "/")


def vocabulary_of(*, special_marks: bool) -> Vocabulary:
    """Letters and pieces of marks; END is 0; marks of their own where they are special."""
    names = ["<end>", *LETTERS, *PIECES, *(("<think>", "</think>") if special_marks else ())]
    table = tuple(name.encode() for name in names)
    special = frozenset({0, *((len(names) - 2, len(names) - 1) if special_marks else ())})

    def encode(text: str) -> list[int]:
        ids: list[int] = []
        while text:
            fits = [t for t, name in enumerate(names) if t not in special and text.startswith(name)]
            ids.append(max(fits, key=lambda t: len(names[t])))
            text = text[len(names[ids[-1]]) :]
        return ids

    return Vocabulary(table, special, (0,), encode)


class ScriptedEngine:
    """Wants to write given tokens in turn, whatever was written for it; keeps what it was asked."""

    chat_template = None
    fingerprint = "scripted"

    def __init__(self, vocabulary: Vocabulary, wanted: Sequence[int], context_window: int = 1000) -> None:
        self.vocabulary, self.context_window = vocabulary, context_window
        self.wanted = list(wanted)
        self.requests: list[GenerateRequest] = []

    def generate(
        self,
        request: GenerateRequest,
        *,
        on_tokens: Callable[[list[int]], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Generation:
        self.requests.append(request)
        n_vocab = len(self.vocabulary)
        ends = frozenset(self.vocabulary.end_ids) if request.end_ids is None else request.end_ids

        def next_logits(tokens: list[int]) -> NDArray[np.float32]:
            logits = np.zeros(n_vocab, np.float32)
            logits[self.wanted.pop(0) if self.wanted else 0] = 9
            return logits

        parts = ReplyParts(
            sampler=Sampler(n_vocab, request.sampling, np.random.default_rng(request.sampling.seed)),
            text_tokens=LegalTokens.all_except(self.vocabulary.special_ids - ends, n_vocab),
            end_ids=ends,
            n_vocab=n_vocab,
            grammar=request.grammar,
            on_tokens=on_tokens,
            cancelled=cancelled,
        )
        room = self.context_window - len(request.prompt_ids)
        return write_alone(request.prompt_ids, Reply(min(request.max_tokens, room), parts), next_logits)

    def encode_template(self, text: str) -> list[int]:
        return self.vocabulary.encode(text)

    def forget(self, conversation: str) -> None: ...

    def close(self) -> None: ...


PLAIN = vocabulary_of(special_marks=False)
SPECIAL = vocabulary_of(special_marks=True)


def asked(
    vocabulary: Vocabulary, wanted: Sequence[int], budget: ThinkingBudget, **more: Any
) -> tuple[ThoughtfulReply, ScriptedEngine, list[int]]:
    """Let the engine reply to `q`; return also what was told along the way."""
    engine = ScriptedEngine(vocabulary, wanted, more.pop("context_window", 1000))
    request = GenerateRequest(more.pop("prompt", vocabulary.encode("q")), more.pop("max_tokens", 10), **more)
    told: list[int] = []
    reply = think(engine, request, budget, on_tokens=told.extend)
    n = len(reply.ids)
    assert len(reply.forced) == len(reply.logprobs) == n
    assert told == reply.ids  # nothing is told and then taken back
    assert [math.isnan(value) for value in reply.logprobs] == reply.forced
    return reply, engine, told


def ids(text: str, vocabulary: Vocabulary = PLAIN) -> list[int]:
    return vocabulary.encode(text)


def token(piece: str) -> int:
    return PLAIN.token_bytes.index(piece.encode())


@pytest.mark.parametrize(
    ("cut", "thought", "n_thinking"),
    [
        ([*ids("abc"), token("</"), token("think"), token(">"), *ids("yes")], "abc", 3),
        ([*ids("abc"), token("<"), token("/"), token("think>"), *ids("yes")], "abc", 3),
        # The mark begins inside a token of the thought, or ends inside one of the answer.
        ([*ids("abc"), token(".<"), token("/"), token("think>"), *ids("yes")], "abc.<", 4),
        ([*ids("abc"), token("</"), token("think"), token(">\n"), *ids("yes")], "abc", 3),
    ],
    ids=["as-encoded", "other-cuts", "begins-inside", "ends-inside"],
)
def test_a_mark_of_several_tokens_is_found_however_it_is_cut(
    cut: list[int], thought: str, n_thinking: int
) -> None:
    reply, engine, _ = asked(PLAIN, cut, ThinkingBudget(max_tokens=9))
    assert (reply.closed_by, reply.n_thinking, reply.thought) == ("model", n_thinking, thought)
    text = reply.text(PLAIN)
    assert text.startswith("<think>abc") and text.count("</think>") == 1 and text.endswith("yes")
    assert PLAIN.decode(reply.answer.ids) == "yes" and reply.answer.finish_reason == "end"
    assert reply.forced == [True] * 2 + [False] * (len(reply.ids) - 2)  # only the opening was written for it
    # The answer goes on behind what was thought: an engine's cache holds all of it already.
    first, second = engine.requests
    assert list(second.prompt_ids)[: len(first.prompt_ids)] == list(first.prompt_ids)


@pytest.mark.parametrize("special", [False, True], ids=["text", "special"])
@pytest.mark.parametrize("budget", [0, 1, 3, 5])
def test_at_the_budget_the_close_is_written_for_the_model(budget: int, special: bool) -> None:
    vocabulary = SPECIAL if special else PLAIN
    wanted = vocabulary.encode("abcdefgh"[:budget] + "yes")
    reply, _, _ = asked(vocabulary, wanted, ThinkingBudget(max_tokens=budget))
    assert reply.text(vocabulary) == f"<think>{'abcdefgh'[:budget]}</think>yes"
    assert (reply.closed_by, reply.n_thinking, reply.thought) == ("budget", budget, "abcdefgh"[:budget])


def test_a_special_mark_is_legal_in_the_thought_alone() -> None:
    close = len(SPECIAL) - 1
    reply, _, _ = asked(SPECIAL, [*ids("ab", SPECIAL), close, *ids("yes", SPECIAL)], ThinkingBudget(max_tokens=9))
    assert (reply.closed_by, reply.n_thinking) == ("model", 2)
    assert reply.ids == [close - 1, *ids("ab", SPECIAL), close, *ids("yes", SPECIAL)]
    # Spelled in text it is no mark: content can write that too.
    spelled = ids("a</think>b", SPECIAL)
    assert spelled[1] not in SPECIAL.special_ids
    reply, _, _ = asked(SPECIAL, [*spelled, close, *ids("yes", SPECIAL)], ThinkingBudget(max_tokens=9))
    assert reply.thought == "a</think>b"


def test_a_reply_does_not_end_inside_its_thought() -> None:
    reply, _, _ = asked(PLAIN, [*ids("ab"), 0, *ids("c</think>yes")], ThinkingBudget(max_tokens=9))
    # What the end token was wanted for, another token takes.
    assert reply.closed_by == "model" and reply.n_thinking == 4 and 0 not in reply.ids


def test_a_mark_that_begins_at_the_budget_may_be_finished() -> None:
    wanted = [*ids("ab"), token("<"), token("/"), token("think"), token(">"), *ids("yes")]
    for budget in (3, 4, 9):
        reply, _, _ = asked(PLAIN, wanted, ThinkingBudget(max_tokens=budget))
        assert (reply.closed_by, reply.n_thinking, reply.text(PLAIN)) == ("model", 2, "<think>ab</think>yes")


def test_what_only_looked_like_a_mark_goes_beyond_the_budget() -> None:
    wanted = [*ids("ab"), token("</"), token("think"), *ids("x"), *ids("yes")]
    reply, _, _ = asked(PLAIN, wanted, ThinkingBudget(max_tokens=3))
    assert (reply.closed_by, reply.n_thinking) == ("budget", 3)
    assert reply.text(PLAIN) == "<think>ab</</think>yes"


def test_a_close_below_the_least_is_replaced_by_a_wait() -> None:
    wanted = ids("ab</think>cd</think>ef</think>yes")
    budget = ThinkingBudget(max_tokens=12, min_tokens=8, wait=" W")
    reply, _, _ = asked(PLAIN, wanted, budget)
    assert reply.text(PLAIN) == "<think>ab Wcd Wef</think>yes"
    assert (reply.n_waits, reply.n_thinking, reply.closed_by) == (2, 10, "model")
    assert reply.thought == "ab Wcd Wef"
    # The most holds also for what is written for the model.
    reply, _, _ = asked(PLAIN, ids("ab</think>yes"), ThinkingBudget(max_tokens=3, min_tokens=3, wait=" W"))
    assert (reply.text(PLAIN), reply.n_thinking, reply.closed_by) == ("<think>ab </think>yes", 3, "budget")


def test_text_behind_the_close_leads_into_the_answer() -> None:
    budget = ThinkingBudget(max_tokens=2, after_close="\nso ")
    reply, _, _ = asked(PLAIN, ids("abyes"), budget)
    assert reply.text(PLAIN) == "<think>ab</think>\nso yes"


def test_a_prompt_that_ends_behind_the_mark_gets_no_second_one() -> None:
    prompt = ids("q<think>\n")
    reply, _, _ = asked(PLAIN, ids("ab</think>yes"), ThinkingBudget(max_tokens=9), prompt=prompt)
    assert reply.text(PLAIN) == "ab</think>yes" and reply.thought == "ab"
    opening = len(SPECIAL) - 2
    for prompt, text in (
        ([*ids("q", SPECIAL), opening], "a</think>"),
        (ids("q<think>", SPECIAL), "<think>a</think>"),
    ):
        reply, _, _ = asked(SPECIAL, ids("a", SPECIAL), ThinkingBudget(max_tokens=1), prompt=prompt)
        assert reply.text(SPECIAL) == text  # spelled in text it is no mark


def test_a_grammar_is_of_the_answer_alone() -> None:
    grammar = ScriptedGrammar([ids("y"), ids("n")], n_vocab=len(PLAIN), force=False)
    reply, engine, _ = asked(PLAIN, ids("ab</think>yn"), ThinkingBudget(max_tokens=9), grammar=grammar)
    assert PLAIN.decode(reply.answer.ids) == "yn" and grammar.finished
    assert [request.grammar is None for request in engine.requests] == [True, False]


def test_where_the_window_is_short_the_answer_goes_first() -> None:
    # 1 of the prompt, 2 and 2 of the marks, 10 of the answer: 5 of 20 are left to think.
    reply, _, _ = asked(PLAIN, ids("abcdefyes"), ThinkingBudget(max_tokens=50), context_window=20)
    assert reply.n_thinking == 5


def test_each_generation_has_random_numbers_of_its_own() -> None:
    sampling = SamplingParams(temperature=1.0, seed=7)
    _, engine, _ = asked(PLAIN, ids("ab</think>yes"), ThinkingBudget(max_tokens=9), sampling=sampling)
    seeds = [request.sampling.seed for request in engine.requests]
    assert seeds[0] == 7 and len(set(seeds)) == 2
    _, again, _ = asked(PLAIN, ids("ab</think>yes"), ThinkingBudget(max_tokens=9), sampling=sampling)
    assert [request.sampling.seed for request in again.requests] == seeds


def test_a_caller_can_stop_it_in_the_thought() -> None:
    engine = ScriptedEngine(PLAIN, ids("abcdef"))
    seen: list[int] = []
    reply = think(
        engine,
        GenerateRequest(ids("q"), 10),
        ThinkingBudget(max_tokens=50),
        on_tokens=seen.extend,
        cancelled=lambda: len(seen) >= 4,
    )
    assert (reply.closed_by, reply.answer.finish_reason) == ("cancelled", "cancelled")
    assert reply.ids == seen and reply.thought == "ab" and len(engine.requests) == 1


def test_budgets_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_tokens = 5 is more than max_tokens = 4"):
        ThinkingBudget(max_tokens=4, min_tokens=5)
    with pytest.raises(ValidationError, match="at least 1 character"):
        ThinkingBudget(max_tokens=4, wait="")


def test_a_mark_may_be_a_special_token_with_text_behind_it() -> None:
    close, opening = SPECIAL.token_bytes[-1].decode(), SPECIAL.token_bytes[-2].decode()
    n_vocab = len(SPECIAL)
    assert mark_ids(SPECIAL, f"{opening}q") == ([n_vocab - 2, *SPECIAL.encode("q")], False)
    assert mark_ids(SPECIAL, opening) == ([n_vocab - 2], True)
    marks = ThoughtMarks(open=f"{opening}q", close=close)
    budget = ThinkingBudget(max_tokens=2)
    for prompt, is_open in (([n_vocab - 2, *SPECIAL.encode("q")], True), (SPECIAL.encode("q"), False)):
        request = GenerateRequest(prompt, 4)
        reply = think(ScriptedEngine(SPECIAL, []), request, budget, marks)
        assert (reply.ids[0] == n_vocab - 2) == (not is_open)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = write_tiny_gguf(tmp_path_factory.mktemp("thinking") / "tiny.gguf")
    with LlamaCppEngine(file, n_threads=1, n_threads_prefill=1, context_window=256) as loaded:
        yield loaded


@pytest.mark.parametrize("marks", [ThoughtMarks(), ThoughtMarks(open="<tool_call>", close="</tool_call>")])
def test_llama_cpp_keeps_the_budget_and_reuses_its_cache(engine: LlamaCppEngine, marks: ThoughtMarks) -> None:
    prompt = engine.vocabulary.encode("The quick brown fox")
    close, is_special = mark_ids(engine.vocabulary, marks.close)
    assert is_special == (marks.close == "</tool_call>")
    request = GenerateRequest(prompt, 5, sampling=SamplingParams(temperature=1.0, seed=3))
    reply = think(engine, request, ThinkingBudget(max_tokens=12), marks)
    assert reply.closed_by == "budget" and reply.n_thinking == 12
    n_behind = len(reply.ids) - len(reply.answer.ids)
    assert reply.ids[n_behind - len(close) : n_behind] == close
    stats = reply.answer.stats
    # All but the thought's last token, which nothing had asked for yet, came from the cache.
    assert stats.reused_tokens == len(prompt) + n_behind - len(close) - 1
    assert stats.prefilled_tokens == len(close) + 1
    again = think(engine, request, ThinkingBudget(max_tokens=12), marks)
    assert again.ids == reply.ids and again.mean_logprob == pytest.approx(reply.mean_logprob, abs=1e-3)
    engine.check_integrity()
