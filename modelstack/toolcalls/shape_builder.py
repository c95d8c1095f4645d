"""Shapes from normalised schemas, with the shortest instance of each.

The shortest instances are found by fixpoint iteration, so that recursive schemas get a finite one.
`largest_steps` bounds by how much one token can raise the price of completing a reply: a budget that keeps
this much in hand can always be kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelstack.toolcalls.completions import complete_number, complete_string
from modelstack.toolcalls.convention import (
    ARGUMENTS_PREFIX,
    CALL_PREFIX,
    RESULT_PREFIX,
    ResponseFormat,
    render_json,
)
from modelstack.toolcalls.regex import Regex, RegexError, compile_regex
from modelstack.toolcalls.shapes import (
    UNREACHABLE,
    Arrays,
    Either,
    LargestSteps,
    Literals,
    Numbers,
    Objects,
    Price,
    Property,
    Response,
    Shape,
    Strings,
    Tagged,
    Text,
)


class ShapeBuilder:
    """Builds the shapes of one format; `price` gives the tokens that a text takes."""

    def __init__(self, price: Price, *, ordered: bool) -> None:
        """Start with no shapes; `ordered` objects take their properties in the order of the schema."""
        self.price = price
        self.ordered = ordered
        self.shapes: list[Shape] = []
        self._any: Shape | None = None

    def response(
        self, response_format: ResponseFormat, schemas: Mapping[str, Any], answer: Any | None
    ) -> Response:
        """Return the shape of a reply; `schemas` maps tool names to normalised parameters."""
        options: list[Shape] = []
        tagged = tuple(
            (f"{CALL_PREFIX}{name}{ARGUMENTS_PREFIX}", self.value(schema)) for name, schema in schemas.items()
        )
        if tagged or response_format.abstain:
            options.append(
                self._add(
                    Arrays(
                        item=self._add(Tagged(options=tagged, is_call=True)) if tagged else None,
                        least=0 if response_format.abstain else 1,
                        most=response_format.call_limit,
                    )
                )
            )
        if answer is not None:
            options.append(self._add(Tagged(options=((RESULT_PREFIX, self.value(answer)),))))
        elif response_format.answer == "text":
            options.append(self._add(Text()))
        response = Response(options=tuple(options))
        self._add(response)
        self.settle()
        return response

    def value(self, schema: Any) -> Shape:
        """Return the shape of a normalised schema with its own `$defs`."""
        root = schema if isinstance(schema, Mapping) else {}
        return self._value(schema, root, {})

    def settle(self) -> None:
        """Find the shortest instance of every shape: repeat until no price falls any more."""
        changed = True
        while changed:
            changed = False
            for shape in self.shapes:
                text = self._shortest(shape)
                if text is None:
                    continue
                cost = self.price(text)
                if cost < shape.cost:
                    shape.text, shape.cost = text, cost
                    changed = True

    def largest_steps(self) -> LargestSteps:
        """Return the most that one token can add to the price of completing a reply."""
        naming, inside = [0], [0]
        for shape in self.shapes:
            steps = naming if isinstance(shape, Tagged | Response) else inside
            if isinstance(shape, Objects):
                steps += [self.price(p.key) + p.shape.cost for p in shape.properties if not p.required]
                steps += [s.cost + 4 for s in (shape.extra, *(s for _, s in shape.patterns)) if s is not None]
            elif isinstance(shape, Arrays):
                steps += [s.cost for s in (*shape.prefix, shape.item) if s is not None]
            elif isinstance(shape, Either):
                steps += [option.cost for option in shape.options]
            elif isinstance(shape, Tagged):
                steps += [self.price(text) + option.cost for text, option in shape.options]
        largest = max(step for step in inside if step < UNREACHABLE)
        return LargestSteps(max(step for step in (*naming, largest) if step < UNREACHABLE), largest)

    def _add(self, shape: Shape) -> Any:
        self.shapes.append(shape)
        return shape

    def _value(self, schema: Any, root: Mapping[str, Any], seen: dict[str, Shape]) -> Shape:
        if schema is False:
            return Shape()
        if schema is True or not set(schema) - {"$defs"}:
            return self._anything()
        if "$ref" in schema:
            name = schema["$ref"].removeprefix("#/$defs/")
            if name not in seen:
                # An Either of one stands in for the target while that is being built: this closes the loop.
                stand_in = self._add(Either())
                seen[name] = stand_in
                stand_in.options = (self._value(root["$defs"][name], root, seen),)
            return seen[name]
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return self._add(Either(options=tuple(self._value(x, root, seen) for x in schema[keyword])))
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else schema["enum"]
            return self._add(Literals(texts=tuple(dict.fromkeys(render_json(value) for value in values))))
        types = schema.get("type", ("object", "array", "string", "number", "boolean", "null"))
        types = (types,) if isinstance(types, str) else tuple(types)
        if "number" in types and "integer" in types:
            types = tuple(t for t in types if t != "integer")
        shapes = tuple(self._typed(name, schema, root, seen) for name in types)
        return shapes[0] if len(shapes) == 1 else self._add(Either(options=shapes))

    def _typed(
        self, name: str, schema: Mapping[str, Any], root: Mapping[str, Any], seen: dict[str, Shape]
    ) -> Shape:
        """Return the shape of `schema` for one type."""
        if name == "string":
            return self._add(
                Strings(least=schema.get("minLength", 0), most=schema.get("maxLength"), regex=_regex(schema))
            )
        if name in ("number", "integer"):
            return self._add(Numbers(integer=name == "integer", bounds=schema))
        if name == "boolean":
            return self._add(Literals(texts=("true", "false")))
        if name == "null":
            return self._add(Literals(texts=("null",)))
        if name == "array":
            items = schema.get("items", True)
            return self._add(
                Arrays(
                    prefix=tuple(self._value(x, root, seen) for x in schema.get("prefixItems", ())),
                    item=None if items is False else self._value(items, root, seen),
                    least=schema.get("minItems", 0),
                    most=schema.get("maxItems"),
                )
            )
        return self._object(schema, root, seen)

    def _object(self, schema: Mapping[str, Any], root: Mapping[str, Any], seen: dict[str, Shape]) -> Shape:
        required = schema.get("required", ())
        extra = schema.get("additionalProperties", True)
        declared = {
            name: sub for name, sub in schema.get("properties", {}).items() if sub is not False or name in required
        }
        # Required but not declared: llguidance puts these behind the declared ones.
        declared.update({name: extra for name in required if name not in declared})
        return self._add(
            Objects(
                properties=tuple(
                    Property(name, render_json(name) + ":", self._value(sub, root, seen), name in required)
                    for name, sub in declared.items()
                ),
                extra=None if extra is False else self._value(extra, root, seen),
                patterns=tuple(
                    (compile_regex(pattern), self._value(sub, root, seen))
                    for pattern, sub in schema.get("patternProperties", {}).items()
                    if _compiles(pattern)
                ),
                ordered=self.ordered,
            )
        )

    def _anything(self) -> Shape:
        """Return the one shape of any JSON value."""
        if self._any is not None:
            return self._any
        either: Either = self._add(Either())
        self._any = either
        either.options = (
            self._add(Literals(texts=("null", "true", "false"))),
            self._add(Numbers()),
            self._add(Strings()),
            self._add(Arrays(item=either)),
            self._add(Objects(extra=either, ordered=self.ordered)),
        )
        return either

    def _shortest(self, shape: Shape) -> str | None:
        """Return a shortest instance by what is known of the parts so far."""
        if isinstance(shape, Literals):
            return min(shape.texts, key=self.price, default=None)
        if isinstance(shape, Strings):
            body = complete_string(shape, None, 0)
            return None if body is None else f'"{body}"'
        if isinstance(shape, Numbers):
            return complete_number(shape, "")
        if isinstance(shape, Text):
            return "0"
        if isinstance(shape, Arrays):
            items = [shape.at(i) for i in range(shape.least)]
            if any(item is None or item.cost >= UNREACHABLE for item in items):
                return None
            return "[" + ",".join(item.text for item in items if item is not None) + "]"
        if isinstance(shape, Objects):
            needed = [p for p in shape.properties if p.required]
            if any(p.shape.cost >= UNREACHABLE for p in needed):
                return None
            return "{" + ",".join(p.key + p.shape.text for p in needed) + "}"
        if isinstance(shape, Tagged):
            found = [(text, option) for text, option in shape.options if option.cost < UNREACHABLE]
            if not found:
                return None
            text, option = min(found, key=lambda pair: self.price(pair[0]) + pair[1].cost)
            return text + option.text + shape.end
        if isinstance(shape, Either):
            found = [option for option in shape.options if option.cost < UNREACHABLE]
            return min(found, key=lambda option: option.cost).text if found else None
        return None


def _compiles(pattern: str) -> bool:
    try:
        compile_regex(pattern)
    except RegexError:
        return False
    return True


def _regex(schema: Mapping[str, Any]) -> Regex | None:
    """Return the automaton of the pattern; one that only the engine understands is left to the engine."""
    pattern = schema.get("pattern")
    return compile_regex(pattern) if isinstance(pattern, str) and _compiles(pattern) else None
