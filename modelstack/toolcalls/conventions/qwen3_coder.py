"""The form of Qwen3-Coder and Qwen3.5: tags for the function and for each parameter.

Source: the chat templates of Qwen3-Coder-30B-A3B-Instruct. Texts are written between the tags without escapes, and
so are numbers. `True` and `None` are spelled as in Python, lists and objects are JSON.
"""

from __future__ import annotations

from modelstack.toolcalls.conventions.base import FENCES, Convention
from modelstack.toolcalls.conventions.form import SPACED, CallForm
from modelstack.toolcalls.conventions.parameters import ParameterForm, TextForm

_END = "\n</parameter>\n"
QWEN3_CODER = Convention(
    name="qwen3-coder",
    about="Qwen3-Coder and Qwen3.5: tags for the function and each parameter",
    form=CallForm(
        opening="<tool_call>\n",
        name_prefix="<function=",
        name_suffix=">\n",
        call_end="",
        separator="\n</tool_call>\n<tool_call>\n",
        closing="\n</tool_call>",
        trailing="\n",
        notation=SPACED,
        parameters=ParameterForm(
            key_prefix="<parameter=",
            key_suffix=">\n",
            separator="",
            closing="</function>",
            text=TextForm(opening="", closing=_END, is_raw=True),
            value_end=_END,
        ),
        trigger="<tool_call>",
        not_begun=FENCES,
    ),
    marks=("<tool_call>", "</tool_call>"),
)
