"""The conventions in which models were taught to call tools: one file each, one line here each."""

from modelstack.toolcalls.conventions.base import Convention
from modelstack.toolcalls.conventions.hermes import HERMES
from modelstack.toolcalls.conventions.ours import OURS

CONVENTIONS: dict[str, Convention] = {convention.name: convention for convention in (OURS, HERMES)}

__all__ = ["CONVENTIONS", "OURS", "Convention"]
