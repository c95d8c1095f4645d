"""Whether another call follows: what decides it, and how a bias moves it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import vocabularies
from driving import ENGINES, compiler
from numpy.typing import NDArray

from modelstack.inference.engine import Generation, SamplingParams
from modelstack.inference.legal_tokens import LegalTokens
from modelstack.inference.reply import Reply, ReplyParts
from modelstack.inference.sampling import Sampler
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls import ResponseFormat, ToolSpec
from modelstack.toolcalls.grammar.coverage import EngineName
from modelstack.toolcalls.prior.another_call import AnotherCallBias, Endings
from modelstack.toolcalls.prior.lexical import CALL_EVIDENCE, DecisionPrior, EvidenceWeights, lexical_scores
from modelstack.toolcalls.prior.reply_bias import ReplyBias, ReplyTables
from modelstack.toolcalls.prior.reply_place import Place, behind
from tests.modelstack.inference.fakes import write_alone

TEXT = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 3}}, "required": ["a"]}
NOTHING = {"type": "object", "properties": {}}
FORMAT = ResponseFormat((ToolSpec("say", "", TEXT), ToolSpec("mail", "", NOTHING)), answer=None, max_calls=4)
MERGED = (b'"}},{"name":"', b'"}},{"', b'"}}]', b"}}]", b"},{", b'"]', b'",')


@lru_cache
def vocabulary() -> Vocabulary:
    """Return the small one with tokens that close a call and decide in one."""
    small = vocabularies.small()
    return Vocabulary((*small.token_bytes, *MERGED), small.special_ids, small.end_ids, small.encode)


@lru_cache
def endings() -> Endings:
    return Endings(vocabulary())


def biased(constant: float, request: str = "", **weights: float) -> AnotherCallBias:
    known = dict.fromkeys(CALL_EVIDENCE, 0.0) | weights
    return AnotherCallBias(EvidenceWeights(constant=constant, weights=known), request, FORMAT.tools, endings())


def place(text: str) -> Place:
    return behind(Place(), text.encode())[0]


@pytest.mark.parametrize(
    ("before", "token", "verdict"),
    [
        ('[{"name":"say","arguments":{"a":"x', '"}},{"', True),
        ('[{"name":"say","arguments":{"a":"x', '"}}]', False),
        ('[{"name":"say","arguments":{"a":"x', '"}}', None),
        ('[{"name":"say","arguments":{"a":"x"}}', ",", True),
        ('[{"name":"say","arguments":{"a":"x"}}', "]", False),
        ('[{"name":"say","arguments":{"a":"x', '",', None),
        ('[{"name":"say","arguments":{"a":"x\\', '"}},{', None),
        ('[{"name":"say","arguments":{"a":["x"', "]", None),
        ('[{"name":"say","arguments":{"a":["x"', "]}}]", False),
        ('[{"name":"say","arguments":{"a":"x, ]', "},{", None),
        ('[{"name":"say","arguments":{"a":1', "2}},", True),
        ("Well", ", then", None),
        ('{"result":[1', ",", None),
        ('[{"name":"say"}]', ",", None),
        ("", "[]", False),
        ('[{"name":"say","arguments":{"a":1', "]],", None),
    ],
)
def test_commas_and_brackets_of_the_list_itself_decide(before: str, token: str, verdict: bool | None) -> None:
    assert behind(place(before), token.encode())[1] is verdict


def test_bytes_may_come_in_any_pieces() -> None:
    text = b'[{"name":"say","arguments":{"a":"\\"}},{","b":[1,{"c":"]"}]}},{"name":"mail"}]'
    verdicts = [v for at in range(len(text)) for v in [behind(place(text[:at].decode()), text[at : at + 1])[1]]]
    assert [v for v in verdicts if v is not None] == [True, False]
    for cut in range(len(text)):
        first, _ = behind(Place(), text[:cut])
        assert behind(first, text[cut:])[0] == behind(Place(), text)[0]


def test_tokens_that_only_one_way_begins_with_decide_too() -> None:
    """Where a number ends: `}` `},` goes on, `}}` `]` ends, as merges would have it."""
    encode = {'}},{"name":"': [b"}", b"},"], "}}]": [b"}}", b"]"]}
    tokens = (b"}", b"},", b"}}", b"]", b",")
    words = Vocabulary(tokens, frozenset(), (), lambda text: [tokens.index(t) for t in encode[text]])
    sides = Endings(words).sides(place('[{"name":"say","arguments":{"a":1'))
    assert sides is not None
    assert [[tokens[i] for i in side] for side in (sides.goes_on, sides.ends)] == [[b"}"], [b"}}"]]


def test_a_bias_multiplies_the_odds_and_leaves_the_rest_as_it_was() -> None:
    written = vocabulary().encode('[{"name":"say","arguments":{"a":"x')
    rng = np.random.default_rng(0)
    logits = rng.normal(size=len(vocabulary())).astype(np.float32)
    for legal in (
        LegalTokens.all_except(frozenset(), len(vocabulary())),
        LegalTokens.from_ids(np.arange(len(vocabulary()), dtype=np.intp)),
    ):
        moved = biased(1.7)(written, legal, logits)
        assert moved is not None
        before, after = (
            np.exp(x - x.max(), dtype=np.float64) / np.exp(x - x.max()).sum() for x in (logits, moved)
        )
        sides = endings().sides(place('[{"name":"say","arguments":{"a":"x'))
        assert sides is not None
        on, end = sides.goes_on, sides.ends
        odds = (before[on].sum() / before[end].sum(), after[on].sum() / after[end].sum())
        assert odds[1] / odds[0] == pytest.approx(np.exp(1.7), rel=1e-4)
        rest = np.setdiff1d(np.arange(len(vocabulary())), [*on, *end])
        np.testing.assert_allclose(after[rest], before[rest], rtol=1e-4)


@pytest.mark.parametrize(
    ("request_", "written", "tool", "number", "words"),
    [
        ("say 12 and mail it", '[{"name":"say","arguments":{"a":"x', "mail", 1.0, 0.5),
        ("say 12 and mail it", '[{"name":"say","arguments":{"a":"12', "mail", 0.0, 0.5),
        ("say bananas", '[{"name":"say","arguments":{"a":"bananas', "mail", 0.0, 0.0),
        (
            "say bananas, mail",
            '[{"name":"say","arguments":{"a":"x"}},{"name":"mail","arguments":{}',
            None,
            0.0,
            1 / 3,
        ),
    ],
)
def test_evidence_is_what_the_calls_so_far_leave_of_the_request(
    request_: str, written: str, tool: str | None, number: float, words: float
) -> None:
    logits = np.zeros(len(vocabulary()), dtype=np.float32)
    legal = LegalTokens.all_except(frozenset(), len(vocabulary()))
    found = biased(0.0, request_).decision(vocabulary().encode(written), legal, logits)
    assert found is not None
    best = 0.0 if tool is None else lexical_scores(request_, FORMAT.tools)[tool]
    assert found.evidence == pytest.approx((best, number, words))


def test_evidence_moves_the_odds_by_its_weight() -> None:
    logits = np.random.default_rng(1).normal(size=len(vocabulary())).astype(np.float32)
    legal = LegalTokens.all_except(frozenset(), len(vocabulary()))
    written = vocabulary().encode('[{"name":"say","arguments":{"a":"x')
    for request, added in (("say x", -1.0), ("say x and 12", 1.5)):
        moved = biased(-1.0, request, number=2.5)(written, legal, logits)
        assert moved is not None
        before, after = (biased(0.0).decision(written, legal, x) for x in (logits, moved))
        assert before is not None and after is not None
        assert after.decision.log_odds - before.decision.log_odds == pytest.approx(added, abs=1e-4)


def test_nothing_is_moved_where_one_side_is_illegal_or_no_decision_falls() -> None:
    logits = np.zeros(len(vocabulary()), dtype=np.float32)
    legal = LegalTokens.all_except(frozenset(), len(vocabulary()))
    bias = biased(3.0)
    inside = vocabulary().encode('[{"name":"say","arguments":{"a":"x')
    goes_on = {i for i, data in enumerate(vocabulary().token_bytes) if behind(place("[{"), data)[1]}
    assert bias(inside, LegalTokens.all_except(frozenset(goes_on), len(vocabulary())), logits) is not None
    both = endings().sides(place('[{"name":"say","arguments":{"a":"x'))
    assert both is not None
    one = LegalTokens.all_except(frozenset(both.goes_on.tolist()), len(vocabulary()))
    assert bias(inside, one, logits) is None
    assert bias(vocabulary().encode("Well, a text"), legal, logits) is None
    assert bias([], legal, logits) is None


def test_a_reply_drawn_again_is_followed_from_its_beginning() -> None:
    legal = LegalTokens.all_except(frozenset(), len(vocabulary()))
    logits = np.zeros(len(vocabulary()), dtype=np.float32)
    bias = biased(3.0)
    assert bias(vocabulary().encode("Well, a text that is long enough for it"), legal, logits) is None
    assert bias(vocabulary().encode('[{"name":"say","arguments":{"a":"x"}}'), legal, logits) is not None


def run(bias: float, seed: int, engine: EngineName = "llguidance") -> Generation:
    words = vocabulary()

    def model(tokens: list[int]) -> NDArray[np.float32]:
        state = sum(31**n * (token + 1) for n, token in enumerate(tokens[-8:])) + seed
        return np.random.default_rng(state).normal(scale=2, size=len(words)).astype(np.float32)

    parts = ReplyParts(
        sampler=Sampler(len(words), SamplingParams(), np.random.default_rng(seed)),
        text_tokens=LegalTokens.all_except(words.special_ids, len(words)),
        end_ids=frozenset(words.end_ids),
        n_vocab=len(words),
        grammar=compiler(engine, vocabulary=words).compile(FORMAT).start(),
        logit_bias=biased(bias),
    )
    return write_alone([1, 2, 3], Reply(300, parts), model)


@pytest.mark.parametrize("engine", ENGINES)
def test_replies_have_as_many_calls_as_the_bias_wants(engine: EngineName) -> None:
    n_calls: dict[float, list[int]] = {}
    for bias in (-60.0, 60.0):
        texts = [
            b"".join(vocabulary().token_bytes[i] for i in run(bias, seed, engine).ids).decode()
            for seed in range(12)
        ]
        parsed = [compiler(engine, vocabulary=vocabulary()).compile(FORMAT).parse(text) for text in texts]
        n_calls[bias] = [len(each.calls) for each in parsed if each.kind == "calls"]
    assert n_calls[-60.0] and set(n_calls[-60.0]) == {1}
    assert n_calls[60.0] and set(n_calls[60.0]) == {FORMAT.max_calls}


def test_log_probabilities_stay_the_models() -> None:
    free, bound = run(0.0, 3), run(60.0, 3)
    same = next(i for i, (a, b) in enumerate(zip(free.ids, bound.ids, strict=False)) if a != b)
    assert free.logprobs[:same] == pytest.approx(bound.logprobs[:same], nan_ok=True)
    assert bound.masked_logprobs[same] < free.masked_logprobs[same]


def test_without_a_prior_or_a_request_there_is_no_bias() -> None:
    some = DecisionPrior(
        lexical_weight=1.0,
        abstain_bias=0.0,
        another_call=EvidenceWeights(constant=1.0, weights=dict.fromkeys(CALL_EVIDENCE, 0.0)),
    )
    none = DecisionPrior(lexical_weight=1.0, abstain_bias=0.0)
    tables = ReplyTables(vocabulary())
    assert ReplyBias.of(None, "Mail?", (), tables) is None
    assert ReplyBias.of(none, "Mail?", (), tables) is None
    assert ReplyBias.of(some, None, (), tables) is None
    assert isinstance(ReplyBias.of(some, "Mail?", (), tables), ReplyBias)
