"""Table of all algorithms, compared with GRPO."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from torch import Tensor

from evals.post_training.off_policy_gradients.fixed_rollout import algorithm_gradient, fixed_rollout
from modelstack.reasoning.losses.algorithms import ALGORITHMS
from modelstack.reasoning.losses.policy_config import PolicyConfig

BASIS = "grpo"


@dataclass(frozen=True, slots=True)
class Row:
    """Results of one algorithm on the fixed rollout."""

    name: str
    norm: float
    """Norm of the off-policy gradient."""
    cosine: float
    """Cosine to GRPO's gradient, off policy."""
    cosine_on_policy: float
    """Cosine to GRPO's gradient if the policy has not changed."""
    differs: str
    """Settings in which its declaration differs from GRPO's."""


def rows() -> list[Row]:
    """Return a row for each algorithm, in the order of their declarations."""
    rollout = fixed_rollout()
    off = {name: algorithm_gradient(rollout, config) for name, config in ALGORITHMS.items()}
    on = {name: algorithm_gradient(rollout, config, on_policy=True) for name, config in ALGORITHMS.items()}
    return [
        Row(
            name,
            float(off[name].norm()),
            _cosine(off[name], off[BASIS]),
            _cosine(on[name], on[BASIS]),
            differences(config, ALGORITHMS[BASIS]),
        )
        for name, config in ALGORITHMS.items()
    ]


def differences(config: PolicyConfig, basis: PolicyConfig) -> str:
    """Return the settings in which one declaration differs from another: `ratio sequence_mean; ...`.

    Numbers of a surrogate are compared only if both have the same surrogate.
    """
    own, other = dict(_settings(config.model_dump())), dict(_settings(basis.model_dump()))
    if config.surrogate.name != basis.surrogate.name:
        own = {key: value for key, value in own.items() if key not in config.surrogate.model_dump()}
    return "; ".join(f"{key} {_shown(value)}" for key, value in own.items() if other.get(key) != value) or "-"


def as_table(found: list[Row]) -> Table:
    """Return the rows as a table for a terminal."""
    table = Table(title="Gradients on one fixed rollout; the policy is 0.5 nats per token from the old policy")
    for heading in ("algorithm", "norm", "cosine", "on policy"):
        table.add_column(heading, justify="left" if heading == "algorithm" else "right", no_wrap=True)
    table.add_column("differences from GRPO")
    for row in found:
        table.add_row(row.name, f"{row.norm:.4f}", f"{row.cosine:.4f}", f"{row.cosine_on_policy:.4f}", row.differs)
    return table


def as_markdown(found: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| algorithm | norm | cosine to GRPO | cosine on policy | differences from GRPO |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.name} | {row.norm:.4f} | {row.cosine:.4f} | {row.cosine_on_policy:.4f} | {row.differs} |"
        for row in found
    ]
    return "\n".join(lines)


def _cosine(one: Tensor, other: Tensor) -> float:
    return float((one * other).sum() / (one.norm() * other.norm()))


def _settings(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if key == "surrogate":
            yield "surrogate", value["name"]
            yield from ((name, number) for name, number in value.items() if name != "name")
        elif key == "kl":
            yield "kl", f"{value['estimator']} in the {value['place']}" if value["coefficient"] else "none"
            if value["coefficient"]:
                yield "kl coefficient", value["coefficient"]
        else:
            yield key, value


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
