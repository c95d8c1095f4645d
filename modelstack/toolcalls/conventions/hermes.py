"""The form of Hermes, Qwen2.5, Qwen3 and many others: JSON between `<tool_call>` tags.

Source: the format of NousResearch/Hermes-Function-Calling. The chat templates of Qwen2.5 and Qwen3 write calls in
the same way, several calls in sequence.
"""

from __future__ import annotations

from modelstack.toolcalls.conventions.base import FENCES, Convention
from modelstack.toolcalls.conventions.form import SPACED, CallForm

HERMES = Convention(
    name="hermes",
    about="Hermes, Qwen2.5 and Qwen3: JSON between <tool_call> tags",
    form=CallForm(
        opening="<tool_call>\n",
        name_prefix='{"name": "',
        name_suffix='", "arguments": ',
        call_end="}",
        separator="\n</tool_call>\n<tool_call>\n",
        closing="\n</tool_call>",
        trailing="\n",
        notation=SPACED,
        trigger="<tool_call>",
        not_begun=FENCES,
    ),
    marks=("<tool_call>", "</tool_call>"),
)
