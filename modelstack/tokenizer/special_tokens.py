"""Tokens that no text can produce: ends of text, marks of turns, of tool calls and of thoughts, and spares.

Spares are names without a meaning yet: a mark that post-training needs takes one, and no row of the embedding has
to be added. The chat template is written from the same marks, so that what a model is trained on, what
transformers renders and what `chat.ChatFormat` learns are one thing: ChatML, a tool's result inside its marks, and
`{% generation %}` around what the model is to write (Hugging Face's convention for masks of assistant tokens).
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

Pair = tuple[str, str]
_CALLS = (
    "{{%- for call in message.tool_calls or [] -%}}{{%- set called = call.function or call -%}}"
    "{{{{- {0} + '{{\"name\":' + called.name|tojson + ',\"arguments\":' -}}}}"
    "{{{{- (called.arguments if called.arguments is string else called.arguments|tojson) + '}}' + {1} -}}}}"
    "{{%- endfor -%}}"
)
"""Template text for the calls of a turn, with the two marks left open."""


class SpecialTokens(BaseModel):
    """The marks of a vocabulary; None leaves one out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    begin_of_text: str | None = "<|begin_of_text|>"
    """Goes before every text."""
    end_of_text: str = "<|end_of_text|>"
    """Goes behind every document; also what a batch is padded with."""
    turn: Pair | None = ("<|im_start|>", "<|im_end|>")
    """Open and close a turn of a conversation; without them no chat template is written."""
    tool_call: Pair | None = ("<tool_call>", "</tool_call>")
    tool_response: Pair | None = ("<tool_response>", "</tool_response>")
    think: Pair | None = ("<think>", "</think>")
    n_reserved: int = Field(default=16, ge=0, le=4096)
    """Spares: `<|reserved_0|>` and so on."""

    @model_validator(mode="after")
    def _check_names(self) -> SpecialTokens:
        names = self.names()
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"special token {twice[0]!r} is named twice; every mark needs a name of its own")
        for name in names:
            if len(name) < 3 or name != name.strip() or not name.isprintable():
                raise ValueError(
                    f"special token {name!r} is too short, begins or ends with a blank, or cannot be printed; "
                    f"choose a name such as '<|name|>'"
                )
        return self

    def controls(self) -> tuple[str, ...]:
        """Return the marks that are left out of decoded text: ends of text and of turns."""
        return tuple(name for name in (self.begin_of_text, self.end_of_text, *(self.turn or ())) if name)

    def frames(self) -> tuple[str, ...]:
        """Return the marks that a reader of a reply looks for: tool calls, tool responses, thoughts."""
        return tuple(name for pair in (self.tool_call, self.tool_response, self.think) for name in pair or ())

    def reserved(self, n: int | None = None) -> tuple[str, ...]:
        """Return the names of `n` spares, by default as many as are asked for."""
        return tuple(f"<|reserved_{i}|>" for i in range(self.n_reserved if n is None else n))

    def names(self) -> tuple[str, ...]:
        """Return all names, in the order of their ids."""
        return (*self.controls(), *self.frames(), *self.reserved())

    def chat_template(self) -> str | None:
        """Return a Jinja template in ChatML with these marks; None where turns have none.

        An assistant turn may carry `tool_calls` as OpenAI's API has them. The tools on offer are not rendered:
        their text belongs to the system prompt, which the caller writes.
        """
        if self.turn is None:
            return None
        start, end = map(_quoted, self.turn)
        before, behind = self.tool_response or ("", "")
        result = f"{_quoted(before)} + message.content + {_quoted(behind)} + {end}"
        return (
            ("{{- bos_token -}}" if self.begin_of_text else "")
            + "{%- for message in messages -%}"
            + f"{{{{- {start} + message.role + '\\n' -}}}}"
            + "{%- if message.role == 'assistant' -%}{%- generation -%}{{- message.content or '' -}}"
            + (_CALLS.format(*map(_quoted, self.tool_call)) if self.tool_call else "")
            + f"{{{{- {end} -}}}}{{%- endgeneration -%}}"
            + f"{{%- elif message.role == 'tool' -%}}{{{{- {result} -}}}}"
            + f"{{%- else -%}}{{{{- message.content + {end} -}}}}{{%- endif -%}}"
            + "{{- '\\n' -}}{%- endfor -%}"
            + f"{{%- if add_generation_prompt -%}}{{{{- {start} + 'assistant\\n' -}}}}{{%- endif -%}}"
        )


def _quoted(text: str) -> str:
    """Return `text` as a string of Jinja."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
