"""Read a note as a value of a type: the model cannot write anything but JSON that fits the type.

`python typed_answer.py`, or with another model: `python typed_answer.py local:small`.
"""

import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from agentkit import Agent

NOTE = Path(__file__).parent / "notes" / "trip.md"


class Trip(BaseModel):
    """A trip."""

    destination: str
    first_month: Literal["May", "June", "July"]
    nights: int
    travellers: list[str]


agent = Agent(sys.argv[1] if len(sys.argv) > 1 else "local", output_type=Trip)
trip = agent.run_sync(f"Which trip does this note describe?\n\n{NOTE.read_text(encoding='utf-8')}").output
print(repr(trip))
assert isinstance(trip, Trip)
