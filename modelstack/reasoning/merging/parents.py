"""The parents of a merge, and the checks that they share kind, base, architecture and tokenizer.

Models trained separately from initialisation have unrelated hidden units, so a sum of their weights is
meaningless. The common base is read from the records of the parents' stages, by hash; the rest is read from the
models themselves.
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
from modelstack.posttrain.weights_by_name import nearest_path_hint
from modelstack.reasoning.merging.recipe import WITHOUT_BASE, MergeRecipe
from modelstack.reasoning.merging.tensor_files import ModelTensors
from modelstack.tokenizer.text_tokenizer import TextTokenizer
from modelstack.tokenizer.tokenizer_folder import load_tokenizer

_FREE_KEYS = {*TRAINING_KEYS, "initializer_range", "bos_token_id", "eos_token_id", "pad_token_id"}
"""Config keys for training and for the end of replies, which do not change the meaning of the tensors."""


@dataclass(frozen=True, slots=True)
class Parents:
    """Models or adapters to merge, in the order of the recipe."""

    starts: tuple[StartingPoint, ...]
    base: StartingPoint | None
    """Base of the differences, or base model of the adapters; None: the method needs none."""
    are_adapters: bool

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Return the parents recorded in the merged stage, plus the base if no parent descends from it."""
        own = tuple(start.parent for start in self.starts)
        if self.base is None or any(_ids(self.base) & _ancestry(start) for start in self.starts):
            return own
        return (*own, self.base.parent)

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the hash that identifies each parent."""
        return tuple(start.parent.sha256 for start in self.starts)


def find_parents(recipe: MergeRecipe) -> Parents:
    """Find the parents and the base of a recipe.

    Raises:
        UserError: A parent is missing or damaged, the parents differ in kind or base, or the recipe lacks a
            base.
    """
    for path in recipe.parents:
        if not Path(path).exists():
            hint = nearest_path_hint(Path(path))
            raise UserError(f"parent {path} is missing: name a stage, a checkpoint folder or a GGUF file{hint}")
    adapters = [path for path in recipe.parents if (Path(path) / ADAPTER).is_dir()]
    if adapters and len(adapters) < len(recipe.parents):
        other = next(path for path in recipe.parents if path not in adapters)
        raise UserError(
            f"{adapters[0]} is an adapter and {other} a model: merge the adapter into its base first "
            f"(`modelstack stage merge {adapters[0]} OUT`)"
        )
    if recipe.base is None and (adapters or recipe.method not in WITHOUT_BASE):
        what = "merged adapters need" if adapters else f"method {recipe.method!r} needs"
        raise UserError(
            f"recipe key 'base' is missing, but {what} it: name a stage, a checkpoint folder or a GGUF file"
        )
    _check_keys(recipe, bool(adapters))
    base = None if recipe.base is None else starting_point(recipe.base)
    if base is not None and base.stage is not None:
        raise UserError(f"base {recipe.base} is an adapter, but a base must be a model: name one")
    starts = tuple(
        starting_point(path, None if base is None or not adapters else base.weights) for path in recipe.parents
    )
    parents = Parents(starts, base, bool(adapters))
    if len(set(parents.ids)) < len(starts):
        raise UserError("two parents have the same hash: name only one of them, with a larger weight")
    if not adapters:  # `starting_point` compares an adapter's recorded base hash itself
        _check_ancestry(recipe, parents)
    return parents


def require_one_architecture(models: Sequence[tuple[str, ModelTensors]]) -> None:
    """Check that models differ in their values only.

    Raises:
        UserError: Config keys, tensor names or tensor shapes differ; the message names the first difference.
    """
    (first_path, first), *others = models
    for path, model in others:
        if differing := _differing(first.config, model.config):
            key, one, other = differing[0]
            raise UserError(
                f"{first_path} and {path} have different architectures: {key} is {one!r} and {other!r}"
                f"{f', and {len(differing) - 1} more keys differ' if len(differing) > 1 else ''}"
            )
        if odd := sorted(first.facts.keys() ^ model.facts.keys()):
            has, lacks = (first_path, path) if odd[0] in first.facts else (path, first_path)
            raise UserError(
                f"{has} has a tensor {odd[0]} that {lacks} lacks; {len(odd)} tensors are in only one of them"
            )
        for name, facts in first.facts.items():
            if facts.shape != model.facts[name].shape:
                raise UserError(
                    f"{name} has shape {list(facts.shape)} in {first_path} and {list(model.facts[name].shape)} "
                    f"in {path}: only tensors of equal shape can be added"
                )


def one_tokenizer(paths: Sequence[Path]) -> TextTokenizer:
    """Return the first model's tokenizer after checking that all models share it.

    Raises:
        UserError: A model has no tokenizer, or tokens or merges differ; the message names the first difference.
    """
    first, *others = map(load_tokenizer, paths)
    for path, other in zip(paths[1:], others, strict=True):
        if told := _difference(first, other):
            raise UserError(f"{paths[0]} and {path} have different tokenizers: {told}")
    return first


def _check_keys(recipe: MergeRecipe, are_adapters: bool) -> None:
    if recipe.rank is not None and not are_adapters:
        raise UserError("recipe key 'rank' is for adapters, but these parents are models: leave it out")
    if recipe.unrecorded and are_adapters:
        raise UserError(
            "recipe key 'unrecorded' is for models, but these parents are adapters, whose base is always "
            "recorded: leave it out"
        )


def _check_ancestry(recipe: MergeRecipe, parents: Parents) -> None:
    if recipe.unrecorded:
        return
    told = [_descent(path, start) for path, start in zip(recipe.parents, parents.starts, strict=True)]
    hint = "If a model comes from a stage, name the stage; unrecorded=true skips this check"
    if parents.base is None:
        if not set.intersection(*map(_ancestry, parents.starts)):
            raise UserError(
                f"the parents have no common ancestor, and weights that were not trained from the same start "
                f"cannot be added: {'; '.join(told)}. {hint}"
            )
        return
    for start, of_one in zip(parents.starts, told, strict=True):
        if not _ids(parents.base) & _ancestry(start):
            raise UserError(
                f"base {recipe.base} ({parents.base.sha256[:12]}) is not an ancestor of all parents: "
                f"{of_one}. {hint}"
            )


def _ids(start: StartingPoint) -> set[str]:
    """Return the hashes that identify a model: that of its record and that of its weights."""
    return {start.parent.sha256, start.sha256}


def _ancestry(start: StartingPoint) -> set[str]:
    """Return the hashes of a model and all its ancestors."""
    return _ids(start) | {origin.sha256 for origin in _line(start.parent)}


def _line(origin: Origin) -> list[Origin]:
    return [origin, *(above for parent in origin.parents for above in _line(parent))]


def _descent(path: str, start: StartingPoint) -> str:
    """Return the known ancestors of a parent, as a sentence."""
    if not is_stage(Path(path)):
        return f"{path} is not a stage, so its ancestors are unknown"
    line = [f"{origin.name} ({origin.sha256[:12]})" for origin in _line(start.parent)[1:]]
    return f"{path} descends from {', '.join(dict.fromkeys(line))}"


def _differing(one: ModelConfig, other: ModelConfig) -> list[tuple[str, object, object]]:
    a, b = one.model_dump(exclude=_FREE_KEYS), other.model_dump(exclude=_FREE_KEYS)
    return [(key, a[key], b[key]) for key in a if a[key] != b[key]]


def _difference(one: TextTokenizer, other: TextTokenizer) -> str | None:
    """Return the first difference as a sentence.

    Split patterns are not compared, since equal ones may be written differently.
    """
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
        return f"token {tokens[odd[0]]!r} is special in only one of them"
    return None
