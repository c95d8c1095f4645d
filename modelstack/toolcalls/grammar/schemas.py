"""Normalisation of JSON Schemas to the form that grammars enforce: composition folded, objects closed.

A tool's parameters (Draft 2020-12) are changed in three ways:
- `allOf`, and `anyOf`/`oneOf` with siblings, are folded into plain nodes, so that all properties of an object are
  in one place. A `oneOf` whose branches exclude each other becomes `anyOf`.
- Objects are CLOSED: an object that declares properties accepts no others unless it has `additionalProperties`.
  With open objects, a weak model invents keys. A nested object without any declaration (`{"type":"object"}`) is a
  free dictionary and stays open.
- Local `$ref`s, including recursive ones, are collected under `$defs`; remote ones are refused, never fetched.

A node without `type` gets the type that its keywords imply (`minLength` implies a string). Annotations and unknown
keywords are dropped. `coverage` decides which keywords an engine can enforce.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelstack.toolcalls.grammar.formats import FORMATS
from modelstack.toolcalls.grammar.pointers import join, target

Schema = Mapping[str, Any] | bool

MAPS_OF_SCHEMAS = ("properties", "patternProperties", "dependentSchemas")
LISTS_OF_SCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems")
SINGLE_SCHEMAS = (
    "items", "additionalProperties", "unevaluatedProperties", "unevaluatedItems",
    "not", "if", "then", "else", "contains", "propertyNames",
)  # fmt: skip
LARGEST = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"}
SMALLEST = {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"}
CONSTRAINTS = frozenset(
    {"type", "enum", "const", "required", "pattern", "format", "multipleOf", "uniqueItems",
     "dependentRequired", "minContains", "maxContains", "$dynamicRef"}
    | LARGEST | SMALLEST | set(MAPS_OF_SCHEMAS) | set(LISTS_OF_SCHEMAS) | set(SINGLE_SCHEMAS)
)  # fmt: skip
_IMPLIED_TYPES = (
    ("object", {"properties", "required", "additionalProperties", "patternProperties",
                "unevaluatedProperties",
                "propertyNames", "minProperties", "maxProperties", "dependentRequired", "dependentSchemas"}),
    ("array", {"items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains",
               "unevaluatedItems"}),
    ("string", {"pattern", "minLength", "maxLength", "format"}),
    ("number", {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
)  # fmt: skip
_MAX_BRANCHES = 64
"""Maximum number of branches from combining two `anyOf`s."""


class MergeError(ValueError):
    """Two schemas that must hold together cannot be written as one node."""

    def __init__(self, keyword: str, pointer: str = "") -> None:
        """Name the keyword that prevents folding."""
        super().__init__(f"{keyword} cannot be folded into one node at {pointer or 'the root'}")
        self.keyword = keyword
        self.pointer = pointer


def normalise(schema: Schema, *, is_arguments: bool) -> dict[str, Any]:
    """Return the closed, folded form of a schema; `is_arguments` makes the root an object.

    Raises:
        MergeError: a composition cannot be folded.
        SchemaReferenceError: a `$ref` is remote or leads nowhere.
    """
    root = schema if isinstance(schema, Mapping) else {}
    folder = _Folder(root)
    if is_arguments:
        head = folder.flat(dict(root) or {"type": "object"}, "")
        head.setdefault("type", "object")
        if "anyOf" not in head and "oneOf" not in head and "patternProperties" not in head:
            head.setdefault("properties", {})
        result = folder.node(head, "")
    else:
        result = folder.node(schema, "")
    folder.finish()
    if isinstance(result, bool):
        return {} if result else {"enum": []}
    if folder.defs:
        result["$defs"] = folder.defs
    return result


def exclusive(left: Schema, right: Schema, root: Any) -> bool:
    """Return whether no value can match both schemas, judged by types, constants and constant properties."""
    try:
        first, second = _Folder(root).flat(left, ""), _Folder(root).flat(right, "")
    except (MergeError, ValueError):
        return False
    if not _share_type(_types(first), _types(second)):
        return True
    ours, theirs = _constants(first), _constants(second)
    if ours is not None and theirs is not None:
        return not any(_same(x, y) for x in ours for y in theirs)
    shared = set(first.get("required", ())) & set(second.get("required", ()))
    if _types(first) != {"object"} or _types(second) != {"object"}:
        return False
    return any(
        exclusive(first.get("properties", {}).get(key, True), second.get("properties", {}).get(key, True), root)
        for key in shared
    )


class _Folder:
    """The state of one normalisation: the document, and the `$defs` collected so far."""

    def __init__(self, root: Any) -> None:
        """Start without references."""
        self.root = root
        self.defs: dict[str, Any] = {}
        self.names: dict[str, str] = {}
        self.waiting: list[str] = []

    def finish(self) -> None:
        """Normalise the targets of all collected references."""
        while self.waiting:
            reference = self.waiting.pop()
            self.defs[self.names[reference]] = self.node(target(reference, self.root), reference.lstrip("#"))

    def node(self, schema: Schema, pointer: str) -> Any:
        """Return the normal form of one subschema."""
        if isinstance(schema, bool):
            return {} if schema else False
        if set(schema) & CONSTRAINTS == set() and isinstance(schema.get("$ref"), str):
            return self._reference(schema["$ref"])
        flat = self.flat(schema, pointer)
        for keyword in ("oneOf", "anyOf"):
            if keyword in flat:
                return self._distribute(flat, keyword, pointer)
        return self._plain(flat, pointer)

    def flat(self, schema: Schema, pointer: str, inside: tuple[str, ...] = ()) -> dict[str, Any]:
        """Fold `allOf` and a `$ref` with siblings into one node; subschemas are not changed."""
        if isinstance(schema, bool):
            return {} if schema else {"enum": []}
        own = {key: value for key, value in schema.items() if key in CONSTRAINTS and key != "allOf"}
        result: dict[str, Any] = {}
        reference = schema.get("$ref")
        if isinstance(reference, str):
            if reference in inside:
                raise MergeError("$ref", pointer)
            inside = (*inside, reference)
            result = self.flat(target(reference, self.root), pointer, inside)
        result = _merge(result, own, pointer)
        for part in schema.get("allOf", ()):
            result = _merge(result, self.flat(part, pointer, inside), pointer)
        return result

    def _reference(self, reference: str) -> dict[str, Any]:
        if reference not in self.names:
            target(reference, self.root)
            self.names[reference] = str(len(self.names))
            self.waiting.append(reference)
        return {"$ref": f"#/$defs/{self.names[reference]}"}

    def _distribute(self, flat: dict[str, Any], keyword: str, pointer: str) -> dict[str, Any]:
        """Merge the siblings of an `anyOf` into each branch, so that each is closed with all its properties."""
        base = {key: value for key, value in flat.items() if key != keyword}
        branches = flat[keyword]
        exact = keyword == "anyOf" or _all_exclusive(branches, base, self.root)
        done = []
        for i, branch in enumerate(branches):
            place = join(pointer, keyword, i)
            if base:
                branch = _merge(base, self.flat(branch, place), place)
            done.append(self.node(branch, place))
        done = [branch for branch in done if branch is not False]
        if len(done) == 1:
            return done[0]
        return {"anyOf" if exact else "oneOf": done}

    def _plain(self, flat: dict[str, Any], pointer: str) -> dict[str, Any]:
        """Normalise the subschemas of a node without composition, infer its type, and close it."""
        node = dict(flat)
        if "type" not in node and "enum" not in node and "const" not in node:
            implied = [name for name, keywords in _IMPLIED_TYPES if keywords & set(node)]
            if implied:
                node["type"] = implied[0]
        _close(node)
        if node.get("uniqueItems") is False:
            del node["uniqueItems"]
        known_format = FORMATS.get(str(node.pop("format", "")))
        if known_format is not None and "string" in _types(node):
            node["format" if "pattern" in node else "pattern"] = (
                flat["format"] if "pattern" in node else known_format
            )
        for key in MAPS_OF_SCHEMAS:
            if key in node:
                node[key] = {k: self.node(v, join(pointer, key, k)) for k, v in node[key].items()}
        for key in SINGLE_SCHEMAS:
            if key in node and not isinstance(node[key], bool):
                node[key] = self.node(node[key], join(pointer, key))
        if "prefixItems" in node:
            node["prefixItems"] = [
                self.node(v, join(pointer, "prefixItems", i)) for i, v in enumerate(node["prefixItems"])
            ]
        return node


def _close(node: dict[str, Any]) -> None:
    """Set `additionalProperties` if the schema does not, and declare its required properties."""
    if "type" not in node or "object" not in _types(node) or "enum" in node or "const" in node:
        return
    if node.get("unevaluatedProperties") is False:
        del node["unevaluatedProperties"]
        node.setdefault("additionalProperties", False)
    declares = "properties" in node or "patternProperties" in node
    if "additionalProperties" not in node:
        node["additionalProperties"] = not declares
    if node["additionalProperties"] is False and node.get("required"):
        properties = dict(node.get("properties", {}))
        for key in node["required"]:
            properties.setdefault(key, {})
        node["properties"] = properties


def _merge(left: dict[str, Any], right: dict[str, Any], pointer: str) -> dict[str, Any]:
    """Return a node that is equivalent to both nodes together."""
    left, right = _fence(left, right), _fence(right, left)
    result = dict(left)
    for key, theirs in right.items():
        if key not in result:
            result[key] = theirs
        elif not _same(result[key], theirs):
            result[key] = _both(key, result[key], theirs, pointer)
    if "const" in result and "enum" in result:
        result["enum"] = [result.pop("const")] if any(_same(result["const"], x) for x in result["enum"]) else []
    return result


def _both(key: str, ours: Any, theirs: Any, pointer: str) -> Any:
    """Return the value of `key` that is equivalent to two different values together."""
    if key == "type":
        return _intersect_types(ours, theirs)
    if key == "required":
        return list(dict.fromkeys([*ours, *theirs]))
    if key == "enum":
        return [x for x in ours if any(_same(x, y) for y in theirs)]
    if key in LARGEST:
        return max(ours, theirs)
    if key in SMALLEST:
        return min(ours, theirs)
    if key in MAPS_OF_SCHEMAS:
        merged = dict(ours)
        for name, schema in theirs.items():
            merged[name] = {"allOf": [merged[name], schema]} if name in merged else schema
        return merged
    if key in ("items", "additionalProperties", "contains", "propertyNames"):
        return False if ours is False or theirs is False else {"allOf": [ours, theirs]}
    if key == "anyOf" and len(ours) * len(theirs) <= _MAX_BRANCHES:
        return [{"allOf": [x, y]} for x in ours for y in theirs]
    raise MergeError(key, pointer)


def _fence(node: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Apply the other node's explicit `additionalProperties` to properties that only this node declares."""
    fence = other.get("additionalProperties", True)
    if fence is True or "properties" not in node or "patternProperties" in other:
        return node
    kept = {}
    for key, schema in node["properties"].items():
        if key in other.get("properties", {}):
            kept[key] = schema
        else:
            kept[key] = False if fence is False else {"allOf": [schema, fence]}
    return {**node, "properties": {key: schema for key, schema in kept.items() if schema is not False}}


