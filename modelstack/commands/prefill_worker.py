"""Program of the process that reads prompts for `modelstack serve --prefill-process`; not a command for users.

    python -m modelstack.commands.prefill_worker SETTINGS

SETTINGS are those of `torch_engines.prefill_process`, as JSON.
"""

from __future__ import annotations

import json
import shutil
import sys


def main() -> None:
    """Load the model of the settings and answer until the input ends."""
    from modelstack.commands.torch_engines import Numbers, load_torch_base, torch_engine
    from modelstack.inference.state_store import StateStore
    from modelstack.inference.torch.prompt_reader import answer_prompts, protocol_streams
    from modelstack.train.process import set_up_process

    settings = json.loads(sys.argv[1])
    with protocol_streams() as (lines, answers):
        set_up_process(settings["threads"])
        precision = None if settings["precision"] is None else Numbers(settings["precision"])
        engine = torch_engine(
            load_torch_base(settings["source"], None, precision),
            precision,
            context_window=settings["context_window"],
            store=StateStore(settings["folder"], settings["max_bytes"]),
            stores_conversations=True,
        )
        try:
            with engine:
                answer_prompts(engine, lines, answers)
        finally:  # the other process may have been killed
            shutil.rmtree(settings["folder"], ignore_errors=True)


if __name__ == "__main__":
    main()
