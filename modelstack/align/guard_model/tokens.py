"""Tokens of a guard's prompts and answers in a base's chat format, the same in training and at run time."""

from __future__ import annotations

from collections.abc import Sequence

from modelstack.align.guard_model.policy import Policy
from modelstack.align.guard_model.prompt import GuardFormat, GuardTurn
from modelstack.errors import UserError
from modelstack.inference.sequences import common_prefix_length
from modelstack.tokenizer.chat import ChatEncoder


class PromptTokens:
    """Encoder of prompts and answers; the tokens of a policy are kept."""

    def __init__(self, encoder: ChatEncoder, guard_format: GuardFormat) -> None:
        """Encode with a base's encoder."""
        self._encoder, self.format = encoder, guard_format
        self._prefixes: dict[Policy, list[int]] = {}

    def prefix(self, policy: Policy) -> list[int]:
        """Return the first tokens of a prompt, which all requests have in common.

        Replies have them in common, too, unless the format names the judged role.
        """
        if policy not in self._prefixes:
            names_role = "{name}" in self.format.before
            other = GuardTurn("user", "1") if names_role else GuardTurn("assistant", "a")
            prompt = self.prompt(policy, [GuardTurn("user", "a")])
            self._prefixes[policy] = prompt[: common_prefix_length(prompt, self.prompt(policy, [other]))]
        return self._prefixes[policy]

    def prompt(self, policy: Policy, turns: Sequence[GuardTurn]) -> list[int]:
        """Return the tokens of a prompt up to the start of the answer.

        Raises:
            UserError: There is no turn.
        """
        text = self.format.prompt(policy, turns)
        return [*self._encoder.encode_turn("user", text, previous=None).ids, *self._encoder.generation_ids("user")]

    def conversation(self, policy: Policy, turns: Sequence[GuardTurn]) -> list[int]:
        """Return the tokens of a prompt after `prefix`.

        Raises:
            UserError: There is no turn, or the tokens of the policy depend on the conversation.
        """
        prefix, whole = self.prefix(policy), self.prompt(policy, turns)
        if whole[: len(prefix)] != prefix:
            raise UserError("the tokens of the policy depend on the conversation in this tokenizer")
        return whole[len(prefix) :]

    def answer(self, violated: Sequence[str], *, unsafe: bool) -> list[int]:
        """Return the tokens of an answer, with the token that ends it."""
        suffix = self._encoder.assistant_suffix_ids
        ends = [at for at, token in enumerate(suffix) if token in self._encoder.end_ids]
        text = self.format.answer(violated, unsafe=unsafe)
        return [*self._encoder.content_ids(text), *suffix[: ends[0] + 1 if ends else len(suffix)]]
