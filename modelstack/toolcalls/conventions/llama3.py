"""The form of Llama 3.1 and 3.2 for custom tools: a bare JSON object with `parameters`, one call per reply.

Source: the chat templates of Llama-3.1-8B-Instruct and Llama-3.2-3B-Instruct, which refuse several calls. They
write a result as JSON, since a text is iterable in Jinja; vLLM's variant of the template puts it in an object.
"""

from __future__ import annotations

from modelstack.toolcalls.conventions.base import FENCES, Convention
from modelstack.toolcalls.conventions.form import SPACED, CallForm
from modelstack.toolcalls.conventions.results import ResultForm

LLAMA3 = Convention(
    name="llama3",
    about="Llama 3.1 and 3.2: a bare JSON object, one call a reply",
    form=CallForm(
        opening='{"name": "',
        name_prefix="",
        name_suffix='", "parameters": ',
        call_end="",
        separator="; ",
        closing="}",
        notation=SPACED,
        most_calls=1,
        not_begun=FENCES,
    ),
    results=(ResultForm(is_json=True), ResultForm(opening='{"output": ', closing="}", is_json=True)),
)
