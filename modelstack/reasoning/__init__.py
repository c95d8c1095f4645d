"""Step 9, reasoning: verifiers, policy gradients, distillation, merging.

The subpackages in order of dependency, each importing only earlier ones: `worlds`, `verifiers` and `losses`;
`tasks`; `sampling`; `episodes`; `rejection`, `distil`, `policy` (reinforcement learning from verified rewards)
and `rollouts`; `ppo`, which reads tasks and answers held-back ones in the same way. `merging` is independent.
"""
