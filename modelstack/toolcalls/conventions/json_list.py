"""The convention that modelstack teaches: a compact JSON list of calls, `[]` for none, or words.

It takes half the prompt tokens of JSON schemas, and an abstention can be scored. Its reader and its writer are in
`modelstack.toolcalls.convention`, for data and training as well. Journals and adapters record it under the key
"ours".
"""

from __future__ import annotations

from modelstack.toolcalls.convention import (
    ARGUMENTS_PREFIX,
    CALL_PREFIX,
    NOT_FIRST_IN_TEXT,
    RESULT_PREFIX,
    parse_response,
)
from modelstack.toolcalls.conventions.base import Convention
from modelstack.toolcalls.conventions.form import COMPACT, CallForm

JSON_LIST = Convention(
    name="ours",
    about="models that modelstack trained: a compact JSON list",
    form=CallForm(
        opening="[",
        name_prefix=CALL_PREFIX,
        name_suffix=ARGUMENTS_PREFIX,
        call_end="}",
        separator=",",
        closing="]",
        notation=COMPACT,
        abstention="[]",
        result_prefix=RESULT_PREFIX,
        not_first=NOT_FIRST_IN_TEXT,
        not_first_without_tools=NOT_FIRST_IN_TEXT,
    ),
    reader=parse_response,
)
