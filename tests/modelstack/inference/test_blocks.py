"""Blocks: what is found, what is shared, what is reused first, and who owns what after any sequence of steps."""

from __future__ import annotations

import random

import pytest

from modelstack.inference import blocks as module
from modelstack.inference.blocks import BlockPool, BlockTable, TokenChain

B = 4


def chain(*tokens: int) -> TokenChain:
    return TokenChain(tokens, block_tokens=B)


def evaluated(pool: BlockPool, of: TokenChain) -> BlockTable:
    """Evaluate all tokens of a sequence in one step."""
    table = pool.open(pool.lookup(of))
    before = table.n_tokens
    pool.reserve(table, len(of.tokens))
    pool.write(table, of, len(of.tokens))
    pool.settle(table, of, before)
    return table


def hit(pool: BlockPool, of: TokenChain) -> int:
    return len(pool.lookup(of).blocks)


def test_full_blocks_of_a_prefix_are_found_and_never_the_whole_prompt() -> None:
    pool = BlockPool(8, B)
    table = evaluated(pool, chain(*range(10)))
    assert hit(pool, chain(*range(10))) == 2
    assert hit(pool, chain(*range(9))) == 2
    assert hit(pool, chain(*range(8))) == 1  # the last token must be evaluated
    assert hit(pool, chain(*range(4))) == 0
    assert hit(pool, chain(0, 1, 2, 3, 4, 5, 6, 99, 8, 9)) == 1
    assert hit(pool, chain(99, *range(1, 10))) == 0
    assert hit(pool, chain(*range(4, 10))) == 0  # equal tokens behind another beginning
    pool.check([table])


def test_a_shared_block_is_free_only_when_its_last_owner_has_left() -> None:
    pool = BlockPool(8, B)
    first, second = evaluated(pool, chain(*range(10))), evaluated(pool, chain(*range(9)))
    assert first.blocks[:2] == second.blocks[:2]
    assert pool.n_free == 8 - 4
    assert (pool.n_exclusive(first), pool.n_exclusive(second)) == (1, 1)
    pool.release(first)
    assert pool.n_free == 8 - 3
    pool.check([second])
    pool.release(second)
    assert pool.n_free == 8
    pool.check([])


def test_free_blocks_are_still_found_and_the_end_of_a_chain_is_reused_first() -> None:
    pool = BlockPool(4, B)
    pool.release(evaluated(pool, chain(*range(13))))  # three full blocks and one that is not
    assert (hit(pool, chain(*range(13))), pool.n_cached) == (3, 3)
    pool.reserve(BlockTable(), B)
    assert hit(pool, chain(*range(13))) == 3  # the block that holds nothing to find went first
    pool.reserve(BlockTable(), B)
    assert hit(pool, chain(*range(13))) == 2
    assert pool.lookup(chain(*range(13))).n_free == 2


def test_a_revived_block_leaves_the_middle_of_the_queue() -> None:
    pool = BlockPool(6, B)
    old = evaluated(pool, chain(*range(9)))
    new = evaluated(pool, chain(*range(20, 29)))
    pool.release(old)
    pool.release(new)
    revived = pool.open(pool.lookup(chain(*range(9))))
    pool.check([revived])
    rest = BlockTable()
    pool.reserve(rest, 4 * B)
    pool.check([revived, rest])
    assert hit(pool, chain(*range(9))) == 2
    assert hit(pool, chain(*range(20, 29))) == 0


def test_equal_blocks_of_one_step_become_one() -> None:
    pool = BlockPool(8, B)
    one, same = chain(*range(3)), chain(*range(3))
    tables = [evaluated(pool, each) for each in (one, same)]
    assert tables[0].blocks != tables[1].blocks
    for each, table in zip((one, same), tables, strict=True):
        each.tokens.append(3)
        pool.write(table, each, 4)
    for each, table in zip((one, same), tables, strict=True):
        pool.settle(table, each, 3)
    assert tables[0].blocks == tables[1].blocks
    assert pool.n_free == 7
    pool.check(tables)


