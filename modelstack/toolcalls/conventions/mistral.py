"""The form of Mistral's tokenizers v3 (7B v0.3, Nemo): `[TOOL_CALLS]` and a JSON list whose calls have ids.

Source: the chat templates of Mistral-7B-Instruct-v0.3 (a blank after the mark) and Mistral-Nemo-Instruct-2407 (no
blank). An id has nine letters or digits. All calls have the same id: results come in the order of the calls.
"""

from __future__ import annotations

from dataclasses import replace

from modelstack.toolcalls.conventions.base import CALL_ID, FENCES, Convention
from modelstack.toolcalls.conventions.form import SPACED, CallForm

MISTRAL = Convention(
    name="mistral",
    about="Mistral 7B v0.3: [TOOL_CALLS] and a JSON list",
    form=CallForm(
        opening="[TOOL_CALLS] [",
        name_prefix='{"name": "',
        name_suffix='", "arguments": ',
        call_end=f', "id": "{CALL_ID}"}}',
        separator=", ",
        closing="]",
        notation=SPACED,
        trigger="[TOOL_CALLS]",
        not_begun=FENCES,
    ),
    marks=("[TOOL_CALLS]",),
)
MISTRAL_NEMO = replace(
    MISTRAL,
    name="mistral-nemo",
    about="Mistral Nemo: [TOOL_CALLS] and a JSON list, without a blank between",
    form=replace(MISTRAL.form, opening="[TOOL_CALLS]["),
)