def _all_exclusive(branches: list[Any], base: Mapping[str, Any], root: Any) -> bool:
    """Return whether at most one of the branches can match, so that `oneOf` is equivalent to `anyOf`."""
    full = [{"allOf": [base, branch]} for branch in branches] if base else branches
    return all(exclusive(full[i], full[j], root) for i in range(len(full)) for j in range(i))


def _types(node: Mapping[str, Any]) -> set[str]:
    declared = node.get("type")
    if declared is None:
        implied = {name for name, keywords in _IMPLIED_TYPES if keywords & set(node)}
        return implied or {"object", "array", "string", "number", "boolean", "null"}
    return {declared} if isinstance(declared, str) else set(declared)


def _share_type(ours: set[str], theirs: set[str]) -> bool:
    numbers = {"number", "integer"}
    return bool(ours & theirs) or bool(ours & numbers and theirs & numbers)


def _intersect_types(ours: Any, theirs: Any) -> Any:
    first = [ours] if isinstance(ours, str) else list(ours)
    second = [theirs] if isinstance(theirs, str) else list(theirs)
    both = [t for t in first if t in second]
    if ("integer" in first and "number" in second) or ("number" in first and "integer" in second):
        both.append("integer")
    return both[0] if len(both) == 1 else list(dict.fromkeys(both))


def _constants(node: Mapping[str, Any]) -> list[Any] | None:
    return [node["const"]] if "const" in node else node.get("enum")


def _same(left: Any, right: Any) -> bool:
    """Compare as JSON does: 1 equals 1.0, but not true."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(_same(x, y) for x, y in zip(left, right, strict=True))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    return left == right
