"""The form of FunctionGemma and Gemma 4: a call between special tokens, with unquoted argument names.

    call:NAME{city:<escape>Rome<escape>,days:3,where:{lat:1.5,tags:[<escape>a<escape>]}}

A text is written without escapes between two special tokens, and names are sorted. Results follow the calls in the
same turn, so a reply of calls ends with the token that opens a result.

Sources: the chat templates of functiongemma-270m-it, gemma-4-31B-it and gemma-4-E2B-it (July 2026), the formatting
guide of FunctionGemma, and the parser of LiteRT-LM, which spells null as JSON does.
"""

from __future__ import annotations

from modelstack.toolcalls.conventions.base import FENCES, Convention
from modelstack.toolcalls.conventions.form import CallForm
from modelstack.toolcalls.conventions.parameters import ParameterForm, TextForm
from modelstack.toolcalls.conventions.results import ResultForm

_FUNCTION_MARKS = ("<start_function_call>", "<end_function_call>", "<escape>")
_GEMMA4_MARKS = ("<|tool_call>", "<tool_call|>", '<|"|>')


def _form(begin: str, end: str, delimiter: str) -> CallForm:
    text = TextForm(delimiter, delimiter, is_raw=True)
    return CallForm(
        opening=f"{begin}call:",
        name_prefix="",
        name_suffix="{",
        call_end="",
        separator=f"{end}{begin}call:",
        closing=end,
        parameters=ParameterForm(
            key_suffix=":",
            separator=",",
            closing="}",
            text=text,
            words=("null", "true", "false"),
            text_in_list=text,
            comma=",",
            object_opening="{",
            is_sorted=True,
        ),
        trigger=begin,
        not_begun=FENCES,
    )


def _result(delimiter: str) -> ResultForm:
    return ResultForm(opening="response:", behind_name=f"{{value:{delimiter}", closing=f"{delimiter}}}")


FUNCTIONGEMMA = Convention(
    name="functiongemma",
    about="FunctionGemma: call:NAME{...} between <start_function_call> and <end_function_call>",
    form=_form(*_FUNCTION_MARKS),
    marks=_FUNCTION_MARKS,
    behind_words="",
    results=(_result(_FUNCTION_MARKS[2]),),
    before_tools="You are a model that can do function calling with the following functions",
    ends=("<start_function_response>",),
)
GEMMA4 = Convention(
    name="gemma4",
    about="Gemma 4: call:NAME{...} between <|tool_call> and <tool_call|>",
    form=_form(*_GEMMA4_MARKS),
    marks=_GEMMA4_MARKS,
    behind_words="",
    results=(_result(_GEMMA4_MARKS[2]), ResultForm()),
    ends=("<|tool_response>",),
    thought_marks=("<|channel>thought\n", "<channel|>"),
    after_thought="",
)
