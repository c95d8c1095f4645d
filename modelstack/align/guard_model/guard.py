"""A guard model over an engine: verdicts on requests and replies.

    with GuardModel(engine) as guard:
        verdict = guard.judge([GuardTurn("user", "How do I ...")])
        verdict.probability, verdict.categories

The prompt's policy is a prefix that the engine's cache keeps, so that a verdict costs the evaluation of the
conversation and one token; categories are decoded only if the verdict is `unsafe`.

A small guard knows its categories by heart and flags content of one that its policy leaves out. Such categories
are therefore asked for nevertheless, and their share is subtracted: P(unsafe) times the probability that the
violated category is one of the policy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from modelstack.align.guard_model.policy import MLCOMMONS, Policy
from modelstack.align.guard_model.prompt import INSTRUCTIONS_FIRST, GuardFormat, GuardTurn
from modelstack.align.guard_model.tokens import PromptTokens
from modelstack.align.guard_model.verdict_grammar import VerdictGrammar, VerdictTree
from modelstack.errors import UserError
from modelstack.inference.engine import GenerateRequest
from modelstack.inference.scoring import ScoringEngine, continuation_logprob
from modelstack.tokenizer.chat_template import chat_encoder

MAX_ANSWER_TOKENS = 24
"""Room for a verdict and the codes of some categories."""
LEAST_PROBABILITY = 0.01
"""P(unsafe) below which the share of allowed categories is not computed."""
WINDOW_CHARACTERS, OVERLAP_CHARACTERS = 1800, 200
"""Length of the pieces of a long message, and of the text that two neighbours share."""


@dataclass(frozen=True, slots=True)
class GuardVerdict:
    """Verdict on the last message of a conversation."""

    probability: float
    """P(unsafe), read at the verdict's token under the grammar; without the share of allowed categories."""
    categories: tuple[str, ...]
    """Violated categories if `unsafe` is the more probable verdict, most often one; otherwise none."""


class GuardModel:
    """A guard: an engine with a guard's weights, a policy, and the format that the weights were trained on."""

    def __init__(
        self,
        engine: ScoringEngine,
        policy: Policy = MLCOMMONS,
        guard_format: GuardFormat = INSTRUCTIONS_FIRST,
        trained_on: Policy = MLCOMMONS,
    ) -> None:
        """Prepare the prompt's tokens.

        Args:
            engine: Engine with the weights of a guard; it is closed with this object.
            policy: Categories of unsafe content.
            guard_format: Prompt that the weights were trained on: `INSTRUCTIONS_FIRST` for ours, `LLAMA_GUARD` for
                Llama Guard 3 and 4.
            trained_on: Categories that the weights know; those that `policy` leaves out are allowed.

        Raises:
            UserError: The tokenizer cannot tell the two verdicts apart by their first token.
        """
        self.policy = policy
        own = {each.code: each for each in policy.categories}
        known = tuple(own.get(each.code, each) for each in trained_on.categories)
        added = tuple(each for each in policy.categories if each.code not in trained_on.codes)
        self._asked = Policy((*known, *added))
        self._allows = set(self._asked.codes) - own.keys()
        self._engine = engine
        self._tokens = PromptTokens(chat_encoder(engine), guard_format)
        self._tree = VerdictTree(engine.vocabulary, self._asked, guard_format)
        self._prefix = self._tokens.prefix(self._asked)

    def judge(
        self, turns: Sequence[GuardTurn], *, cancelled: Callable[[], bool] | None = None
    ) -> GuardVerdict | None:
        """Return the verdict on the last turn; None if it was cancelled.

        A message that is longer than `WINDOW_CHARACTERS` is judged window by window, with the turns before it; the
        verdict of the least safe window counts, so no text goes unread.

        Raises:
            UserError: There is no turn.
            ContextWindowError: The turns before the last one do not fit the engine's window.
            EngineError: The engine failed.
        """
        if not turns:
            raise UserError("a guard needs at least one message to judge")
        *before, last = turns
        worst: GuardVerdict | None = None
        for window in windows(last.content):
            verdict = self._judge([*before, GuardTurn(last.role, window)], cancelled)
            if verdict is None:
                return None
            if worst is None or verdict.probability > worst.probability:
                worst = verdict
        return worst

    def _judge(self, turns: Sequence[GuardTurn], cancelled: Callable[[], bool] | None) -> GuardVerdict | None:
        request = GenerateRequest(
            prompt_ids=self._tokens.prompt(self._asked, turns),
            max_tokens=MAX_ANSWER_TOKENS,
            fixed_tokens=len(self._prefix),
            conversation="guard",
            grammar=VerdictGrammar(self._tree),
        )
        reply = self._engine.generate(request, cancelled=cancelled)
        if not reply.choices:
            return None
        choice = reply.choices[0]
        probability = float(choice.probabilities[choice.token_ids == self._tree.unsafe_id].sum())
        lines = self._engine.vocabulary.decode(reply.ids).strip().split("\n")
        named = lines[1].split(",") if len(lines) > 1 else []
        if self._allows and probability >= LEAST_PROBABILITY:
            probability *= self._share_of_policy(request.prompt_ids)
        violated = self.policy.violated(named) if probability > 0.5 else ()
        return GuardVerdict(probability, violated)

    def _share_of_policy(self, prompt_ids: Sequence[int]) -> float:
        """Return the probability that an `unsafe` answer with one category names one of the policy."""
        answers = {code: self._tokens.answer([code], unsafe=True) for code in self._asked.codes}
        logprobs = {
            code: continuation_logprob(self._engine, prompt_ids, ids, conversation="guard").logprob
            for code, ids in answers.items()
        }
        most = max(logprobs.values())
        shares = {code: math.exp(logprob - most) for code, logprob in logprobs.items()}
        return sum(shares[code] for code in self.policy.codes) / sum(shares.values())

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def __enter__(self) -> Self:
        """Return self; leaving the block closes the engine."""
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Close the engine."""
        self.close()


def windows(text: str) -> Iterator[str]:
    """Yield overlapping pieces that cover a text; a short text is one piece."""
    yield text[:WINDOW_CHARACTERS]
    step = WINDOW_CHARACTERS - OVERLAP_CHARACTERS
    for start in range(step, len(text) - OVERLAP_CHARACTERS, step):
        yield text[start : start + WINDOW_CHARACTERS]
