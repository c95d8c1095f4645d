"""Compilation of a reply format to a grammar that enforces it; the only entry point to both engines.

Compiling normalises each schema, decides which keywords the engine can enforce (`coverage`), and builds the
engine's grammar and the recogniser's shapes. Results are cached: a format is compiled once per vocabulary and
engine, even if tools come and go between turns.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, Protocol, get_args

from modelstack.errors import UserError
from modelstack.inference.grammar import Grammar
from modelstack.nesting import is_nested_deeper
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls.convention import ParsedResponse, ResponseFormat, ResponseParseError
from modelstack.toolcalls.conventions import JSON_LIST, Convention
from modelstack.toolcalls.conventions.form import CallForm
from modelstack.toolcalls.grammar.coverage import (
    Coverage,
    EngineName,
    KeywordUse,
    UnsupportedSchemaError,
    keywords,
    unenforced_formats,
    unsupported,
    without,
)
from modelstack.toolcalls.grammar.dialects import modernise
from modelstack.toolcalls.grammar.pointers import SchemaReferenceError
from modelstack.toolcalls.grammar.schemas import MergeError, normalise
from modelstack.toolcalls.grammar.shape_builder import ShapeBuilder
from modelstack.toolcalls.grammar.shapes import UNREACHABLE, Calls, LargestSteps, Response, Tagged
from modelstack.toolcalls.grammar.tokens import TokenTable
from modelstack.toolcalls.grammar.tracking import EngineState, TrackedGrammar
from modelstack.toolcalls.grammar.validation import SchemaValidator, check_schema
from modelstack.toolcalls.marks import Marks

UnsupportedPolicy = Literal["refuse", "check"]
DEFAULT_CACHE_SIZE = 64
"""Number of compiled formats kept; each takes 0.1 to 3 MB."""
MAX_SCHEMA_DEPTH = 100
"""Maximum number of lists and dicts of a schema inside each other; llguidance's parser of JSON stops at 128."""
_SUSPECTS = (
    "pattern",
    "patternProperties",
    "minProperties",
    "maxProperties",
    "multipleOf",
    "oneOf",
    "format",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "required",
    "enum",
    "allOf",
    "additionalProperties",
)
"""Keywords that llguidance enforces in most combinations; tried in this order when it refuses a schema."""


class Template(Protocol):
    """An engine's compiled grammar."""

    def start(self) -> EngineState:
        """Return the state at the start of a reply."""
        ...


@dataclass(frozen=True, slots=True)
class CompiledGrammar:
    """A compiled format, ready to constrain generations."""

    format: ResponseFormat
    convention: Convention
    coverage: Coverage
    _template: Template = field(repr=False)
    _tokens: TokenTable = field(repr=False)
    _response: Response = field(repr=False)
    _steps: LargestSteps = field(repr=False)
    _validators: Mapping[str, SchemaValidator] = field(repr=False)
    """Validators by tool name; the empty name is the answer's."""

    def start(self) -> Grammar:
        """Return the grammar state of a new generation."""
        return self.start_tracked()

    def start_behind(self, given: Sequence[int]) -> Grammar:
        """Return the grammar state behind the tokens of a reply's beginning.

        Raises:
            GrammarError: The format has no reply with this beginning.
        """
        grammar = self.start()
        for token in given:
            grammar.advance(token)
        return grammar

    def start_tracked(self) -> TrackedGrammar:
        """Return the grammar state of a new generation with its concrete type."""
        return TrackedGrammar(self._template.start(), self._tokens, self._response, self._steps)

    def violations(self, parsed: ParsedResponse) -> list[str]:
        """Return the violations of the original schemas in closed form.

        All keywords count, including those that the masks do not enforce.
        """
        if parsed.kind == "structured":
            return [f"answer{text}" for text in self._validators[""].errors(parsed.answer)]
        found = []
        for i, (name, arguments) in enumerate(parsed.calls):
            validator = self._validators.get(name)
            if validator is None:
                found.append(f"call {i + 1}: there is no tool {name!r}")
            else:
                found += [f"call {i + 1} ({name}){text}" for text in validator.errors_in_json(arguments)]
        return found

    def parse(self, text: str) -> ParsedResponse:
        """Read a reply in this format.

        Raises:
            ResponseParseError: the reply does not follow the format.
        """
        return self.convention.parse(text, self.format)


def text_grammar(vocabulary: Vocabulary, convention: Convention = JSON_LIST) -> CompiledGrammar:
    """Return the grammar of a reply without tools: text that no call begins.

    Raises:
        UserError: The vocabulary lacks single characters, so that it cannot be masked.
    """
    try:
        return GrammarCompiler(vocabulary, convention=convention).compile(ResponseFormat())
    except ValueError as error:
        raise UserError(f"the model's tokenizer cannot be masked: {error}") from error


