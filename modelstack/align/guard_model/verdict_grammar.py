"""Grammar of a guard's answer: `safe`, or `unsafe` and a line with violated categories of the policy.

Only canonical tokens are legal, so that the first token decides: its probabilities under the mask are those of the
verdict. Categories follow in the order of the policy, each at most once.

Letters: V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from modelstack.align.guard_model.policy import Policy
from modelstack.align.guard_model.prompt import SAFE, UNSAFE, GuardFormat
from modelstack.errors import UserError
from modelstack.inference.grammar import GrammarError, TokenMask
from modelstack.tokenizer.vocabulary import Vocabulary

MAX_CATEGORIES = 3
"""Maximum number of categories of an answer; published answers rarely have more."""


@dataclass(slots=True, eq=False)
class _Node:
    """A place in the tree of legal answers."""

    next: dict[int, _Node] = field(default_factory=dict["int", "_Node"])
    is_end: bool = False


class VerdictTree:
    """All legal answers under a policy, as a tree of tokens; shared by all answers."""

    def __init__(self, vocabulary: Vocabulary, policy: Policy, guard_format: GuardFormat) -> None:
        """Build the tree.

        Raises:
            UserError: The tokenizer begins `safe` and `unsafe` with the same token.
        """
        self.n_vocab = len(vocabulary)
        self.end_ids = tuple(vocabulary.end_ids)
        self.root = _Node()
        start = guard_format.answer_start
        n_start = len(vocabulary.encode(start)) if start else 0
        safe, unsafe = (vocabulary.encode(start + word) for word in (SAFE, UNSAFE))
        if safe[n_start] == unsafe[n_start] or safe[:n_start] != unsafe[:n_start]:
            raise UserError(
                "this tokenizer begins 'safe' and 'unsafe' with the same token: no verdict can be read"
            )
        self.n_start = n_start
        """Tokens before the verdict."""
        self.safe_id, self.unsafe_id = safe[n_start], unsafe[n_start]
        self._put(safe)
        # Codes are encoded behind what precedes them: a tokenizer may join a line break or comma with them.
        for codes in _lists(policy.codes, MAX_CATEGORIES):
            self._put(vocabulary.encode(guard_format.answer(codes, unsafe=True)))

    def _put(self, ids: Sequence[int]) -> None:
        node = self.root
        for token in ids:
            node = node.next.setdefault(token, _Node())
        node.is_end = True


def _lists(codes: Sequence[str], n_most: int) -> Iterable[list[str]]:
    """Yield the lists of 1 to `n_most` codes, in their order."""
    for at, code in enumerate(codes):
        yield [code]
        if n_most > 1:
            yield from ([code, *rest] for rest in _lists(codes[at + 1 :], n_most - 1))


class VerdictGrammar:
    """State of one answer; a `Grammar`."""

    decision: TokenMask | None = None
    stand_in: tuple[TokenMask, int] | None = None

    def __init__(self, tree: VerdictTree) -> None:
        """Start before the first token."""
        self._tree = tree
        self._path = [tree.root]

    @property
    def finished(self) -> bool:
        """Whether only an end token may follow."""
        return self._node.is_end and not self._node.next

    @property
    def accepting(self) -> bool:
        """Whether the answer so far is complete."""
        return self._node.is_end

    @property
    def choosing(self) -> bool:
        """Whether the next token is the verdict."""
        return len(self._path) == self._tree.n_start + 1

    @property
    def closing_reserve(self) -> int:
        """Number of tokens of a shortest completion."""
        return _distance(self._node)

    def mask(self) -> TokenMask:
        """Return the legal tokens."""
        return self._mask_of(self._node.next, self._node.is_end)

    def closing(self) -> TokenMask:
        """Return the legal tokens of a shortest completion."""
        node = self._node
        if node.is_end:
            return self._mask_of((), True)
        nearest = min(map(_distance, node.next.values()))
        return self._mask_of([token for token, after in node.next.items() if _distance(after) == nearest], False)

    def forced(self) -> list[int]:
        """Return the tokens that must come next."""
        found: list[int] = []
        node = self._node
        while len(node.next) == 1 and not node.is_end:
            ((token, node),) = node.next.items()
            found.append(token)
        return found

    def n_legal(self, ids: Sequence[int]) -> int:
        """Return the number of leading tokens that could be taken."""
        node = self._node
        for n, token in enumerate(ids):
            if token not in node.next:
                return n
            node = node.next[token]
        return len(ids)

    def advance(self, token_id: int) -> None:
        """Take one token.

        Raises:
            GrammarError: the token is not legal here.
        """
        if token_id not in self._node.next:
            raise GrammarError(f"token {token_id} does not continue a verdict")
        self._path.append(self._node.next[token_id])

    def rollback(self, n_tokens: int) -> None:
        """Undo the last tokens."""
        del self._path[len(self._path) - n_tokens :]

    @property
    def _node(self) -> _Node:
        return self._path[-1]

    def _mask_of(self, tokens: Iterable[int], may_end: bool) -> TokenMask:
        legal = [*tokens, *(self._tree.end_ids if may_end else ())]
        mask = np.zeros(-(-self._tree.n_vocab // 32), np.uint32)
        np.bitwise_or.at(mask, np.array(legal) // 32, (1 << (np.array(legal) % 32)).astype(np.uint32))
        return mask


def _distance(node: _Node) -> int:
    return 0 if node.is_end else 1 + min(map(_distance, node.next.values()))
