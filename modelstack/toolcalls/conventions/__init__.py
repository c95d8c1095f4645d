"""The conventions in which models were taught to call tools, one file and one line of this table each.

The order matters: a model gets the first convention that its chat template writes calls in.
"""

from modelstack.toolcalls.conventions.base import Convention
from modelstack.toolcalls.conventions.deepseek import DEEPSEEK
from modelstack.toolcalls.conventions.gemma import FUNCTIONGEMMA, GEMMA4
from modelstack.toolcalls.conventions.granite import GRANITE
from modelstack.toolcalls.conventions.hermes import HERMES
from modelstack.toolcalls.conventions.json_list import JSON_LIST
from modelstack.toolcalls.conventions.lfm2 import LFM2, LFM2_JSON_LISTS, LFM2_SINGLE
from modelstack.toolcalls.conventions.llama3 import LLAMA3
from modelstack.toolcalls.conventions.mistral import MISTRAL, MISTRAL_NEMO
from modelstack.toolcalls.conventions.qwen3_coder import QWEN3_CODER

CONVENTIONS: dict[str, Convention] = {
    convention.name: convention
    for convention in (
        JSON_LIST,
        HERMES,
        QWEN3_CODER,
        LFM2,
        LFM2_SINGLE,
        LFM2_JSON_LISTS,
        MISTRAL,
        MISTRAL_NEMO,
        GRANITE,
        DEEPSEEK,
        FUNCTIONGEMMA,
        GEMMA4,
        LLAMA3,
    )
}

__all__ = ["CONVENTIONS", "JSON_LIST", "Convention"]