def test_a_sequence_is_shared_in_the_step_that_evaluates_it() -> None:
    pool = BlockPool(8, B)
    leader = BlockTable()
    pool.reserve(leader, 10)
    pool.write(leader, chain(*range(10)), 10)
    follower = pool.open(pool.lookup(chain(*range(10))))
    assert follower.blocks == leader.blocks[:2]
    pool.check([leader, follower])


def test_equal_digests_of_different_tokens_are_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    class Constant:
        def __init__(self, *args: object, **options: object) -> None: ...

        def digest(self) -> bytes:
            return b"the same"

    monkeypatch.setattr(module.hashlib, "blake2b", Constant)
    pool = BlockPool(8, B)
    table = evaluated(pool, chain(*range(6)))
    assert hit(pool, chain(*range(6))) == 1
    other = evaluated(pool, chain(*range(10, 16)))
    assert hit(pool, chain(*range(10, 16))) == 0
    pool.check([table, other])


def test_dropped_content_is_not_found_and_used_blocks_keep_their_owners() -> None:
    pool = BlockPool(8, B)
    kept, gone = chain(*range(9)), chain(*range(20, 29))
    table = evaluated(pool, kept)
    pool.release(evaluated(pool, gone))
    pool.drop(gone)
    pool.drop(kept)
    assert (hit(pool, gone), hit(pool, kept)) == (0, 2)
    pool.drop_cache()
    assert hit(pool, kept) == 0
    pool.check([table])
    pool.release(table)
    assert (pool.n_free, pool.n_cached) == (8, 0)


def test_what_does_not_fit_takes_nothing() -> None:
    pool = BlockPool(3, B)
    table = BlockTable()
    with pytest.raises(ValueError, match="4 blocks are needed and 3 are free"):
        pool.reserve(table, 3 * B + 1)
    assert (table.blocks, pool.n_free) == ([], 3)
    with pytest.raises(ValueError, match="0 blocks of 4 tokens"):
        BlockPool(0, B)


def test_check_finds_a_lost_a_doubled_and_a_misnamed_block() -> None:
    def fresh() -> tuple[BlockPool, BlockTable]:
        pool = BlockPool(8, B)
        return pool, evaluated(pool, chain(*range(6)))

    pool, table = fresh()
    with pytest.raises(AssertionError, match="counted 1 times and held 0"):
        pool.check([])
    table.blocks.append(table.blocks[0])
    with pytest.raises(AssertionError, match="held 2"):
        pool.check([table])
    pool, table = fresh()
    pool._contents[table.blocks[0]] = None
    with pytest.raises(AssertionError, match="the index differs"):
        pool.check([table])


def test_ownership_holds_after_any_steps() -> None:
    rng = random.Random(0)
    pool = BlockPool(24, B)
    open_tables: list[tuple[BlockTable, TokenChain]] = []
    for _ in range(1500):
        if open_tables and rng.random() < 0.45:
            table, _ = open_tables.pop(rng.randrange(len(open_tables)))
            pool.release(table)
        elif open_tables and rng.random() < 0.5:
            table, tokens = rng.choice(open_tables)
            before = table.n_tokens
            tokens.tokens += [rng.randrange(2) for _ in range(rng.randrange(1, 6))]
            if pool.blocks_for(len(tokens.tokens)) - len(table.blocks) > pool.n_free:
                del tokens.tokens[before:]
                continue
            pool.reserve(table, len(tokens.tokens))
            pool.write(table, tokens, len(tokens.tokens))
            pool.settle(table, tokens, before)
        else:
            tokens = chain(*(rng.randrange(2) for _ in range(rng.randrange(1, 14))))
            found = pool.lookup(tokens)
            if pool.blocks_for(len(tokens.tokens)) - len(found.blocks) + found.n_free <= pool.n_free:
                open_tables.append((evaluated(pool, tokens), tokens))
        pool.check([table for table, _ in open_tables])
    for table, _ in open_tables:
        pool.release(table)
    pool.check([])
    assert pool.n_free == 24
