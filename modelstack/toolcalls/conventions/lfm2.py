"""The form of LFM2: a list of Python calls between `<|tool_call_start|>` and `<|tool_call_end|>`.

Source: the model cards and chat templates of LFM2 and LFM2.5. The templates differ:
- LFM2: leave the writing of calls in history to the caller;
- LFM2.5: texts between double quotes, lists as Python prints them;
- LFM2.5-8B-A1B: both with single quotes;
- LFM2.5-2.6B: texts with single quotes, lists as JSON.
"""

from __future__ import annotations

from modelstack.toolcalls.conventions.base import FENCES, Convention
from modelstack.toolcalls.conventions.form import SPACED, CallForm
from modelstack.toolcalls.conventions.parameters import ParameterForm, TextForm

_SINGLE = TextForm("'", "'")
_MARKS = ("<|tool_call_start|>", "<|tool_call_end|>")


def _form(text: TextForm, text_in_list: TextForm | None) -> CallForm:
    return CallForm(
        opening=f"{_MARKS[0]}[",
        name_prefix="",
        name_suffix="(",
        call_end="",
        separator=", ",
        closing=f"]{_MARKS[1]}",
        notation=SPACED,
        parameters=ParameterForm(
            key_suffix="=", separator=", ", closing=")", text=text, text_in_list=text_in_list
        ),
        trigger=_MARKS[0],
        not_begun=FENCES,
    )


LFM2 = Convention(
    name="lfm2",
    about="LFM2 and LFM2.5: a list of Python calls",
    form=_form(TextForm(), _SINGLE),
    marks=_MARKS,
    behind_words="",
    template_form=_form(TextForm(is_raw=True, escaped=""), _SINGLE),
    told_by=("<|tool_list_start|>",),
)
LFM2_SINGLE = Convention(
    name="lfm2-single",
    about="LFM2.5-8B-A1B: a list of Python calls with single quotes",
    form=_form(_SINGLE, _SINGLE),
    marks=_MARKS,
    behind_words="",
    template_form=_form(TextForm("'", "'", is_raw=True, escaped=""), _SINGLE),
)
LFM2_JSON_LISTS = Convention(
    name="lfm2-json-lists",
    about="LFM2.5-2.6B: a list of Python calls with single quotes, lists as JSON",
    form=_form(_SINGLE, None),
    marks=_MARKS,
    behind_words="",
    template_form=_form(TextForm("'", "'", is_raw=True, escaped="\\'\n\r"), None),
)
