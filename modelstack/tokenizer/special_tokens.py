"""Special tokens, which no text can produce: ends of text, marks of turns, calls and thoughts, reserved tokens.

Reserved tokens have no meaning yet: post-training can use one as a new mark without adding a row to the embedding.
The chat template is built from the same marks, so training data, transformers' rendering and `chat.ChatFormat`
agree. It is ChatML with a tool's result inside its marks, and `{% generation %}` around the text that the model
generates (Hugging Face's convention for masks of assistant tokens).
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
"""Template text for the calls of a turn, with placeholders for the two marks."""


class SpecialTokens(BaseModel):
    """The special tokens of a vocabulary; None omits one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    begin_of_text: str | None = "<|begin_of_text|>"
    """Token before every text."""
    end_of_text: str = "<|end_of_text|>"
    """Token after every document; also used as padding."""
    turn: Pair | None = ("<|im_start|>", "<|im_end|>")
    """Tokens that open and close a turn of a conversation; None: there is no chat template."""
    tool_call: Pair | None = ("<tool_call>", "</tool_call>")
    """Tokens around a tool call."""
    tool_response: Pair | None = ("<tool_response>", "</tool_response>")
    """Tokens around a tool's result."""
    think: Pair | None = ("<think>", "</think>")
    """Tokens around reasoning."""
    n_reserved: int = Field(default=16, ge=0, le=4096)
    """Number of reserved tokens: `<|reserved_0|>` and so on."""

    @model_validator(mode="after")
    def _check_names(self) -> SpecialTokens:
        names = self.names()
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"special token {twice[0]!r} is named twice; every mark must have a different name")
        for name in names:
            if len(name) < 3 or name != name.strip() or not name.isprintable():
                raise ValueError(
                    f"special token {name!r} is too short, begins or ends with a blank, or is not printable; "
                    f"choose a name such as '<|name|>'"
                )
        return self

    def controls(self) -> tuple[str, ...]:
        """Return the marks that are removed from decoded text: ends of text and of turns."""
        return tuple(name for name in (self.begin_of_text, self.end_of_text, *(self.turn or ())) if name)

    def frames(self) -> tuple[str, ...]:
        """Return the marks that a parser of replies needs: tool calls, tool responses, thoughts."""
        return tuple(name for pair in (self.tool_call, self.tool_response, self.think) for name in pair or ())

    def reserved(self, n: int | None = None) -> tuple[str, ...]:
        """Return the names of `n` reserved tokens, by default `n_reserved`."""
        return tuple(f"<|reserved_{i}|>" for i in range(self.n_reserved if n is None else n))

    def names(self) -> tuple[str, ...]:
        """Return all names, in the order of their ids."""
        return (*self.controls(), *self.frames(), *self.reserved())

    def chat_template(self) -> str | None:
        """Return a Jinja template in ChatML with these marks; None without marks of turns.

        An assistant turn may have `tool_calls` as in OpenAI's API. The available tools are not rendered: the
        caller describes them in the system prompt.
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
    """Return `text` as a Jinja string literal."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
