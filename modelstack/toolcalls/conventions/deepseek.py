"""The form of DeepSeek V3 and R1: marks around the name, and the arguments as a code block.

Source: the chat templates of DeepSeek-V3 and DeepSeek-R1. Not used with templates that show no tools.
"""

from __future__ import annotations

from modelstack.toolcalls.conventions.base import FENCES, Convention
from modelstack.toolcalls.conventions.form import SPACED, CallForm

DEEPSEEK = Convention(
    name="deepseek",
    about="DeepSeek V3 and R1: marks around the name, the arguments as a block of code",
    form=CallForm(
        opening="<｜tool▁calls▁begin｜>",
        name_prefix="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        name_suffix="\n```json\n",
        call_end="\n```<｜tool▁call▁end｜>",
        separator="\n",
        closing="<｜tool▁calls▁end｜>",
        notation=SPACED,
        trigger="<｜tool▁calls▁begin｜>",
        not_begun=FENCES,
    ),
    marks=(
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
    ),
)
