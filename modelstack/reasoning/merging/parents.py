"""Who is merged, and whether they may be: of one kind, one base, one architecture and one tokenizer.

Weights of models that were trained apart from their first step lie in unrelated bases of their hidden units, and a
sum of them computes nothing. That two are of one base is read from their stages' records, by hashes. The rest is
read from the models themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelstack.architecture.config import TRAINING_KEYS, ModelConfig
from modelstack.errors import UserError
from modelstack.posttrain.stages.record import Origin
from modelstack.posttrain.stages.stage import ADAPTER, is_stage
from modelstack.posttrain.starting_point import StartingPoint, starting_point
from modelstack.reasoning.merging.recipe import WITHOUT_BASE, MergeRecipe
from modelstack.reasoning.merging.tensor_files import ModelTensors
from modelstack.tokenizer.text_tokenizer import TextTokenizer
from modelstack.tokenizer.tokenizer_folder import load_tokenizer

_FREE_KEYS = {*TRAINING_KEYS, "initializer_range", "bos_token_id", "eos_token_id", "pad_token_id"}
"""Of a config: how a model was trained and how its replies end; what its tensors mean does not hang on them."""


@dataclass(frozen=True, slots=True)
class Parents:
    """What is merged, in the order of the recipe."""

    starts: tuple[StartingPoint, ...]
    base: StartingPoint | None
    """What differences are from, or what adapters go on; None: the method needs none."""
    are_adapters: bool

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Return the parents as the merged stage remembers them; a base that none of them names is one too."""
        own = tuple(start.parent for start in self.starts)
        if self.base is None or any(_ids(self.base) & _ancestry(start) for start in self.starts):
            return own
        return (*own, self.base.parent)

    @property
    def ids(self) -> tuple[str, ...]:
        """Return what each parent is known by."""
        return tuple(start.parent.sha256 for start in self.starts)


def find_parents(recipe: MergeRecipe) -> Parents:
    """Find parents and base.

    Raises:
        UserError: One is not there or damaged, they are of two kinds or of two bases, or the base is missing.
    """
    adapters = [path for path in recipe.parents if (Path(path) / ADAPTER).is_dir()]
    if adapters and len(adapters) < len(recipe.parents):
        other = next(path for path in recipe.parents if path not in adapters)
        raise UserError(
            f"{adapters[0]} is an adapter and {other} a model: merge the adapter into its base first "
            f"(`modelstack stage merge {adapters[0]} OUT`)"
        )
    if recipe.base is None and (adapters or recipe.method not in WITHOUT_BASE):
        what = "what the adapters go on" if adapters else f"what method {recipe.method!r} takes differences from"
        raise UserError(f"recipe key 'base' is missing: {what}, a stage, a checkpoint folder or a GGUF file")
    _check_keys(recipe, bool(adapters))
    base = None if recipe.base is None else starting_point(recipe.base)
    if base is not None and base.stage is not None:
        raise UserError(f"base {recipe.base} is an adapter: name a model")
    starts = tuple(
        starting_point(path, None if base is None or not adapters else base.weights) for path in recipe.parents
    )
    parents = Parents(starts, base, bool(adapters))
    if len(set(parents.ids)) < len(starts):
        raise UserError("two parents are the same, by their hashes: name one of them, with a larger weight")
    if not adapters:  # of an adapter, `starting_point` holds the base's hash against its record
        _check_ancestry(recipe, parents)
    return parents


def require_one_architecture(models: Sequence[tuple[str, ModelTensors]]) -> None:
    """Refuse models that differ in more than their numbers.

    Raises:
        UserError: Keys of the configs differ, or names or shapes of tensors; the first are told.
    """
    (first_path, first), *others = models
    for path, model in others:
        if differing := _differing(first.config, model.config):
            key, one, other = differing[0]
            raise UserError(
                f"{first_path} and {path} are not of one architecture: {key} is {one!r} and {other!r}"
                f"{f', and {len(differing) - 1} more keys differ' if len(differing) > 1 else ''}"
            )
        if odd := sorted(first.facts.keys() ^ model.facts.keys()):
            has, lacks = (first_path, path) if odd[0] in first.facts else (path, first_path)
            raise UserError(f"{has} has a tensor {odd[0]} and {lacks} has not; {len(odd)} are in one of them only")
        for name, facts in first.facts.items():
            if facts.shape != model.facts[name].shape:
                raise UserError(
                    f"{name} has shape {list(facts.shape)} in {first_path} and {list(model.facts[name].shape)} "
                    f"in {path}: only tensors of one shape can be added"
                )


