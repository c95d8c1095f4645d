"""Tokens of a guard's prompts and answers in a base's chat format, the same in training and at run time."""

from __future__ import annotations

from collections.abc import Sequence

from modelstack.align.guard_model.policy import Policy
from modelstack.align.guard_model.prompt import GuardFormat, GuardTurn
from modelstack.errors import UserError
from modelstack.tokenizer.chat import ChatEncoder


class PromptTokens:
    """Encoder of prompts and answers; the tokens of a policy are kept."""

    def __init__(self, encoder: ChatEncoder, guard_format: GuardFormat) -> None:
        """Encode with a base's encoder."""
        self._encoder, self.format = encoder, guard_format
        self._prefixes: dict[Policy, list[int]] = {}

    def prefix(self, policy: Policy) -> list[int]:
        """Return the first tokens of a prompt, which all requests have in common.

        With `INSTRUCTIONS_FIRST` replies have them in common, too.
        """
        if policy not in self._prefixes:
            one, other = (self._encoded(policy, [GuardTurn("user", text)]) for text in ("a", "1"))
            n_equal = _n_equal(one, other)
            reply = self._encoded(policy, [GuardTurn("assistant", "a")])
            n_of_both = _n_equal(one, reply)
            # The text before the conversation is one prefix in formats that do not name the judged role.
            self._prefixes[policy] = one[: n_of_both if "{name}" not in self.format.before else n_equal]
        return self._prefixes[policy]

    def prompt(self, policy: Policy, turns: Sequence[GuardTurn]) -> list[int]:
        """Return the tokens of a prompt up to the start of the answer.

        Raises:
            UserError: There is no turn.
        """
        return self._encoded(policy, turns)

    def conversation(self, policy: Policy, turns: Sequence[GuardTurn]) -> list[int]:
        """Return the tokens of a prompt after `prefix`.

        Raises:
            UserError: There is no turn, or the tokens of the policy depend on the conversation.
        """
        prefix, whole = self.prefix(policy), self._encoded(policy, turns)
        if whole[: len(prefix)] != prefix:
            raise UserError("the tokens of the policy depend on the conversation in this tokenizer")
        return whole[len(prefix) :]

    def answer(self, violated: Sequence[str], *, unsafe: bool) -> list[int]:
        """Return the tokens of an answer, with the token that ends it."""
        suffix = self._encoder.assistant_suffix_ids
        ends = [at for at, token in enumerate(suffix) if token in self._encoder.end_ids]
        text = self.format.answer(violated, unsafe=unsafe)
        return [*self._encoder.content_ids(text), *suffix[: ends[0] + 1 if ends else len(suffix)]]

    def _encoded(self, policy: Policy, turns: Sequence[GuardTurn]) -> list[int]:
        text = self.format.prompt(policy, turns)
        return [*self._encoder.encode_turn("user", text, previous=None).ids, *self._encoder.generation_ids("user")]


def _n_equal(one: Sequence[int], other: Sequence[int]) -> int:
    return next(n for n, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