class GrammarCompiler:
    """Compiles formats for one vocabulary and engine. Not thread-safe; compiled grammars may be shared."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        engine: EngineName = "llguidance",
        unsupported: UnsupportedPolicy = "refuse",
        *,
        convention: Convention = JSON_LIST,
        cache_size: int = DEFAULT_CACHE_SIZE,
    ) -> None:
        """Prepare the vocabulary for an engine; imports the engine.

        Raises:
            ValueError: engine or policy is unknown, or the vocabulary lacks single characters.
        """
        if engine not in get_args(EngineName):
            raise ValueError(f"engine {engine!r} is not known; choose one of {get_args(EngineName)}")
        if unsupported not in get_args(UnsupportedPolicy):
            raise ValueError(
                f"unsupported={unsupported!r} is not known; choose one of {get_args(UnsupportedPolicy)}"
            )
        self.vocabulary = vocabulary
        self.engine: EngineName = engine
        self.unsupported: UnsupportedPolicy = unsupported
        self._cache_size = cache_size
        self._cache: OrderedDict[str, CompiledGrammar] = OrderedDict()
        self.convention = convention
        self._tokens = TokenTable(vocabulary, Marks(vocabulary, convention.marks))
        self._tokens.beginning("[")  # builds the index now, so that the first reply does not wait for it
        self._form = convention.form.bound(self._tokens.marks)
        self._backend = _backend(engine, self._tokens)

    def compile(self, response_format: ResponseFormat) -> CompiledGrammar:
        """Return the grammar of `response_format`, from the cache if possible.

        Raises:
            UnsupportedSchemaError: a schema is invalid or remote, or has a keyword that the engine cannot enforce.
        """
        key = self.cache_key(response_format)
        found = self._cache.get(key)
        if found is not None:
            self._cache.move_to_end(key)
            return found
        compiled = self._compile(response_format)
        self._cache[key] = compiled
        if len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return compiled

    def cache_key(self, response_format: ResponseFormat) -> str:
        """Return the SHA-256 of everything that determines a grammar; it is also part of a replay's key."""
        parts = (response_format.fingerprint(), self.vocabulary.fingerprint, self.engine, self.unsupported)
        if self.convention is not JSON_LIST:
            parts = (*parts, self.convention.name)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _compile(self, response_format: ResponseFormat) -> CompiledGrammar:
        work = _Work(self.engine, self.unsupported, self._backend, self._form)
        schemas = {tool.name: work.add(tool.parameters, tool.name) for tool in response_format.tools}
        answer = response_format.answer_schema
        enforced_answer = None if answer is None else work.add(answer, "")
        builder = ShapeBuilder(
            self._tokens.price,
            ordered=self.engine == "llguidance",
            notation=self._form.notation,
            max_digits=response_format.max_digits,
        )
        response = builder.response(response_format, self._form, schemas, enforced_answer)
        if self.engine != "llguidance":  # llguidance refuses contradictions itself, and detects more of them
            _refuse_empty(response, self._form, self.engine)
        template = self._backend.template(response_format, self._form, schemas, enforced_answer, response)
        return CompiledGrammar(
            response_format,
            self.convention,
            Coverage(self.engine, tuple(work.enforced), tuple(work.checked), tuple(work.annotations)),
            template,
            self._tokens,
            response,
            builder.largest_steps(),
            work.validators,
        )


class Backend(Protocol):
    """The interface of an engine for the compiler."""

    def schema_error(self, schema: Any, form: CallForm | None) -> str:
        """Return the reason why a normalised schema cannot be enforced; empty if it can.

        Args:
            schema: Schema of an answer or of arguments.
            form: How the arguments are written; None for an answer.
        """
        ...

    def template(
        self,
        response_format: ResponseFormat,
        form: CallForm,
        schemas: Mapping[str, Any],
        answer: Any | None,
        response: Response,
    ) -> Template:
        """Compile the grammar of a reply."""
        ...


