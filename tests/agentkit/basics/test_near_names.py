"""Suggestions stay cheap, whatever a model or a server writes."""

from __future__ import annotations

from agentkit.basics.near_names import near_names


def test_the_nearest_names_come_first() -> None:
    assert near_names("serch", ["fetch", "search", "read"]) == ["search"]
    assert near_names("xyz", ["search"]) == []
    assert near_names("reads", ["read", "reader", "write"], n=2) == ["read", "reader"]


def test_names_of_any_length_and_number_are_no_load() -> None:
    # Quadratic comparing would take hours.
    assert near_names("ab" * 500_000, ["ab" * 400_000, "ab"]) == []
    assert near_names("ab", ["ba" * 500_000] * 50 + ["abc"]) == ["abc"]
    assert near_names("a1", (f"{n:06}" for n in range(10**7))) == []
