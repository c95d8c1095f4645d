"""The stock of a shop: count and price of each item."""

from __future__ import annotations

import random
from typing import Any

from modelstack.reasoning.worlds.world import DONE, Refused, State, World, row_of, table_of, tool

ITEMS = (
    "lamps", "chairs", "mugs", "pens", "rugs", "plates", "clocks", "bowls", "shelves", "candles", "pillows",
    "mirrors", "baskets", "vases", "blankets", "desks",
)  # fmt: skip
_COUNT = {"type": "integer", "minimum": 1}


def _add(state: State, item: str, count: int) -> str:
    row_of(state["items"], item)["count"] += count
    return DONE


def _remove(state: State, item: str, count: int) -> str:
    row = row_of(state["items"], item)
    if row["count"] < count:
        raise Refused(f"there are {row['count']} {item} only")
    row["count"] -= count
    return DONE


def _price(state: State, item: str, price: int) -> str:
    row_of(state["items"], item)["price"] = price
    return DONE


def _look(state: State, item: str) -> Any:
    return {"item": item, **row_of(state["items"], item)}


def _start(chance: random.Random) -> State:
    items = chance.sample(ITEMS, 4)
    return {"items": {item: {"count": chance.randint(20, 60), "price": chance.randint(5, 90)} for item in items}}


SHOP = World(
    "shop",
    (
        tool("add_stock", "Add pieces of an item that came in", _add, item="string", count=_COUNT),
        tool("remove_stock", "Take pieces of an item out, sold or broken", _remove, item="string", count=_COUNT),
        tool("set_price", "Set what one piece of an item costs", _price, item="string", price=_COUNT),
        tool("item_info", "Say how many pieces of an item there are and what one costs", _look, item="string"),
    ),
    {
        "type": "object",
        "properties": {"items": table_of({"count": {"type": "integer"}, "price": {"type": "integer"}})},
        "required": ["items"],
        "additionalProperties": False,
    },
    _start,
)
