"""`Loader` of PPO: replies are sampled, judged and turned into experience, then given in minibatches.

The weights change during the passes over a batch of replies. The unused part of the batch is therefore in the
state: a run that is killed within a batch resumes with the same replies.

Letters: N replies of a batch, B rows of a pass, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch
from modelstack.data.order import Order
from modelstack.reasoning.losses.kl_control import next_kl_coefficient
from modelstack.reasoning.ppo.actor_critic import ActorCritic
from modelstack.reasoning.ppo.experience import Experience, experience_of
from modelstack.reasoning.ppo.recipe import PpoRecipe
from modelstack.reasoning.rollouts.judges import Judge
from modelstack.reasoning.rollouts.prompts import Prompts
from modelstack.reasoning.rollouts.reference import Reference
from modelstack.reasoning.sampling.sampled import Sampler
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.sft.loader import SftLoader
from modelstack.tokenizer.chat import ChatEncoder


@dataclass(frozen=True, slots=True, eq=False)
class PpoBatch(Batch):
    """Rows of B replies; labels are the tokens that the policy chose, at the positions that predict them."""

    old_log_probs_BT: Tensor = field(kw_only=True)
    old_values_BT: Tensor = field(kw_only=True)
    advantages_BT: Tensor = field(kw_only=True)
    returns_BT: Tensor = field(kw_only=True)
    figures: Mapping[str, float] = field(kw_only=True)
    """Metrics of the whole batch of replies."""
    mix: Batch | None = field(kw_only=True, default=None)
    """Examples for supervised learning in the same pass."""

    def to(self, device: torch.device) -> PpoBatch:
        """Return the batch unchanged; its tensors are moved to the device one by one on use."""
        return self


class PpoLoader:
    """`Loader` that samples a new batch of replies when the last one is used up."""

    def __init__(
        self,
        sampler: Sampler,
        tasks: Sequence[PolicyTask],
        encoder: ChatEncoder,
        judge: Judge,
        model: ActorCritic,
        reference: Reference,
        recipe: PpoRecipe,
        mix: SftLoader | None = None,
    ) -> None:
        """Initialise before the first batch.

        Args:
            sampler: Sampler of the model's policy.
            tasks: Tasks, used in a new order in each epoch.
            encoder: Encoder that renders prompts.
            judge: Judge of the replies.
            model: Policy and critic in training.
            reference: Reference weights of the KL penalty.
            recipe: Numbers of replies, passes and rows.
            mix: Loader of examples for each batch; None: no examples.

        Raises:
            UserError: There are no tasks.
        """
        self._sampler, self._judge = sampler, judge
        self._prompts = Prompts(tasks, encoder, recipe.seed)
        self._model, self._reference, self._recipe = model, reference, recipe
        self._mix = mix
        self._kl_coefficient = recipe.kl.coefficient
        self._n_sampled = 0
        """Number of batches of replies sampled so far."""
        self._n_tokens = 0
        self._place = 0
        """Number of rows of the current experience given so far, over all passes."""
        self._experience: Experience | None = None

    def __iter__(self) -> Iterator[PpoBatch]:
        """Return the loader."""
        return self

    def __next__(self) -> PpoBatch:
        """Return the next rows; sample new replies if none are left."""
        N, B = self._recipe.sampling.n_replies, self._recipe.rows // self._recipe.micro_batches
        if self._experience is None or self._place == self._recipe.passes * N:
            self._experience, self._place = self._sampled(), 0
        epoch, at = divmod(self._place, N)
        number = (self._n_sampled - 1) * self._recipe.passes + epoch
        order = Order(N, self._recipe.seed, number, "replies")
        rows = torch.tensor([order.document(at + b) for b in range(B)])
        position = number * N + at
        self._place += B
        batch = _rows_of(self._experience, rows, position, None if self._mix is None else next(self._mix))
        self._n_tokens += int((batch.labels_BT != IGNORED).sum())
        return batch

    @property
    def n_tokens(self) -> int:
        """Tokens of replies that were learnt from, counted at each use."""
        return self._n_tokens

    def state_dict(self) -> dict[str, Any]:
        """Return the position, the KL coefficient, and the experience in use."""
        return {
            "n_drawn": self._prompts.n_drawn,
            "n_sampled": self._n_sampled,
            "n_tokens": self._n_tokens,
            "kl_coefficient": self._kl_coefficient,
            "place": self._place,
            "experience": None if self._experience is None else self._experience.state_dict(),
            "mix": None if self._mix is None else self._mix.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state.

        Raises:
            UserError: The state belongs to other examples.
        """
        self._prompts.n_drawn, self._n_sampled = state["n_drawn"], state["n_sampled"]
        self._n_tokens, self._place = state["n_tokens"], state["place"]
        self._kl_coefficient = state["kl_coefficient"]
        self._experience = None if state["experience"] is None else Experience(**state["experience"])
        if self._mix is not None:
            self._mix.load_state_dict(state["mix"])

    def _sampled(self) -> Experience:
        plan = self._recipe.sampling
        asked = [self._prompts.draw() for _ in range(plan.prompts)]
        sampled = self._sampler.sample(asked, plan.group)
        replies = [(one, each) for one, group in zip(asked, sampled, strict=True) for each in group]
        rewards = self._judge.rewards(replies)
        found = experience_of(replies, rewards, self._model, self._reference, self._recipe, self._kl_coefficient)
        self._n_sampled += 1
        if self._recipe.kl.control is not None:
            self._kl_coefficient = next_kl_coefficient(
                self._kl_coefficient, found.figures["kl/reply"], self._recipe.kl.control
            )
        return found


def _rows_of(experience: Experience, rows: Tensor, position: int, mix: Batch | None) -> PpoBatch:
    """Return the batch of some replies, without unnecessary padding."""
    labels_BT = experience.labels_NT[rows]
    has_label_T = (labels_BT != IGNORED).any(0)
    T = int(has_label_T.nonzero()[-1]) + 1 if bool(has_label_T.any()) else 1

    def cut(of_NT: Tensor) -> Tensor:
        return of_NT[rows, :T]

    return PpoBatch(
        cut(experience.ids_NT),
        labels_BT[:, :T],
        torch.zeros((len(rows), T), dtype=torch.int64),
        position,
        old_log_probs_BT=cut(experience.old_log_probs_NT),
        old_values_BT=cut(experience.values_NT),
        advantages_BT=cut(experience.advantages_NT),
        returns_BT=cut(experience.returns_NT),
        figures=experience.figures,
        mix=mix,
    )
