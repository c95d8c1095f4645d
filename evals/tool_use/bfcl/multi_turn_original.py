"""Script that runs the original multi-turn checker in its own process; no module imports it.

    python -P multi_turn_original.py FOLDER_OF_THE_UNPACKED_WHEEL < items.jsonl > verdicts.jsonl

An item is `{"entry": {...}, "turns": [[calls as text]], "truth": [[calls as text]]}`; every call is its own step.
A verdict is `{"valid", "error_type", "keeps_still"}`. The checker evaluates the calls' text as Python, so it must
only get answers made from the key.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Read items from standard input and write verdicts to standard output."""
    sys.path.insert(0, sys.argv[1])
    from bfcl_eval.eval_checker.multi_turn_eval import (  # pyright: ignore[reportMissingImports]
        multi_turn_checker,
        multi_turn_utils,
    )

    for number, line in enumerate(sys.stdin):
        item = json.loads(line)
        entry, truth = item["entry"], item["truth"]
        turns = [[[call] for call in turn] for turn in item["turns"]]
        found = multi_turn_checker.multi_turn_checker(
            turns, truth, entry, entry["id"].rsplit("_", 1)[0], f"n{number}"
        )
        still = multi_turn_checker.multi_turn_irrelevance_checker(turns, truth)
        verdict = {
            "valid": found["valid"],
            "error_type": found.get("error_type"),
            "keeps_still": still["valid"],
        }
        print(json.dumps(verdict), flush=True)
        # The original keeps the objects of every run in its module's globals, under a name made of model and case.
        for name in [name for name in vars(multi_turn_utils) if name.endswith("_instance")]:
            del vars(multi_turn_utils)[name]


if __name__ == "__main__":
    main()