class _Work:
    """Collects coverage and validators while the schemas of one format are prepared."""

    def __init__(self, engine: EngineName, policy: UnsupportedPolicy, backend: Backend, form: CallForm) -> None:
        """Start without schemas."""
        self.engine: EngineName = engine
        self.policy = policy
        self.backend = backend
        self.form = form
        self.enforced: list[KeywordUse] = []
        self.checked: list[KeywordUse] = []
        self.annotations: list[KeywordUse] = []
        self.validators: dict[str, SchemaValidator] = {}

    def add(self, schema: Any, tool: str) -> Any:
        """Return the normalised schema that the engine will enforce."""
        if is_nested_deeper(schema, MAX_SCHEMA_DEPTH):
            self._refuse("schema", "", f"it is nested more than {MAX_SCHEMA_DEPTH} levels deep", tool)
        try:
            normal = self._added(schema, tool)
            parameters = self.form.parameters
            return normal if parameters is None or tool == "" else parameters.arranged(normal)
        except RecursionError:
            self._refuse("$ref", "", "it leads back to itself without end, or is nested too deeply", tool)

    def _added(self, schema: Any, tool: str) -> Any:
        is_arguments = tool != ""
        modern = modernise(schema)
        problem = check_schema(modern)
        if problem is not None:
            self._refuse("type" if "type" in problem[0] else "schema", problem[0], problem[1], tool)
        refused = unsupported(modern, tool, self.engine)
        if refused and self.policy == "refuse":
            first, hint = refused[0]
            raise UnsupportedSchemaError(
                first.keyword,
                first.pointer,
                self.engine,
                hint,
                tool=tool,
                refused=tuple(use for use, _ in refused),
            )
        dropped = [use for use, _ in refused]
        kept, normal = self._enforceable(modern, dropped, tool, is_arguments)
        self.checked += dropped
        notes = unenforced_formats(modern, tool)
        self.annotations += notes
        self.enforced += [use for use, _, _ in keywords(kept, tool) if use not in notes]
        self.validators[tool] = SchemaValidator(modern, self._closed(modern, normal, is_arguments))
        return normal

    def _enforceable(
        self, schema: Any, dropped: list[KeywordUse], tool: str, is_arguments: bool
    ) -> tuple[Any, Any]:
        """Return the schema without refused keywords and its normal form.

        Find each keyword that the engine refuses.
        """
        kept = without(schema, dropped)
        while True:
            try:
                normal = normalise(kept, is_arguments=is_arguments)
                message, suspect = self._problem(normal, is_arguments), None
            except MergeError as error:
                normal, message = None, str(error)
                suspect = _holder(kept, tool, error.pointer)
            except SchemaReferenceError as error:
                self._refuse("$ref", "", str(error), tool)
            if not message:
                return kept, normal
            use = suspect or self._culprit(kept, tool, is_arguments)
            if use is None or self.policy == "refuse":
                where = use or KeywordUse(tool, "", "schema")
                self._refuse(where.keyword, where.pointer, message, tool)
            dropped.append(use)
            kept = without(kept, [use])

    def _problem(self, normal: Any, is_arguments: bool) -> str:
        """Return the reason why a normalised schema cannot be enforced; empty if it can."""
        if not is_arguments:
            return self.backend.schema_error(normal, None)
        parameters = self.form.parameters
        refusal = parameters.problem(normal) if parameters is not None else ""
        return refusal or self.backend.schema_error(normal, self.form)

    def _culprit(self, schema: Any, tool: str, is_arguments: bool) -> KeywordUse | None:
        """Return the keyword whose removal makes the engine accept the schema."""
        uses = [use for use, _, _ in keywords(schema, tool) if use.keyword in _SUSPECTS]
        uses.sort(key=lambda use: (_SUSPECTS.index(use.keyword), -use.pointer.count("/")))
        for use in uses:
            try:
                normal = normalise(without(schema, [use]), is_arguments=is_arguments)
            except (MergeError, SchemaReferenceError):
                continue
            if not self._problem(normal, is_arguments):
                return use
        return None

    def _closed(self, schema: Any, normal: Any, is_arguments: bool) -> Any:
        """Return the closed form with every keyword, for validation."""
        try:
            return normalise(schema, is_arguments=is_arguments)
        except MergeError:
            return normal

    def _refuse(self, keyword: str, pointer: str, hint: str, tool: str) -> NoReturn:
        use = KeywordUse(tool, pointer, keyword)
        raise UnsupportedSchemaError(keyword, pointer, self.engine, hint, tool=tool, refused=(use,))


def _holder(schema: Any, tool: str, pointer: str) -> KeywordUse | None:
    """Return the composition keyword at or above the place where folding failed."""
    uses = [use for use, _, _ in keywords(schema, tool) if use.keyword in ("allOf", "anyOf", "oneOf")]
    above = [use for use in uses if (pointer + "/").startswith(use.pointer.rsplit("/", 1)[0] + "/")]
    return max(above, key=lambda use: len(use.pointer), default=None)


def _refuse_empty(response: Response, form: CallForm, engine: EngineName) -> None:
    """Raise UnsupportedSchemaError for a schema that no finite value satisfies."""
    for option in response.options:
        tagged = option.item if isinstance(option, Calls) else option
        for text, shape in tagged.options if isinstance(tagged, Tagged) else ():
            if shape.cost >= UNREACHABLE:
                tool = text.removeprefix(form.name_prefix).removesuffix(form.name_suffix)
                hint = "no finite value satisfies it; check for contradicting bounds"
                raise UnsupportedSchemaError(
                    "schema", "", engine, hint, tool="" if text == form.result_prefix else tool
                )


def _backend(engine: EngineName, tokens: TokenTable) -> Backend:
    """Return the backend of an engine; the engine is imported here."""
    if engine == "llguidance":
        from modelstack.toolcalls.grammar.llguidance_engine import LLGuidanceBackend

        return LLGuidanceBackend(tokens)
    from modelstack.toolcalls.grammar.lmfe_engine import LMFEBackend

    return LMFEBackend(tokens)


__all__ = ["CompiledGrammar", "GrammarCompiler", "ResponseParseError"]