def one_tokenizer(paths: Sequence[Path]) -> TextTokenizer:
    """Return the first model's tokenizer, whose ids mean the same to the others.

    Raises:
        UserError: One of them has no tokenizer, or tokens or merges differ; the first is told.
    """
    first, *others = map(load_tokenizer, paths)
    for path, other in zip(paths[1:], others, strict=True):
        if told := _difference(first, other):
            raise UserError(f"{paths[0]} and {path} do not have one tokenizer: {told}")
    return first


def _check_keys(recipe: MergeRecipe, are_adapters: bool) -> None:
    if recipe.rank is not None and not are_adapters:
        raise UserError("recipe key 'rank' is for parents that are adapters, and these are models: leave it out")
    if recipe.unrecorded and are_adapters:
        raise UserError("recipe key 'unrecorded' is for models: what an adapter goes on is always recorded")


def _check_ancestry(recipe: MergeRecipe, parents: Parents) -> None:
    if recipe.unrecorded:
        return
    told = [_descent(path, start) for path, start in zip(recipe.parents, parents.starts, strict=True)]
    hint = "Name stages for models that are of stages; unrecorded=true takes parents on your word alone"
    if parents.base is None:
        if not set.intersection(*map(_ancestry, parents.starts)):
            raise UserError(
                f"the parents have no ancestor in common, and weights that were not trained from the same ones "
                f"cannot be added: {'; '.join(told)}. {hint}"
            )
        return
    for start, of_one in zip(parents.starts, told, strict=True):
        if not _ids(parents.base) & _ancestry(start):
            raise UserError(
                f"base {recipe.base} ({parents.base.sha256[:12]}) is not what all are of: {of_one}. {hint}"
            )


def _ids(start: StartingPoint) -> set[str]:
    """Return the hashes by which others may know a model: its record's, and its weights'."""
    return {start.parent.sha256, start.sha256}


def _ancestry(start: StartingPoint) -> set[str]:
    """Return the hashes of a model and of all that it came from."""
    return _ids(start) | {origin.sha256 for origin in _line(start.parent)}


def _line(origin: Origin) -> list[Origin]:
    return [origin, *(above for parent in origin.parents for above in _line(parent))]


def _descent(path: str, start: StartingPoint) -> str:
    """Return what is known of where a parent came from, as a sentence."""
    if not is_stage(Path(path)):
        return f"{path} is no stage, and nothing says what it was trained from"
    line = [f"{origin.name} ({origin.sha256[:12]})" for origin in _line(start.parent)[1:]]
    return f"{path} is of {', '.join(dict.fromkeys(line))}"


def _differing(one: ModelConfig, other: ModelConfig) -> list[tuple[str, object, object]]:
    a, b = one.model_dump(exclude=_FREE_KEYS), other.model_dump(exclude=_FREE_KEYS)
    return [(key, a[key], b[key]) for key in a if a[key] != b[key]]


def _difference(one: TextTokenizer, other: TextTokenizer) -> str | None:
    """Return what differs, as a sentence; patterns may be written in different ways and are not compared."""
    tokens, theirs = one.vocabulary.token_bytes, other.vocabulary.token_bytes
    for token, (ours, found) in enumerate(zip(tokens, theirs, strict=False)):
        if ours != found:
            return f"id {token} is {ours!r} and {found!r}"
    if len(tokens) != len(theirs):
        return f"they have {len(tokens):,} and {len(theirs):,} tokens"
    merges, their_merges = (each.description["model"]["merges"] for each in (one, other))
    for place, (pair, found) in enumerate(zip(merges, their_merges, strict=False)):
        if list(pair) != list(found):
            return f"merge {place} is {' '.join(pair)!r} and {' '.join(found)!r}"
    if len(merges) != len(their_merges):
        return f"they have {len(merges):,} and {len(their_merges):,} merges"
    if odd := sorted(one.vocabulary.special_ids ^ other.vocabulary.special_ids):
        return f"token {tokens[odd[0]]!r} is special in one of them only"
    return None
