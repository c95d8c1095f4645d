"""Paged memory: blocks of token slots with reference counts, and an index of full blocks by their content.

Block i of a sequence holds the keys and values of tokens i B to i B + B - 1. A full block is identified by a
digest that is chained from block to block, so equal digests mean equal prefixes (vLLM's hash chain). The tokens
of a block and its predecessor are compared as well: a collision costs a miss, never a wrong reply. A free block
keeps its content and its digest until it is used again, so every free block with a digest is a cached block.
Freed blocks are reused in the order in which they were freed, the end of a chain before its beginning, since a
block without its predecessors cannot be found. Only block numbers live here, no tensors.

A sequence that is evaluated can be shared in the same step: its blocks are indexed when their evaluation is
planned (`write`), and every layer stores all keys and values of a step before it reads any. If the step fails,
`drop_cache` forgets them. Two sequences that complete equal blocks in one step keep both until `settle` joins
them.

Ownership: a block is either in the free queue or counted once for each table that lists it. `check` verifies
this and runs after every step in tests, like mini-sglang's cache check.

Letters: B tokens per block.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

BLOCK_TOKENS = 16
"""Default of B; vLLM's. A prefix is shared in whole blocks: small blocks share more, large ones cost less."""
_DIGEST_BYTES = 16


class TokenChain:
    """The tokens of a sequence and the digests of their full blocks, each computed once."""

    __slots__ = ("tokens", "_block_tokens", "_root", "_digests")

    def __init__(self, tokens: Iterable[int], *, block_tokens: int = BLOCK_TOKENS, root: bytes = b"") -> None:
        """Start a sequence.

        Args:
            tokens: Its tokens so far.
            block_tokens: Tokens per block.
            root: Identifies what computes keys and values, such as an adapter; sequences of other roots share
                no blocks.
        """
        self.tokens = list(tokens)
        self._block_tokens = block_tokens
        self._root = root
        self._digests: list[bytes] = []

    def digest(self, index: int) -> bytes:
        """Return the digest of the full block `index`, and of -1: the root."""
        if index < 0:
            return self._root
        while len(self._digests) <= index:
            n = len(self._digests)
            previous = self._digests[-1] if n else self._root
            tokens = array("q", self.block(n)).tobytes()
            self._digests.append(hashlib.blake2b(previous + tokens, digest_size=_DIGEST_BYTES).digest())
        return self._digests[index]

    def block(self, index: int) -> tuple[int, ...]:
        """Return the tokens of a block."""
        return tuple(self.tokens[index * self._block_tokens : (index + 1) * self._block_tokens])


@dataclass(slots=True, eq=False)
class BlockTable:
    """The blocks of one sequence."""

    blocks: list[int] = field(default_factory=list[int])
    n_tokens: int = 0
    """Number of tokens whose keys and values the blocks hold, or will hold after the planned step."""
    n_indexed: int = 0
    """Number of leading full blocks that were offered to the index."""


@dataclass(frozen=True, slots=True)
class Hit:
    """Cached blocks at the beginning of a sequence."""

    blocks: tuple[int, ...]
    n_free: int
    """Number of these blocks that are in the free queue and leave it when the hit is used."""


@dataclass(frozen=True, slots=True)
class _Content:
    digest: bytes
    previous: bytes
    tokens: tuple[int, ...]


