"""Realistic databases: more columns than a question needs, and unrelated tables."""

from __future__ import annotations

from dataclasses import replace

from agentkit.specialise.demonstrations.domains import DOMAINS, Column, Domain, Table
from modelstack.data.tools.spoken import Scene

_MAX_MORE_COLUMNS = 6
_P_WIDE, _P_MORE_TABLES = 0.6, 0.4


def _word(name: str, *words: str) -> Column:
    return Column(name, name.replace("_", " "), "word", words=words)


_MORE_COLUMNS: tuple[Column, ...] = (
    _word("status", "open", "closed", "waiting", "done"),
    _word("colour", "red", "green", "blue", "grey"),
    _word("country", "Austria", "Norway", "Portugal", "Ghana"),
    _word("priority", "low", "normal", "high"),
    _word("currency", "EUR", "USD", "GBP"),
    _word("source", "website", "phone", "letter"),
    _word("remark", "checked", "to be checked", "incomplete", "urgent"),
    _word("is_public", "yes", "no"),
    _word("language_code", "en", "de", "fr", "es"),
    _word("owner", "Amira", "Boris", "Celia", "Denis"),
    Column("rating", "rating", "number", 1, 6),
    Column("discount", "discount", "number", 0, 40),
    Column("quantity", "quantity", "number", 1, 90),
    Column("shelf_number", "shelf number", "number", 1, 400),
    Column("length_cm", "length", "number", 3, 500),
    Column("likes", "likes", "number", 0, 900),
    Column("updated_on", "last update", "date"),
    Column("registered", "registration date", "date"),
    Column("checked_on", "date of the last check", "date"),
)


def widened(domain: Domain, now: Scene) -> Domain:
    """Return a domain whose tables have further columns at their end."""
    if not now.chance(_P_WIDE):
        return domain
    parent, child = domain.tables
    taken = {column.name for table in domain.tables for column in table.columns}
    stock = now.some([column for column in _MORE_COLUMNS if column.name not in taken], 2 * _MAX_MORE_COLUMNS)
    n_parent, n_child = (now.random.randrange(_MAX_MORE_COLUMNS + 1) for _ in range(2))
    return replace(
        domain,
        tables=(
            replace(parent, columns=(*parent.columns, *stock[:n_parent])),
            replace(child, columns=(*child.columns, *stock[_MAX_MORE_COLUMNS : _MAX_MORE_COLUMNS + n_child])),
        ),
    )


def further_tables(domain: Domain, now: Scene) -> tuple[Table, ...]:
    """Return tables of other domains to add to those of `domain`; their rows do not matter."""
    if not now.chance(_P_MORE_TABLES):
        return ()
    taken = {table.name for table in domain.tables}
    others = [other.tables[0] for other in DOMAINS if other.tables[0].name not in taken]
    return tuple(now.some(others, now.one((1, 1, 2, 3))))
