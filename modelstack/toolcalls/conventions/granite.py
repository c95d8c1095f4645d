"""The form of Granite 3: `<|tool_call|>` and a JSON list.

Source: the system prompt in the chat templates of Granite 3.1 to 3.3. They describe the form and leave the writing
of calls in history to the caller. Granite 4 uses the form of Hermes.
"""

from __future__ import annotations

from modelstack.toolcalls.conventions.base import FENCES, Convention
from modelstack.toolcalls.conventions.form import SPACED, CallForm

GRANITE = Convention(
    name="granite",
    about="Granite 3: <|tool_call|> and a JSON list",
    form=CallForm(
        opening="<|tool_call|>[",
        name_prefix='{"name": "',
        name_suffix='", "arguments": ',
        call_end="}",
        separator=", ",
        closing="]",
        notation=SPACED,
        trigger="<|tool_call|>",
        not_begun=FENCES,
    ),
    marks=("<|tool_call|>",),
)