class BlockPool:
    """Blocks of a fixed number and size, their owners, and the index of their content."""

    def __init__(self, n_blocks: int, block_tokens: int = BLOCK_TOKENS) -> None:
        """Start with free, empty blocks.

        Raises:
            ValueError: There are no blocks, or they hold no tokens.
        """
        if n_blocks < 1 or block_tokens < 1:
            raise ValueError(f"{n_blocks} blocks of {block_tokens} tokens; both must be at least 1")
        self.n_blocks, self.block_tokens = n_blocks, block_tokens
        self._counts = [0] * n_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(n_blocks))
        """The free queue: the next block to reuse first. A linked list, so that a revived block leaves in O(1)."""
        self._contents: list[_Content | None] = [None] * n_blocks
        self._index: dict[bytes, int] = {}

    @property
    def n_free(self) -> int:
        """Number of blocks that no sequence holds; cached ones included."""
        return len(self._free)

    @property
    def n_cached(self) -> int:
        """Number of free blocks whose content can be found."""
        return sum(self._contents[block] is not None for block in self._free)

    def blocks_for(self, n_tokens: int) -> int:
        """Return the number of blocks that hold some tokens."""
        return -(-n_tokens // self.block_tokens)

    def n_exclusive(self, table: BlockTable) -> int:
        """Return the number of blocks that would become free with `release`."""
        return sum(self._counts[block] == 1 for block in table.blocks)

    def lookup(self, chain: TokenChain) -> Hit:
        """Return the longest cached prefix; at least one token remains, since logits need an evaluation."""
        found: list[int] = []
        for index in range((len(chain.tokens) - 1) // self.block_tokens):
            block = self._found(chain, index)
            if block is None:
                break
            found.append(block)
        return Hit(tuple(found), sum(self._counts[block] == 0 for block in found))

    def open(self, hit: Hit) -> BlockTable:
        """Return a table that begins with the blocks of a hit, which must be newer than the last change."""
        for block in hit.blocks:
            self._take(block)
        n = len(hit.blocks)
        return BlockTable(list(hit.blocks), n * self.block_tokens, n)

    def reserve(self, table: BlockTable, n_tokens: int) -> None:
        """Append free blocks until the table can hold `n_tokens`.

        Raises:
            ValueError: There are fewer free blocks; none is taken.
        """
        missing = self.blocks_for(n_tokens) - len(table.blocks)
        if missing > self.n_free:
            raise ValueError(f"{missing} blocks are needed and {self.n_free} are free")
        for _ in range(missing):
            block = next(iter(self._free))
            self._forget(block)
            self._take(block)
            table.blocks.append(block)

    def write(self, table: BlockTable, chain: TokenChain, n_tokens: int) -> None:
        """Record that the step holds the chain's first `n_tokens`; index the blocks that become full.

        A block whose content is in the index already is not indexed a second time.
        """
        assert table.n_tokens <= n_tokens <= len(table.blocks) * self.block_tokens
        table.n_tokens = n_tokens
        while (table.n_indexed + 1) * self.block_tokens <= n_tokens:
            index = table.n_indexed
            digest = chain.digest(index)
            if digest not in self._index:
                block = table.blocks[index]
                self._contents[block] = _Content(digest, chain.digest(index - 1), chain.block(index))
                self._index[digest] = block
            table.n_indexed += 1

    def settle(self, table: BlockTable, chain: TokenChain, n_before: int) -> None:
        """Replace blocks that a step completed by equal indexed ones, and free the duplicates.

        Args:
            table: Table whose step was evaluated.
            chain: Its tokens.
            n_before: Number of tokens before the step.
        """
        for index in range(n_before // self.block_tokens, table.n_tokens // self.block_tokens):
            own, indexed = table.blocks[index], self._found(chain, index)
            if indexed is not None and indexed != own:
                self._take(indexed)
                table.blocks[index] = indexed
                self._give_back(own)

    def trim(self, table: BlockTable) -> None:
        """Free the blocks after a table's tokens, which held a draft."""
        while len(table.blocks) > self.blocks_for(table.n_tokens):
            self._give_back(table.blocks.pop())

    def release(self, table: BlockTable) -> None:
        """Free the blocks of a table, and empty it."""
        for block in reversed(table.blocks):
            self._give_back(block)
        table.blocks, table.n_tokens, table.n_indexed = [], 0, 0

    def drop(self, chain: TokenChain) -> None:
        """Forget the content of a sequence's free blocks."""
        for index in range(len(chain.tokens) // self.block_tokens):
            block = self._index.get(chain.digest(index))
            if block is not None and self._counts[block] == 0:
                self._forget(block)
                self._free.move_to_end(block, last=False)

    def drop_cache(self) -> None:
        """Forget the content of all blocks: the weights changed, or a step failed."""
        self._index.clear()
        self._contents = [None] * self.n_blocks

    def check(self, tables: Sequence[BlockTable]) -> None:
        """Verify that each block is free or counted, and that the index names what the blocks hold.

        Args:
            tables: All open tables.

        Raises:
            AssertionError: Something is lost, doubled or misnamed.
        """
        held = Counter(block for table in tables for block in table.blocks)
        for block, count in enumerate(self._counts):
            assert count == held[block], f"block {block} is counted {count} times and held {held[block]} times"
            assert (count == 0) == (block in self._free), (
                f"block {block} has count {count}, free: {block in self._free}"
            )
        for table in tables:
            assert len(set(table.blocks)) == len(table.blocks), f"a table lists a block twice: {table.blocks}"
            assert table.n_tokens <= len(table.blocks) * self.block_tokens, "a table has more tokens than slots"
        indexed = {content.digest: block for block, content in enumerate(self._contents) if content is not None}
        assert indexed == self._index, "the index differs from the contents of the blocks"

    def _found(self, chain: TokenChain, index: int) -> int | None:
        block = self._index.get(chain.digest(index))
        content = None if block is None else self._contents[block]
        if content is None or content.tokens != chain.block(index) or content.previous != chain.digest(index - 1):
            return None
        return block

    def _take(self, block: int) -> None:
        if self._counts[block] == 0:
            del self._free[block]
        self._counts[block] += 1

    def _give_back(self, block: int) -> None:
        self._counts[block] -= 1
        if self._counts[block] == 0:
            self._free[block] = None
            if self._contents[block] is None:  # nothing to find in it: reused before any cached block
                self._free.move_to_end(block, last=False)

    def _forget(self, block: int) -> None:
        content = self._contents[block]
        if content is not None:
            del self._index[content.digest]
            self._contents[block] = None
