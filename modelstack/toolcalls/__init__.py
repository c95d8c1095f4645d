"""Step 11: the conventions in which models call tools, and the grammars that enforce them. Torch-free."""

from modelstack.toolcalls.convention import (
    ParsedResponse,
    ResponseFormat,
    ResponseParseError,
    ToolSpec,
    parse_response,
    render_answer,
    render_calls,
)
from modelstack.toolcalls.grammar.compiler import CompiledGrammar, GrammarCompiler
from modelstack.toolcalls.grammar.coverage import Coverage, KeywordUse, UnsupportedSchemaError
from modelstack.toolcalls.prior.choice import NO_TOOL, ToolChoice, tool_choices
from modelstack.toolcalls.signatures import render_tool, render_tools

__all__ = [
    "NO_TOOL",
    "CompiledGrammar",
    "Coverage",
    "GrammarCompiler",
    "KeywordUse",
    "ParsedResponse",
    "ResponseFormat",
    "ResponseParseError",
    "ToolChoice",
    "ToolSpec",
    "UnsupportedSchemaError",
    "parse_response",
    "render_answer",
    "render_calls",
    "render_tool",
    "render_tools",
    "tool_choices",
]
